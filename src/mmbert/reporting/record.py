"""A run as its files tell it. The report reads nothing else, so it can be written again at any time, anywhere.

    runs/<name>/
      recipe.yaml              the resolved recipe
      environment.json         {"python": ..., "versions": {...}, ...}: any names; maps are shown as one line.
                               "commands": [what to type to get the same] are shown apart
      mixture.json             {phase: [{"source", "language", "share", "tokens", "epochs", "capped"}, ...]}
      <phase>/metrics.jsonl    a line per logged step: "tokens" (of the phase, so far), "loss", and where known
                               "learning_rate", "mask_rate", "batch", "tokens_per_second", "grad_norm" and
                               "seconds" (of the phase, so far); written by mmbert.training.metrics_log
      <phase>/final/config.json    only "vocab_size"
      evaluation/unigram.json, evaluation/<model>.json      see mmbert.evaluation.results; ``start``: before the run
      merge/report.json        see mmbert.surgery.report

Whatever is missing (the run has not ended, it has no merge) is left out of the report; only the recipe must be there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from mmbert.errors import MMBertError
from mmbert.evaluation.results import BASELINE, MERGED, Baseline, ModelResult, read, read_models
from mmbert.evaluation.tiers import KEPT, NEW, TierSummary, adaptation_tiers, summarise, tiers
from mmbert.files import read_json
from mmbert.model.config import ModelConfig
from mmbert.model.count import Parameters, parameters
from mmbert.recipe import START, Recipe


class DrawnShare(BaseModel):
    """A stream's part in a phase."""

    model_config = ConfigDict(frozen=True)

    source: str
    language: str
    share: float
    tokens: int | None = None
    """Training tokens of the stream."""
    epochs: float | None = None
    """How often the phase goes through them."""
    capped: bool = False
    """Whether the cap of epochs cut its share."""


@dataclass(frozen=True)
class LanguageShare:
    """A language's part in a phase, over all sources."""

    language: str
    share: float
    tokens: int
    epochs: float
    capped: bool


@dataclass(frozen=True)
class Record:
    """Everything the report tells; empty where a run has not come so far."""

    folder: Path
    recipe: Recipe
    environment: dict[str, Any]
    metrics: dict[str, list[dict[str, Any]]]
    mixture: dict[str, list[DrawnShare]]
    baseline: Baseline | None
    results: dict[str, ModelResult]
    """The start if there is one, then in the order of the phases, the merge last."""
    merge: dict[str, Any] | None
    vocab_size: int | None

    @property
    def phases(self) -> list[str]:
        """Names of the phases, each after the one it follows."""
        return self.recipe.order()

    @property
    def final(self) -> ModelResult | None:
        """The merge, or without one the last phase that was evaluated."""
        return next((result for name, result in reversed(self.results.items()) if name != START), None)

    @cached_property
    def tier_of(self) -> dict[str, str]:
        """The tier of each language with held-out text: by tier, then by training text, the largest first."""
        languages = self.baseline.losses if self.baseline else {}
        drawn = {phase: [share for share in self.mixture.get(phase, []) if share.share > 0] for phase in self.phases}
        if self.recipe.start is None:
            found = tiers([(phase, {s.language for s in shares}) for phase, shares in drawn.items()], languages)
        else:
            streams = {(s.source, s.language) for shares in drawn.values() for s in shares}
            found = adaptation_tiers(streams, self.recipe.evaluation.kept, languages)
        places = {name: place for place, name in enumerate([NEW, KEPT] if self.recipe.start else self.phases)}

        def place(language: str) -> tuple[int, int, str]:
            return places.get(found[language], len(places)), -languages[language].train_tokens, language

        return {language: found[language] for language in sorted(found, key=place)}

    @property
    def tier_title(self) -> str:
        """What a legend of tiers is about."""
        return "languages first drawn in" if self.recipe.start is None else "languages"

    @cached_property
    def summaries(self) -> dict[str, list[TierSummary]]:
        """Per model, one summary a tier."""
        if self.baseline is None:
            return {}
        return {
            name: summarise(result.losses, self.baseline.losses, self.tier_of) for name, result in self.results.items()
        }

    @cached_property
    def languages_per_phase(self) -> dict[str, list[LanguageShare]]:
        """Per phase, languages by share, the largest first."""
        return {phase: _by_language(shares, self.recipe.phases[phase].tokens) for phase, shares in self.mixture.items()}

    def start_of(self, phase: str) -> int:
        """Tokens seen before a phase begins, in all phases that it follows."""
        before = self.recipe.phases[phase].follows
        return 0 if before is None else self.start_of(before) + self.recipe.phases[before].tokens

    @property
    def parameters(self) -> Parameters | None:
        """Of the model, once a phase has ended: only then is the size of the vocabulary known for sure."""
        if self.vocab_size is None:
            return None
        shape = self.recipe.shape
        config = ModelConfig(
            vocab_size=self.vocab_size,
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            num_layers=shape.num_layers,
            num_heads=shape.num_heads,
        )
        return parameters(config)

    def tokens_seen(self) -> int:
        """Tokens trained on, all phases together, as far as the run has come."""
        return sum(int(lines[-1]["tokens"]) for lines in self.metrics.values() if lines)

    def seconds(self, phase: str) -> float | None:
        """Time a phase took, None if its metrics do not tell."""
        lines = self.metrics.get(phase) or [{}]
        return lines[-1].get("seconds")


