"""What a recipe will cost and draw, before any data or device is there: ``mmbert pretrain RECIPE --dry-run``.

Everything is arithmetic on the recipe (no torch, no files but the recipe's own tables): parameters, optimiser steps,
memory of a device, floating-point operations, days on given hardware, and the share of every language where the sizes
of the sources are known. :func:`dry_run` computes the plan, :func:`print_plan` shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbert.data.counts import counts_sizes
from mmbert.data.mixture import CODE, Mixture, mixture
from mmbert.data.plan import Stage, stages
from mmbert.errors import ConfigError
from mmbert.files import read_json
from mmbert.model.config import ModelConfig
from mmbert.model.count import Parameters, TrainingMemory, flops_per_token, parameters, training_memory
from mmbert.recipe import Phase, Recipe, TokenizerTraining
from mmbert.recipe_file import editor_schema
from mmbert.training.schedule import learning_rate

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

SECONDS_A_DAY = 86_400

PUBLISHED_DAYS = {"mmbert-base": 40.0, "mmbert-small": 10.0}
"""Days on 8 H100 (JHU-CLSP/mmBERT, README), by name of the recipe."""


@dataclass(frozen=True)
class Hardware:
    """Machines to plan for. The default is the published run's: 8 x H100 (dense bf16)."""

    devices: int = 8
    tflops: float = 990.0
    """Peak of one device in 10^12 operations a second."""
    mfu: float = 0.4
    """Part of the peak that training reaches."""

    def __post_init__(self) -> None:
        if self.devices < 1 or self.tflops <= 0 or not 0 < self.mfu <= 1:
            raise ConfigError("hardware: devices must be at least 1, tflops above 0 and mfu in (0, 1]")

    def days(self, flops: float) -> float:
        """Time for so many operations."""
        return flops / (self.devices * self.tflops * 1e12 * self.mfu) / SECONDS_A_DAY


@dataclass(frozen=True)
class Drawn:
    """What a phase draws of one source or one language."""

    name: str
    share: float
    tokens: float
    epochs: float | None
    """How often the text there is gone through; None if its size is not known."""


@dataclass(frozen=True)
class PhasePlan:
    """One phase."""

    name: str
    phase: Phase
    stages: tuple[Stage, ...]
    """Stretches of constant batch; their steps add up to the phase's."""
    first_lr: float
    """After warm-up."""
    last_lr: float
    """At the end of the phase."""
    memory: TrainingMemory
    """Of one device, for one micro-batch."""
    flops: float
    days: float
    mixture: Mixture | None
    """None without known sizes."""
    sources: tuple[Drawn, ...]
    """Largest share first; empty without a mixture."""
    languages: tuple[Drawn, ...]
    """Largest share first; empty without a mixture."""
    note: str
    """Why there is no mixture, or what its epochs are relative to."""

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return sum(stage.steps for stage in self.stages)


@dataclass(frozen=True)
class DryRun:
    """A whole recipe, planned."""

    recipe: Recipe
    config: ModelConfig
    parameters: Parameters
    hardware: Hardware
    phases: tuple[PhasePlan, ...]
    """In the order they run."""

    @property
    def tokens(self) -> int:
        """Tokens trained on by the model that is farthest from the root (of parallel decays one counts)."""
        longest: dict[str, int] = {}
        for plan in self.phases:
            longest[plan.name] = longest.get(plan.phase.follows or "", 0) + plan.phase.tokens
        return max(longest.values())

    @property
    def flops(self) -> float:
        """Of all phases."""
        return sum(plan.flops for plan in self.phases)

    @property
    def days(self) -> float:
        """Of all phases, one after another."""
        return sum(plan.days for plan in self.phases)

    @property
    def published(self) -> tuple[float, float] | None:
        """Days the published run took on 8 H100 and the part of their peak that this is; None for another recipe."""
        days = PUBLISHED_DAYS.get(self.recipe.name)
        if days is None:
            return None
        return days, Hardware(mfu=1.0).days(self.flops) / days


def dry_run(recipe: Recipe, *, folder: Path = Path(), hardware: Hardware = Hardware()) -> DryRun:
    """Plan a recipe. ``folder`` is the recipe's, to which its tables of counts are relative.

    Raises ConfigError if the size of the vocabulary is not known without a tokenizer.
    """
    names = recipe.order()
    context = max(phase.context for phase in recipe.phases.values())
    config = model_config(recipe, context)
    phases = tuple(_plan_phase(recipe, name, config, folder, hardware) for name in names)
    return DryRun(recipe, config, parameters(config), hardware, phases)


def model_config(recipe: Recipe, context: int) -> ModelConfig:
    """The encoder's shape; its rotary bases are those of the last phase."""
    spec = recipe.model
    phase = recipe.phases[recipe.order()[-1]]
    return ModelConfig(
        vocab_size=_vocabulary(recipe),
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_layers=spec.num_layers,
        num_heads=spec.num_heads,
        global_every=spec.global_every,
        window=spec.window,
        rope_theta=phase.rope_theta,
        local_rope_theta=phase.local_rope_theta or phase.rope_theta,
        max_context=context,
        attention_out_dropout=spec.attention_out_dropout,
    )


