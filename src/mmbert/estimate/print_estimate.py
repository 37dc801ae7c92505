"""A plan on paper: ``mmbert pretrain RECIPE --dry-run``."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from mmbert.data.mixture import CODE
from mmbert.estimate.dry_run import SECONDS_A_DAY, DryRun, PhasePlan
from mmbert.estimate.expected_draws import Drawn
from mmbert.estimate.speed import better_micro_batch, checkpoint_bytes
from mmbert.model.count import Parameters

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_plan(plan: DryRun, console: Console | None = None, *, languages: int = 10) -> None:
    """Show a plan on stdout. ``languages``: so many of the most and half as many of the least drawn a phase."""
    from rich.console import Console

    if console is None:
        console = Console(soft_wrap=True)
        console = console if console.is_terminal else Console(width=120)  # a file has no width of its own
    spec = plan.config
    console.print(f"[bold]{plan.recipe.name}[/bold]: {spec.num_layers} layers of {spec.hidden_size}\n", highlight=False)
    _show(console, "parameters", _parameter_table(plan.parameters))
    _show(console, "schedule", _schedule_table(plan))
    for phase in plan.phases:
        if len(phase.stages) > 1:
            _show(console, f"{phase.name}: tokens a step", _batch_table(phase))
    _show(console, "memory of a device, GiB", _memory_table(plan), _memory_note(plan))
    _show(console, _speed_title(plan), _speed_table(plan), _speed_note(plan))
    _show(console, "time of a full step, ms", _step_table(plan), STEP_NOTE)
    _show(console, "in all", _total_table(plan))
    for phase in plan.phases:
        _print_mixture(phase, console, languages)


def _parameter_table(number: Parameters) -> Table:
    table = _table("part", "number")
    table.add_row("encoder", f"{number.encoder:,}")
    table.add_row("encoder without embeddings", f"{number.without_embeddings:,}")
    table.add_row("with the masked-language-model head", f"{number.masked_lm:,}")
    return table


def _schedule_table(plan: DryRun) -> Table:
    columns = ("follows", "tokens", "context", "theta", "mask", "batch", "steps", "peak lr", "last lr", "decay")
    table = _table("phase", *columns)
    for each in plan.phases:
        phase = each.phase
        table.add_row(
            each.name,
            phase.follows or "-",
            _short(phase.tokens),
            f"{phase.context:,}",
            f"{phase.rope_theta:,.0f}",
            f"{phase.mask_rate:.0%}",
            f"{phase.batch:,}",
            f"{each.steps:,}",
            f"{each.first_lr:.3g}",
            f"{each.last_lr:.3g}",
            phase.decay.shape.replace("one_minus_", "1-") if phase.decay else "-",
        )
    return table


def _batch_table(plan: PhasePlan) -> Table:
    table = _table("tokens", "steps", "until token")
    for stage, following in zip(plan.stages, [*plan.stages[1:], None], strict=True):
        end = plan.phase.tokens if following is None else following.begin
        table.add_row(f"{stage.batch:,}", f"{stage.steps:,}", _short(end))
    return table


def _memory_table(plan: DryRun) -> Table:
    columns = ("micro-batch", "weights", "gradients", "moments", "copies", "activations", "transient", "in all")
    table = _table("phase", *columns)
    for each in plan.phases:
        memory = each.memory
        parts = (
            memory.weights, memory.gradients, memory.moments, memory.copies, memory.activations, memory.transient,
            memory.total,
        )  # fmt: skip
        table.add_row(each.name, f"{each.phase.micro_batch:,}", *(f"{part / 2**30:.2f}" for part in parts))
    return table


def _memory_note(plan: DryRun) -> str:
    device = plan.machine.device
    if device.memory is None:
        return ""
    note = f"{device.title}: {device.memory / 2**30:.0f} GiB"
    full = [each.name for each in plan.phases if not each.fits]
    return note + (f"; too little for {', '.join(full)}: lower micro_batch" if full else "")


def _speed_title(plan: DryRun) -> str:
    machine = plan.machine
    nodes = f"{machine.nodes} x " if machine.nodes > 1 else ""
    return f"speed on {nodes}{machine.devices} x {machine.device.title}, {plan.recipe.runtime.parallel}"


def _speed_table(plan: DryRun) -> Table:
    table = _table("phase", "tokens/s", "a device", "MFU", "FLOPs", "time", "binds")
    for each in plan.phases:
        rate = each.tokens_per_second
        table.add_row(
            each.name, _short(rate), _short(rate / plan.machine.world), f"{each.mfu:.0%}", f"{each.flops:.3g}",
            _duration(each.seconds), each.step.bottleneck,
        )  # fmt: skip
    return table


def _speed_note(plan: DryRun) -> str:
    parts = ", ".join(f"{each.name} {getattr(plan.machine.parts, each.name):g}" for each in fields(plan.machine.parts))
    length = "as long as the context" if plan.length is None else f"of {plan.length:g} tokens"
    lines = [f"Taken of the published figures (--utilisation): {parts}; documents {length} (--length)."]
    advice: dict[str, list[str]] = {}
    for each in plan.phases:
        if each.idle:
            advice.setdefault(_micro_batch_advice(each), []).append(each.name)
    return "\n".join([*lines, *(f"{', '.join(names)}: {text}" for text, names in advice.items())])


def _micro_batch_advice(plan: PhasePlan) -> str:
    phase, world = plan.phase, plan.machine.world
    better = better_micro_batch(phase, world)
    fix = "change batch, or batch_start" if better is None else f"set micro_batch to {better:,}"
    return f"{plan.idle:.0%} idle: {phase.batch // phase.micro_batch:,} micro-batches for {world:,} devices; {fix}."


STEP_NOTE = (
    "The device does its parts one after another; launches and loader (and FSDP's exchange) run beside it.\n"
    "The slowest of them decides."
)


def _step_table(plan: DryRun) -> Table:
    first = plan.phases[0].step
    table = _table("phase", *first.parts, "device", "launches", "loader")
    for each in plan.phases:
        step = each.step
        times = (*step.parts.values(), step.device, step.launches, step.loader)
        table.add_row(each.name, *(_short_ms(time) for time in times))
    return table


def _short_ms(seconds: float) -> str:
    milliseconds = 1000 * seconds
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def _duration(seconds: float) -> str:
    """In the unit that leaves one to three figures before the point."""
    for size, name in ((2 * 86_400, "days"), (2 * 3600, "h"), (2 * 60, "min")):
        if seconds >= size:
            return f"{2 * seconds / size:,.3g} {name}"
    return f"{seconds:.3g} s"


def _total_table(plan: DryRun) -> Table:
    merge, every = plan.recipe.merge, plan.recipe.runtime.checkpoint_every
    table = _table("what", "how much")
    table.add_row("tokens from the root to the longest end", _short(plan.tokens))
    table.add_row("FLOPs of all phases", f"{plan.flops:.3g}")
    table.add_row("all phases, one after another", _duration(plan.days * SECONDS_A_DAY))
    table.add_row("device-hours", _short(plan.days * 24 * plan.machine.world))
    if plan.published is not None:
        days, same = plan.published
        table.add_row("check: this recipe on 8 H100, by the same arithmetic, days", f"{same:.3g}")
        table.add_row("check: the published run on 8 H100, days", f"{days:g}")
    seconds = min(every / each.tokens_per_second for each in plan.phases)
    size = f"{checkpoint_bytes(plan.config) / 1e9:,.3g} GB every {_duration(seconds)}"
    table.add_row("checkpoints, at the most", size)
    if merge is not None:
        table.add_row("merge", f"{merge.method} of {', '.join(merge.phases)}")
    return table


def _print_mixture(plan: PhasePlan, console: Console, languages: int) -> None:
    if plan.mixture is None:
        console.print(f"[bold]{plan.name}: mixture[/bold]\n{plan.note}\n")
        return
    table = _table("source", "share", "tokens", "epochs")
    for drawn in plan.sources:
        table.add_row(*_cells(drawn))
    _show(console, f"{plan.name}: sources", table)
    natural = sum(drawn.name != CODE for drawn in plan.languages)
    title = f"{plan.name}: {natural:,} languages" + (" and code" if natural < len(plan.languages) else "")
    table = _table("language", "share", "tokens", "epochs")
    left_out = len(plan.languages) - languages - languages // 2
    for place, drawn in enumerate(plan.languages):
        if left_out > 0 and place == languages:
            table.add_row(f"... {left_out:,} more", "", "", "")
        if not languages <= place < languages + left_out:
            table.add_row(*_cells(drawn))
    _show(console, f"{title}, temperature {plan.phase.data.temperature:g}", table, plan.note)


def _show(console: Console, title: str, table: Table, note: str = "") -> None:
    console.print(f"[bold]{title}[/bold]", table, f"[dim]{note}[/dim]\n" if note else "", sep="\n", highlight=False)


def _cells(drawn: Drawn) -> tuple[str, str, str, str]:
    epochs = "-" if drawn.epochs is None else f"{drawn.epochs:.2f}"
    return drawn.name, f"{100 * drawn.share:.3g} %", _short(drawn.tokens), epochs


def _table(first: str, *others: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(first, no_wrap=True)
    for column in others:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _short(count: float) -> str:
    """A count as a recipe writes it: 2.3T, 302.7B, 512."""
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.4g}{suffix}"
    return f"{count:.4g}"