def read_record(folder: Path) -> Record:
    """Read a run's files. Raises MMBertError if there is no recipe or a file is damaged."""
    if not (folder / "recipe.yaml").is_file():
        raise MMBertError(f"{folder} is not the folder of a run: it holds no recipe.yaml")
    recipe = Recipe.load(folder / "recipe.yaml")
    evaluation = folder / "evaluation"
    models = read_models(evaluation)
    order = [START, *recipe.order(), MERGED]
    mixture = _optional(folder / "mixture.json") or {}
    return Record(
        folder=folder,
        recipe=recipe,
        environment=_optional(folder / "environment.json") or {},
        metrics={phase: _lines(folder / phase / "metrics.jsonl") for phase in recipe.order()},
        mixture={
            phase: _shares(mixture[phase], folder / "mixture.json") for phase in recipe.order() if phase in mixture
        },
        baseline=read(Baseline, evaluation / f"{BASELINE}.json")
        if (evaluation / f"{BASELINE}.json").is_file()
        else None,
        results={name: models[name] for name in order if name in models},
        merge=_optional(folder / "merge" / "report.json"),
        vocab_size=_vocab_size(folder, recipe),
    )


def _vocab_size(folder: Path, recipe: Recipe) -> int | None:
    """From the first finished phase's model."""
    configs = (folder / phase / "final" / "config.json" for phase in recipe.order())
    found = next((path for path in configs if path.is_file()), None)
    return int(read_json(found)["vocab_size"]) if found else None


def _optional(path: Path) -> Any:
    return read_json(path) if path.is_file() else None


def _lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON Lines file in the order of tokens; a resumed run writes some steps twice: the later counts."""
    by_tokens: dict[int, dict[str, Any]] = {}
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            by_tokens[int(values["tokens"])] = values
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break  # the run was killed, or is just writing
            raise MMBertError(f"{path}:{number} is not a line of metrics ({error!r}): delete that line") from error
    return [by_tokens[tokens] for tokens in sorted(by_tokens)]


def _shares(values: Any, path: Path) -> list[DrawnShare]:
    try:
        return TypeAdapter(list[DrawnShare]).validate_python(values)
    except ValidationError as error:
        raise MMBertError(
            f"{path} is not a mixture of this version ({error.errors()[0]['msg']}): delete it and run again"
        ) from error


def _by_language(shares: list[DrawnShare], phase_tokens: int) -> list[LanguageShare]:
    share: dict[str, float] = {}
    tokens: dict[str, int] = {}
    capped: set[str] = set()
    for stream in shares:
        share[stream.language] = share.get(stream.language, 0.0) + stream.share
        tokens[stream.language] = tokens.get(stream.language, 0) + (stream.tokens or 0)
        if stream.capped:
            capped.add(stream.language)
    found = [
        LanguageShare(
            name, part, tokens[name], part * phase_tokens / tokens[name] if tokens[name] else 0.0, name in capped
        )
        for name, part in share.items()
        if part > 0
    ]
    return sorted(found, key=lambda language: (-language.share, language.language))
