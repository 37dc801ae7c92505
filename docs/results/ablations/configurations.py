"""The configurations of the ablations: recipes that differ in the languages, temperatures and mask rates of phases.

Every recipe has the tokenizer, shape, batch, contexts and learning rates of ``annealed.yaml``, and the same number of
training tokens over all its phases. Phases have the same names everywhere, because the order of data and the masks are
functions of (seed, phase, position). So two configurations that agree in a phase see the same data in it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mmbert.errors import ConfigError
from mmbert.recipe import Recipe

BASE = Path(__file__).parent / "annealed.yaml"
STEP = 4096
"""Tokens per step, in every phase."""
STEPS = {"pretrain": 488, "extend": 732, "decay_all": 2198}
"""Of ``annealed.yaml``; 3,418 in all."""
STAGES = tuple(STEPS)
SHORT = ("decay_cont", "decay_eng")
SHORT_STEPS = 122
"""Of each of the two short decays that are merged; decay_all gives them up."""
EPOCHS = 5.0
"""How often a language may be repeated: in each phase as in the recipe ``corpus``; where all languages are drawn from
the start, in the whole run. A language of the last tier is then repeated at most this often in every configuration."""

MEANING = {
    "annealed": "12, 80, then all languages; temperature 0.7, 0.5, 0.3; mask rate 0.30, 0.25, 0.20",
    "all-0.5": "all languages in every phase, temperature 0.5; mask rates as annealed",
    "all-0.3": "all languages in every phase, temperature 0.3; mask rates as annealed",
    "stages-0.5": "languages as annealed, temperature 0.5 in every phase; mask rates as annealed",
    "mask-20": "languages and temperatures as annealed; mask rate 0.20 in every phase",
    "mask-30": "languages and temperatures as annealed; mask rate 0.30 in every phase",
    "mask-rising": "languages and temperatures as annealed; mask rate 0.20, 0.25, 0.30",
    "ties": "as annealed, but decay_all gives 1M tokens to two short decays, and TIES merges the three",
}
"""Configuration -> what it is."""
CONFIGURATIONS = tuple(MEANING)
REFERENCE = "annealed"


def recipe(configuration: str, seed: int, sources: list[str], steps: int | None = None) -> Recipe:
    """Return the recipe of a configuration.

    sources  overrides that say where text is, such as ``sources.corpus.path=CORPUS``
    steps    of all phases together, to try the script; null: those of ``annealed.yaml``

    Raises ConfigError for an unknown configuration, or so few steps that a phase has none.
    """
    if configuration not in MEANING:
        raise ConfigError(f"no configuration {configuration}: there are {', '.join(CONFIGURATIONS)}")
    lengths = _lengths(configuration, steps)
    overrides = [*sources, f"name={configuration}", f"seed={seed}", *_lengths_overrides(lengths)]
    return Recipe.load(BASE, [*overrides, *_changes(configuration, lengths)])


def tokens_of(configuration: Recipe) -> int:
    """Return the training tokens of all phases together, short decays included."""
    return sum(phase.tokens for phase in configuration.phases.values())


def _lengths(configuration: str, steps: int | None) -> dict[str, int]:
    """Return the steps of each phase."""
    whole = sum(STEPS.values())
    steps = whole if steps is None else steps
    lengths = {name: max(1, round(STEPS[name] * steps / whole)) for name in ("pretrain", "extend")}
    short = max(1, round(SHORT_STEPS * steps / whole))
    if configuration == "ties":
        lengths |= dict.fromkeys(SHORT, short)
    # The remainder, so that the sum is the same for all.
    lengths["decay_all"] = steps - sum(lengths.values())
    if lengths["decay_all"] < 2:
        raise ConfigError(f"{steps} steps are too few for the phases of {configuration}: take 10 or more")
    return lengths


def _lengths_overrides(lengths: dict[str, int]) -> list[str]:
    steps = sum(lengths.values())
    overrides = [f"phases.{name}.tokens={lengths[name] * STEP}" for name in STAGES]
    overrides.append(f"phases.decay_all.decay.tokens={lengths['decay_all'] // 2 * STEP}")
    if steps != sum(STEPS.values()):
        overrides.append(f"phases.pretrain.warmup={min(25, lengths['pretrain']) * STEP}")
        overrides.append(f"runtime.checkpoint_every={max(1, steps // 14) * STEP}")
    return overrides


def _changes(configuration: str, lengths: dict[str, int]) -> list[str]:
    """Return what a configuration changes in the annealed one, as overrides."""
    if configuration.startswith("all-"):
        temperature, steps = configuration.removeprefix("all-"), sum(lengths.values())
        # A phase with a part of the steps may repeat a language that part of the whole: the cap holds for the run.
        return [
            f"phases.{name}.data={{languages: all, temperature: {temperature}, "
            f"max_epochs: {EPOCHS * lengths[name] / steps}}}"
            for name in STAGES
        ]
    if configuration == "stages-0.5":
        return [f"phases.{name}.data.temperature=0.5" for name in STAGES]
    masks = {"mask-20": (0.20, 0.20, 0.20), "mask-30": (0.30, 0.30, 0.30), "mask-rising": (0.20, 0.25, 0.30)}
    if configuration in masks:
        rates = zip(STAGES, masks[configuration], strict=True)
        return [f"phases.{name}.mask_rate={rate}" for name, rate in rates]
    return _ties(lengths) if configuration == "ties" else []


def _ties(lengths: dict[str, int]) -> list[str]:
    """Return the two short decays of the recipe ``corpus``, and a merge that weights each decay by its tokens."""
    fixed = {"decay_cont": "", "decay_eng": ", fixed: {eng: 0.18}"}
    overrides = [
        f"phases.{name}={{follows: extend, tokens: {lengths[name] * STEP}, context: 1024, rope_theta: 160000, "
        f"mask_rate: 0.20, batch: {STEP}, micro_batch: {STEP}, peak_lr: 3e-3, "
        f"data: {{languages: 80, temperature: 0.3{fixed[name]}}}, decay: {{shape: one_minus_sqrt, floor: 0.02}}}}"
        for name in SHORT
    ]
    weights = ", ".join(f"{name}: {lengths[name]}" for name in ("decay_all", *SHORT))
    return [*overrides, f"merge={{method: ties, base: extend, phases: {{{weights}}}, density: 1.0}}"]


def identity(made: Recipe) -> str:
    """Return 16 hexadecimal digits of what the result depends on beside text and tokenizer, whatever the paths are."""
    return _digest(_values(made, "seed", "model", "optimizer", "phases", "merge"))


def lineage(made: Recipe, phase: str) -> str:
    """Return a hash of what the end of a phase depends on: seed, model, optimiser, and the phases up to this one.

    Two recipes with the same text may share the phase if it is equal, whatever their other phases are.
    """
    chain: list[Any] = []
    at: str | None = phase
    while at is not None:
        # The seed of the recipe is that of all its phases, and the name of a phase enters the order of its data.
        chain.append([at, made.phases[at].model_dump(mode="json", exclude_defaults=True)])
        at = made.phases[at].follows
    return _digest([chain, _values(made, "seed", "model", "optimizer")])


def _values(made: Recipe, *keys: str) -> dict[str, Any]:
    # Without defaults: an option that a later version adds does not make earlier runs those of another recipe.
    return made.model_dump(mode="json", include=set(keys), exclude_defaults=True)


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