def _vocabulary(recipe: Recipe) -> int:
    if recipe.model.vocab_size is not None:
        return recipe.model.vocab_size
    if isinstance(recipe.tokenizer, TokenizerTraining):
        return recipe.tokenizer.vocab_size
    config = Path(recipe.tokenizer) / "tokenizer.json"
    if not config.is_file():
        raise ConfigError(f"the vocabulary of {recipe.tokenizer} is not known unless fetched: set model.vocab_size")
    content = read_json(config)
    ids = [*content["model"]["vocab"].values(), *(token["id"] for token in content.get("added_tokens", []))]
    return int(max(ids)) + 1


def _plan_phase(recipe: Recipe, name: str, config: ModelConfig, folder: Path, hardware: Hardware) -> PhasePlan:
    phase, runtime = recipe.phases[name], recipe.runtime
    operations = flops_per_token(
        config, phase.context, mask_rate=phase.mask_rate, checkpointing=runtime.gradient_checkpointing
    )
    flops = operations.training * phase.tokens
    drawn, sources, languages, note = _draw(recipe, phase, folder)
    return PhasePlan(
        name=name,
        phase=phase,
        stages=tuple(stages(phase)),
        first_lr=learning_rate(phase, phase.warmup),
        last_lr=learning_rate(phase, phase.tokens),
        memory=_memory(recipe, phase, config, hardware),
        flops=flops,
        days=hardware.days(flops),
        mixture=drawn,
        sources=sources,
        languages=languages,
        note=note,
    )


def _memory(recipe: Recipe, phase: Phase, config: ModelConfig, hardware: Hardware) -> TrainingMemory:
    """Of one device; sharding divides weights, gradients and moments over all of them."""
    runtime = recipe.runtime
    whole = training_memory(
        config,
        tokens=phase.micro_batch,
        mask_rate=phase.mask_rate,
        precision="fp32" if runtime.precision == "fp32" else "bf16",
        checkpointing=runtime.gradient_checkpointing,
        device="cpu" if runtime.device == "cpu" else "cuda",
    )
    if runtime.parallel == "ddp":
        return whole
    parts = hardware.devices
    return TrainingMemory(whole.weights // parts, whole.gradients // parts, whole.moments // parts, whole.activations)


def _draw(
    recipe: Recipe, phase: Phase, folder: Path
) -> tuple[Mixture | None, tuple[Drawn, ...], tuple[Drawn, ...], str]:
    """The mixture of a phase, summed over sources and over languages, from sizes that are known without data."""
    try:
        known = counts_sizes(phase, recipe.sources, folder)
        drawn = mixture(phase, known.sizes, relative=known.relative)
    except ConfigError as error:
        return None, (), (), str(error)
    budgets = phase.data.mixture or {}
    texts: dict[tuple[str, str], float] = {}
    for (source, language), size in known.sizes.items():
        counts = budgets[source].counts
        # what was published is the sampled set: its own size is known, that of all text only up to a factor
        texts[source, language] = size if counts is None else size**counts.drawn_at
    by_source: dict[str, list[float]] = {}
    by_language: dict[str, list[float]] = {}
    for stream in drawn.streams:
        for sums, key in ((by_source, stream.source), (by_language, stream.language)):
            entry = sums.setdefault(key, [0.0, 0.0])
            entry[0] += stream.share
            entry[1] += texts[stream.source, stream.language]
    note = "epochs are of the published, already sampled set" if known.relative else "epochs are of all text there is"
    return drawn, _sorted(by_source, phase.tokens), _sorted(by_language, phase.tokens), note


def _sorted(sums: dict[str, list[float]], tokens: int) -> tuple[Drawn, ...]:
    drawn = []
    for name, (share, size) in sums.items():
        drawn.append(Drawn(name, share, share * tokens, share * tokens / size if size else None))
    return tuple(sorted(drawn, key=lambda each: (-each.share, each.name)))


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
    _show(console, "cost", _cost_table(plan), "memory of one micro-batch; FLOPs if every document fills the context")
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


def _cost_table(plan: DryRun) -> Table:
    table = _table("phase", "weights", "gradients", "moments", "activations", "GiB a device", "FLOPs", "days")
    for each in plan.phases:
        memory = each.memory
        parts = (memory.weights, memory.gradients, memory.moments, memory.activations, memory.total)
        sizes = [f"{part / 2**30:.2f}" for part in parts]
        table.add_row(each.name, *sizes, f"{each.flops:.3g}", f"{each.days:.3g}")
    return table


def _total_table(plan: DryRun) -> Table:
    hardware, merge = plan.hardware, plan.recipe.merge
    peak = f"{hardware.devices} x {hardware.tflops:g} TFLOP/s"
    table = _table("what", "how much")
    table.add_row("tokens from the root to the longest end", _short(plan.tokens))
    table.add_row("FLOPs of all phases", f"{plan.flops:.3g}")
    table.add_row(f"days on {peak} at MFU {hardware.mfu:.0%}", f"{plan.days:.3g}")
    if plan.published is not None:
        days, mfu = plan.published
        table.add_row("days of the published run on 8 H100", f"{days:g}")
        table.add_row("MFU that this implies (of 990 TFLOP/s)", f"{mfu:.0%}")
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


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe file, for editors and linters: ``mmbert doctor --schema recipe.schema.json``."""
    return editor_schema(Recipe.model_json_schema())
