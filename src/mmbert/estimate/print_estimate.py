"""The tables that ``mmbert pretrain RECIPE --dry-run`` and ``mmbert estimate`` print."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, fields
from typing import TYPE_CHECKING

from mmbert.data.mixture import CODE, Share
from mmbert.estimate.dry_run import SECONDS_A_DAY, DryRun, PhaseEstimate
from mmbert.estimate.embedding import EmbeddingEstimate
from mmbert.estimate.speed import better_micro_batch, checkpoint_bytes
from mmbert.formatting import count, duration

if TYPE_CHECKING:
    from rich.console import Console

_SCHEDULE = (
    "phase", "follows", "tokens", "context", "theta", "mask", "batch", "steps", "peak lr", "last lr", "decay",
)  # fmt: skip
_STEP_NOTE = (
    "The device does its parts one after another; launches and loader (and FSDP's exchange) run beside it.\n"
    "The slowest of them decides."
)


def print_estimate(plan: DryRun, console: Console | None = None, *, languages: int = 10) -> None:
    """Print an estimate on stdout. ``languages``: so many of the most and half as many of the least drawn a phase."""
    console = console or _console()
    spec, number, phases = plan.config, plan.parameters, plan.phases
    console.print(f"[bold]{plan.recipe.name}[/bold]: {spec.num_layers} layers of {spec.hidden_size}\n", highlight=False)
    rows = [
        ("encoder", f"{number.encoder:,}"),
        ("encoder without embeddings", f"{number.without_embeddings:,}"),
        ("with the masked-language-model head", f"{number.masked_lm:,}"),
    ]
    _show(console, "parameters", ("part", "number"), rows)
    _show(console, "schedule", _SCHEDULE, map(_schedule, phases))
    for each in phases:
        if len(each.stages) > 1:
            ends = [*(stage.begin for stage in each.stages[1:]), each.phase.tokens]
            steps = [(f"{s.batch:,}", f"{s.steps:,}", count(end)) for s, end in zip(each.stages, ends, strict=True)]
            _show(console, f"{each.name}: tokens a step", ("tokens", "steps", "until token"), steps)
    titles: Sequence[str] = ("phase", "micro-batch", *(part.name for part in fields(phases[0].memory)), "in all")
    held = [
        (
            each.name,
            f"{each.phase.micro_batch:,}",
            *(f"{part / 2**30:.2f}" for part in (*astuple(each.memory), each.memory.total)),
        )
        for each in phases
    ]
    _show(console, "memory of a device, GiB", titles, held, _memory_note(plan))
    titles = ("phase", "tokens/s", "a device", "MFU", "FLOPs", "time", "bottleneck")
    _show(console, _speed_title(plan), titles, map(_speed, phases), _speed_note(plan))
    titles = ("phase", *phases[0].step.parts, "device", "launches", "loader")
    _show(console, "time of a full step, ms", titles, map(_step, phases), _STEP_NOTE)
    _show(console, "in all", ("what", "how much"), _totals(plan))
    for each in phases:
        _print_mixture(each, console, languages)


def print_embedding(work: EmbeddingEstimate, console: Console | None = None) -> None:
    """Print what embedding many texts takes, on stdout."""
    console = console or _console()
    spec, device = work.config, work.machine.device
    title = f"{work.texts:,.0f} texts of {work.length:g} tokens on {work.devices} x {device.title}"
    console.print(f"[bold]{spec.num_layers} layers of {spec.hidden_size}[/bold]: {title}\n", highlight=False)
    parts = ", ".join(f"{each.name} {getattr(work.machine.parts, each.name):g}" for each in fields(work.machine.parts))
    note = "Tokens/s of a device: given by --rate." if work.rate else f"Part reached of the published figures: {parts}."
    rows = [
        ("tokens", count(work.tokens)),
        ("tokens/s", count(work.tokens_per_second * work.devices)),
        ("tokens/s of a device", count(work.tokens_per_second)),
        ("time", duration(work.seconds)),
        ("hours", f"{work.seconds / 3600:,.1f}"),
        ("device-hours", f"{work.seconds / 3600 * work.devices:,.1f}"),
    ]
    if work.price is not None:
        rows.append((f"dollars, at {work.price:g} a device and hour, which you gave", f"{work.dollars:,.0f}"))
        rows.append(("dollars per million texts", f"{work.dollars / work.texts * 1e6:,.3g}"))
    rows.append(("cores that tokenise as fast", f"{work.tokenizing_cores:,.1f}"))
    _show(console, "time", ("", ""), rows, note)
    if not work.rate:
        each = work.times
        named = [(name, f"{1e6 * part:.3g}") for name, part in each.parts.items()]
        _show(
            console,
            "microseconds of a device for a token",
            ("part", ""),
            [*named, ("launches, beside", f"{1e6 * each.launches:.3g}")],
        )
    held = [(name, f"{size:,}", f"{size * work.texts / 1e9:,.0f}") for name, size in work.sizes.items()]
    _show(console, f"disk of vectors of {work.width} dimensions", ("form", "bytes a text", "GB"), held)


def _console() -> Console:
    from rich.console import Console

    console = Console(soft_wrap=True)
    return console if console.is_terminal else Console(width=120)  # a file has no width of its own


def _schedule(each: PhaseEstimate) -> Sequence[str]:
    phase = each.phase
    decay = phase.decay.shape.replace("one_minus_", "1-") if phase.decay else "-"
    return (
        each.name, phase.follows or "-", count(phase.tokens), f"{phase.context:,}", f"{phase.rope_theta:,.0f}",
        f"{phase.mask_rate:.0%}", f"{phase.batch:,}", f"{sum(stage.steps for stage in each.stages):,}",
        *(f"{rate:.3g}" for rate in each.learning_rates), decay,
    )  # fmt: skip


def _memory_note(plan: DryRun) -> str:
    device = plan.machine.device
    if device.memory is None:
        return ""
    full = [each.name for each in plan.phases if not each.fits]
    note = f"{device.title}: {device.memory / 2**30:.0f} GiB"
    return note + (f"; too little for {', '.join(full)}: lower micro_batch" if full else "")


def _speed_title(plan: DryRun) -> str:
    machine = plan.machine
    nodes = f"{machine.nodes} x " if machine.nodes > 1 else ""
    return f"speed on {nodes}{machine.devices} x {machine.device.title}, {plan.recipe.runtime.parallel}"


def _speed(each: PhaseEstimate) -> Sequence[str]:
    rate = each.tokens_per_second
    return (
        each.name, count(rate), count(rate / each.machine.world), f"{each.mfu:.0%}", f"{each.flops:.3g}",
        duration(each.seconds), each.step.bottleneck,
    )  # fmt: skip


def _speed_note(plan: DryRun) -> str:
    parts = ", ".join(f"{each.name} {getattr(plan.machine.parts, each.name):g}" for each in fields(plan.machine.parts))
    length = "as long as the context" if plan.length is None else f"of {plan.length:g} tokens"
    advice: dict[str, list[str]] = {}
    for each in plan.phases:
        if each.idle:
            phase, world = each.phase, plan.machine.world
            better = better_micro_batch(phase, world)
            fix = "change batch, or batch_start" if better is None else f"set micro_batch to {better:,}"
            number = phase.batch // phase.micro_batch
            said = f"{each.idle:.0%} idle: {number:,} micro-batches for {world:,} devices; {fix}."
            advice.setdefault(said, []).append(each.name)
    first = f"Part reached of the published figures (--utilisation): {parts}; documents {length} (--length)."
    return "\n".join([first, *(f"{', '.join(names)}: {text}" for text, names in advice.items())])


def _step(each: PhaseEstimate) -> Sequence[str]:
    step = each.step
    times = [1000 * time for time in (*step.parts.values(), step.device, step.launches, step.loader)]
    return each.name, *(f"{time:,.0f}" if time >= 100 else f"{time:.3g}" for time in times)


def _totals(plan: DryRun) -> Iterable[Sequence[str]]:
    merge, every = plan.recipe.merge, plan.recipe.runtime.checkpoint_every
    yield "tokens from the root to the longest end", count(plan.tokens)
    yield "FLOPs of all phases", f"{sum(each.flops for each in plan.phases):.3g}"
    yield "all phases, one after another", duration(plan.days * SECONDS_A_DAY)
    yield "device-hours", count(plan.days * 24 * plan.machine.world)
    if plan.published is not None:
        days, same = plan.published
        yield "check: this recipe on 8 H100, by the same arithmetic, days", f"{same:.3g}"
        yield "check: the published run on 8 H100, days", f"{days:g}"
    seconds = min(every / each.tokens_per_second for each in plan.phases)
    yield "checkpoints, at the most", f"{checkpoint_bytes(plan.config) / 1e9:,.3g} GB every {duration(seconds)}"
    if merge is not None:
        yield "merge", f"{merge.method} of {', '.join(merge.phases)}"


def _print_mixture(each: PhaseEstimate, console: Console, languages: int) -> None:
    if each.mixture is None:
        console.print(f"[bold]{each.name}: mixture[/bold]\n{each.note}\n")
        return
    titles = ("share", "tokens", "epochs")
    _show(console, f"{each.name}: sources", ("source", *titles), map(_share, each.sources))
    natural = sum(share.name != CODE for share in each.languages)
    title = f"{each.name}: {natural:,} languages" + (" and code" if natural < len(each.languages) else "")
    rows = [_share(share) for share in each.languages]
    left_out = len(rows) - languages - languages // 2
    if left_out > 0:
        rows[languages : languages + left_out] = [(f"... {left_out:,} more", "", "", "")]
    title += f", temperature {each.phase.data.temperature:g}"
    _show(console, title, ("language", *titles), rows, each.note)


def _share(share: Share) -> Sequence[str]:
    epochs = "-" if share.epochs is None else f"{share.epochs:.2f}"
    return share.name, f"{100 * share.share:.3g} %", count(share.drawn), epochs


def _show(console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(f"[bold]{title}[/bold]", table, f"[dim]{note}[/dim]\n" if note else "", sep="\n", highlight=False)
