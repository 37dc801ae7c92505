"""What a recipe will cost and draw, before any device is there.

Everything is arithmetic on the recipe (no torch, no files but the recipe's tables, the start's config and the counts of
data that are prepared): parameters, optimiser steps, memory of a device, time, and the share of every language where
the sizes of the sources are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mmbert.data.mixture import Mixture
from mmbert.data.plan import BatchStage, batch_stages
from mmbert.errors import ConfigError
from mmbert.estimate.expected_draws import Drawn, draw
from mmbert.estimate.hardware import Machine
from mmbert.estimate.memory import TrainingMemory, training_memory
from mmbert.estimate.shape import model_config
from mmbert.estimate.speed import StepTime, model_flops, shards, step_time
from mmbert.model.config import ModelConfig
from mmbert.model.count import Parameters, parameters
from mmbert.recipe import Phase, Recipe
from mmbert.start_model import resolve
from mmbert.training.schedule import learning_rate

SECONDS_A_DAY = 86_400

PUBLISHED_DAYS = {"mmbert-base": 40.0, "mmbert-small": 10.0}
"""Days on 8 H100 (JHU-CLSP/mmBERT, README: "approximately"), by name of the recipe."""


@dataclass(frozen=True)
class PhasePlan:
    """One phase."""

    name: str
    phase: Phase
    stages: tuple[BatchStage, ...]
    """Stretches of constant batch; their steps add up to the phase's."""
    times: tuple[StepTime, ...]
    """Of a step of each stage."""
    machine: Machine
    first_lr: float
    """After warm-up."""
    last_lr: float
    """At the end of the phase."""
    memory: TrainingMemory
    """Of one device, for one micro-batch."""
    flops: float
    """That training needs, nothing computed twice."""
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

    @property
    def seconds(self) -> float:
        """Of the phase."""
        return sum(stage.steps * time.seconds for stage, time in zip(self.stages, self.times, strict=True))

    @property
    def days(self) -> float:
        """Of the phase."""
        return self.seconds / SECONDS_A_DAY

    @property
    def step(self) -> StepTime:
        """A step of the last stage, of the full batch."""
        return self.times[-1]

    @property
    def tokens_per_second(self) -> float:
        """Of all devices together, in the last stage."""
        return self.stages[-1].batch / self.step.seconds

    @property
    def mfu(self) -> float:
        """Part of all devices' peak that goes into the model, over the phase."""
        return self.flops / self.seconds / (self.machine.world * self.machine.device.bf16)

    @property
    def idle(self) -> float:
        """Part of the devices' places for micro-batches that stay empty in a full step."""
        micro_batches = self.stages[-1].batch // self.phase.micro_batch
        rounds = -(-micro_batches // self.machine.world)
        return 1 - micro_batches / (rounds * self.machine.world)

    @property
    def fits(self) -> bool:
        """Whether the device has the memory."""
        return self.machine.device.memory is None or self.memory.total <= self.machine.device.memory


@dataclass(frozen=True)
class DryRun:
    """A whole recipe, planned."""

    recipe: Recipe
    config: ModelConfig
    parameters: Parameters
    machine: Machine
    length: float | None
    """Of documents in tokens; None: they fill the context."""
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

    @cached_property
    def published(self) -> tuple[float, float] | None:
        """Days the published run took on 8 H100, and what this arithmetic gives for them; None for another recipe."""
        days = PUBLISHED_DAYS.get(self.recipe.name)
        if days is None:
            return None
        default = Machine()
        same = [_times(self.recipe, plan.phase, self.config, default, self.length) for plan in self.phases]
        seconds = sum(
            stage.steps * time.seconds
            for plan, times in zip(self.phases, same, strict=True)
            for stage, time in zip(plan.stages, times, strict=True)
        )
        return days, seconds / SECONDS_A_DAY


def dry_run(
    recipe: Recipe,
    *,
    folder: Path = Path(),
    data: Path | None = None,
    machine: Machine | None = None,
    length: float | None = None,
) -> DryRun:
    """Plan a recipe.

    folder   the recipe's, to which its tables of counts are relative
    data     folder of prepared data, whose sizes are read if they are there; None: tables of counts only
    machine  None: 8 x H100
    length   of documents, in tokens (sum of squares over sum, where they vary); None: they fill the context
    Raises ConfigError if the size of the vocabulary is not known without a tokenizer.
    """
    if length is not None and length < 1:
        raise ConfigError(f"hardware: a length of {length:g} tokens is none: --length is that of a document")
    machine = machine or Machine()
    recipe = resolve(recipe)
    context = max(phase.context for phase in recipe.phases.values())
    config = model_config(recipe, context)
    phases = tuple(_plan_phase(recipe, name, config, folder, data, machine, length) for name in recipe.order())
    return DryRun(recipe, config, parameters(config), machine, length, phases)


def _plan_phase(
    recipe: Recipe,
    name: str,
    config: ModelConfig,
    folder: Path,
    data: Path | None,
    machine: Machine,
    length: float | None,
) -> PhasePlan:
    phase, runtime = recipe.phases[name], recipe.runtime
    drawn, sources, languages, note = draw(recipe, phase, folder, data)
    return PhasePlan(
        name=name,
        phase=phase,
        stages=tuple(batch_stages(phase)),
        times=_times(recipe, phase, config, machine, length),
        machine=machine,
        first_lr=learning_rate(phase, phase.warmup),
        last_lr=learning_rate(phase, phase.tokens),
        memory=training_memory(
            config,
            tokens=phase.micro_batch,
            mask_rate=phase.mask_rate,
            precision="fp32" if runtime.precision == "fp32" else "bf16",
            checkpointing=runtime.gradient_checkpointing,
            device=machine.device.kind,
            shards=shards(runtime, machine),
        ),
        flops=model_flops(config, phase, length) * phase.tokens,
        mixture=drawn,
        sources=sources,
        languages=languages,
        note=note,
    )


def _times(
    recipe: Recipe, phase: Phase, config: ModelConfig, machine: Machine, length: float | None
) -> tuple[StepTime, ...]:
    return tuple(
        step_time(config, phase, recipe.runtime, machine, stage.batch, length=length) for stage in batch_stages(phase)
    )
