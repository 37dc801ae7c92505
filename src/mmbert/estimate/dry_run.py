"""What a recipe will cost and draw, before any device is there: ``mmbert pretrain RECIPE --dry-run``.

Everything is arithmetic on the recipe (no torch, no files but the recipe's tables, the start's config and the counts of
data that are prepared): parameters, optimiser steps, memory of a device, time, and the share of every language where
the sizes of the sources are known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from mmbert.data.counts import counts_sizes
from mmbert.data.manifest import FILE, Manifest
from mmbert.data.mixture import Mixture, Share, Sizes, mixture
from mmbert.data.plan import BatchStage, batch_stages
from mmbert.data.store import report_path, text_sizes
from mmbert.errors import ConfigError, DataError
from mmbert.estimate.hardware import Machine
from mmbert.estimate.memory import TrainingMemory, training_memory
from mmbert.estimate.speed import StepTime, shards, step_time
from mmbert.files import read_json
from mmbert.model.config import ModelConfig
from mmbert.model.count import Parameters, flops_per_token, parameters
from mmbert.recipe import Phase, Recipe, TokenizerTraining
from mmbert.start_model import resolve
from mmbert.training.schedule import learning_rate

SECONDS_A_DAY = 86_400

PUBLISHED_DAYS = {"mmbert-base": 40.0, "mmbert-small": 10.0}
"""Days on 8 H100 (JHU-CLSP/mmBERT, README: "approximately"), by name of the recipe."""


@dataclass(frozen=True)
class PhaseEstimate:
    """One phase: its schedule, memory, time and mixture."""

    name: str
    phase: Phase
    stages: tuple[BatchStage, ...]
    """Stretches of constant batch; their steps add up to the phase's."""
    times: tuple[StepTime, ...]
    """Of a step of each stage."""
    machine: Machine
    memory: TrainingMemory
    """Of one device, for one micro-batch."""
    flops: float
    """That training needs, nothing computed twice: what MFU is measured by."""
    mixture: Mixture | None
    """None without known sizes."""
    texts: Sizes | None
    """Tokens that an epoch of each stream goes through; None: the mixture's own sizes."""
    note: str
    """Why there is no mixture, or what its epochs are relative to."""

    @cached_property
    def sources(self) -> list[Share]:
        """Largest share first; empty without a mixture."""
        return [] if self.mixture is None else self.mixture.totals("source", self.texts)

    @cached_property
    def languages(self) -> list[Share]:
        """Largest share first; empty without a mixture."""
        return [] if self.mixture is None else self.mixture.totals("language", self.texts)

    @property
    def learning_rates(self) -> tuple[float, float]:
        """After warm-up, and at the end of the phase."""
        return learning_rate(self.phase, self.phase.warmup), learning_rate(self.phase, self.phase.tokens)

    @property
    def seconds(self) -> float:
        return sum(stage.steps * time.seconds for stage, time in zip(self.stages, self.times, strict=True))

    @property
    def days(self) -> float:
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
        rounds = -(-micro_batches // self.machine.world)  # all wait for the device that has most of them
        return 1 - micro_batches / (rounds * self.machine.world)

    @property
    def fits(self) -> bool:
        """Whether the device has the memory."""
        return self.machine.device.memory is None or self.memory.total <= self.machine.device.memory


@dataclass(frozen=True)
class DryRun:
    """A whole recipe, estimated; ``phases`` in the order they run."""

    recipe: Recipe
    config: ModelConfig
    parameters: Parameters
    machine: Machine
    length: float | None
    """Of documents in tokens; None: they fill the context."""
    phases: tuple[PhaseEstimate, ...]

    @property
    def tokens(self) -> int:
        """Tokens trained on by the model that is farthest from the root (of parallel decays one counts)."""
        longest: dict[str, int] = {}
        for each in self.phases:
            longest[each.name] = longest.get(each.phase.follows or "", 0) + each.phase.tokens
        return max(longest.values())

    @property
    def days(self) -> float:
        """All phases, one after another."""
        return sum(each.days for each in self.phases)

    @cached_property
    def published(self) -> tuple[float, float] | None:
        """Days the published run took on 8 H100, and what this arithmetic gives for them; None for another recipe."""
        days = PUBLISHED_DAYS.get(self.recipe.name)
        if days is None:
            return None
        there = Machine()  # 8 x H100 in one node
        phases = [
            replace(each, machine=there, times=_times(self.recipe, each.phase, self.config, there, self.length))
            for each in self.phases
        ]
        return days, sum(each.days for each in phases)


def dry_run(
    recipe: Recipe,
    *,
    folder: Path = Path(),
    data: Path | None = None,
    machine: Machine | None = None,
    length: float | None = None,
) -> DryRun:
    """Estimate a recipe.

    folder   the recipe's, to which its tables of counts are relative
    data     folder of prepared data, whose sizes are read if they are there; None: tables of counts only
    machine  None: 8 x H100
    length   of documents, in tokens (sum of squares over sum, where they vary); None: they fill the context
    Raises ConfigError if the size of the vocabulary is not known without a tokenizer.
    """
    if length is not None and length < 1:
        raise ConfigError(f"--length {length:g} is no length: give the tokens of a document, 1 or more")
    machine = machine or Machine()
    recipe = resolve(recipe)
    shape = recipe.shape.model_dump(include=set(ModelConfig.model_fields), exclude_none=True)
    last = recipe.phases[recipe.order()[-1]]
    context = max(phase.context for phase in recipe.phases.values())
    config = ModelConfig(**{**shape, **last.rotary, "vocab_size": _vocab_size(recipe), "max_context": context})
    phases = []
    for name in recipe.order():
        phase, runtime = recipe.phases[name], recipe.runtime
        drawn, texts, note = _mixture(recipe, phase, folder, data)
        flops = flops_per_token(config, min(length or phase.context, phase.context), mask_rate=phase.mask_rate)
        memory = training_memory(
            config,
            tokens=phase.micro_batch,
            mask_rate=phase.mask_rate,
            precision="fp32" if runtime.precision == "fp32" else "bf16",
            checkpointing=runtime.gradient_checkpointing,
            device=machine.device.kind,
            shards=shards(runtime, machine),
        )
        times = _times(recipe, phase, config, machine, length)
        needed = flops.training * phase.tokens
        stages = tuple(batch_stages(phase))
        phases.append(PhaseEstimate(name, phase, stages, times, machine, memory, needed, drawn, texts, note))
    return DryRun(recipe, config, parameters(config), machine, length, tuple(phases))


def _times(
    recipe: Recipe, phase: Phase, config: ModelConfig, machine: Machine, length: float | None
) -> tuple[StepTime, ...]:
    return tuple(
        step_time(config, phase, recipe.runtime, machine, stage.batch, length=length) for stage in batch_stages(phase)
    )


def _vocab_size(recipe: Recipe) -> int:
    """The size of the vocabulary before the tokenizer is there."""
    if recipe.shape.vocab_size is not None:
        return recipe.shape.vocab_size
    if isinstance(recipe.vocabulary, TokenizerTraining):
        return recipe.vocabulary.vocab_size
    path = Path(recipe.vocabulary) / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(f"the vocabulary of {recipe.vocabulary} is not known unless fetched: set model.vocab_size")
    content = read_json(path)
    vocab = content["model"]["vocab"]
    known = range(len(vocab)) if isinstance(vocab, list) else vocab.values()  # a Unigram model has a list
    ids = [*known, *(token["id"] for token in content.get("added_tokens", []))]
    return int(max(ids)) + 1


def _mixture(recipe: Recipe, phase: Phase, folder: Path, data: Path | None) -> tuple[Mixture | None, Sizes | None, str]:
    """The mixture from the sizes that are known, the tokens of each stream's epoch if other than those, and a note.

    Sizes are those of the shards in ``data``, or as long as there are none of its text, else the recipe's counts.
    """
    try:
        if data is not None and (data / "shards" / FILE).is_file():
            tokens = Manifest.read(data / "shards").sizes()
            return mixture(phase, tokens), None, f"sizes and epochs are of the shards in {data}"
        if data is not None and report_path(data).is_file():
            characters = text_sizes(data)
            drawn = mixture(phase, characters, relative={source for source, _ in characters})
            return drawn, None, f"shares are of the characters in {data}: epochs are known when shards are made"
        known = counts_sizes(phase, recipe.sources, folder)
        drawn = mixture(phase, known.sizes, relative=known.relative)
    except (ConfigError, DataError) as error:
        return None, None, str(error)
    budgets = phase.data.mixture or {}
    texts: dict[tuple[str, str], float] = {}
    for (source, language), size in known.sizes.items():
        counts = budgets[source].counts
        # what was published is the sampled set: its own size is known, that of all text only up to a factor
        texts[source, language] = size if counts is None else size**counts.drawn_at
    note = "epochs are of the published, already sampled set" if known.relative else "epochs are of all text there is"
    return drawn, texts, note
