"""A run as its files describe it. The report reads nothing else, so it can be written again at any time, anywhere.

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

from pydantic import TypeAdapter, ValidationError

from mmbert.data.mixture import Mixture, Share, StreamShare
from mmbert.errors import MMBertError
from mmbert.evaluation.results import BASELINE, MERGED, Baseline, ModelResult, read, read_models
from mmbert.evaluation.tiers import KEPT, NEW, TierSummary, adaptation_tiers, summarise, tiers
from mmbert.files import read_json
from mmbert.model.config import ModelConfig
from mmbert.model.count import Parameters, parameters
from mmbert.recipe import START, Recipe


@dataclass(frozen=True)
class Record:
    """Everything the report shows; empty where a run has not come so far."""

    folder: Path
    recipe: Recipe
    environment: dict[str, Any]
    metrics: dict[str, list[dict[str, Any]]]
    mixture: dict[str, Mixture]
    """By phase."""
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
        drawn = {phase: self.drawn(phase) for phase in self.phases}
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
    def languages_per_phase(self) -> dict[str, list[Share]]:
        """Per phase, the languages that it draws, the largest share first."""
        return {phase: [share for share in mixed.totals() if share.share > 0] for phase, mixed in self.mixture.items()}

    def drawn(self, phase: str) -> list[StreamShare]:
        """Return the streams that a phase draws; none without its mixture."""
        return [stream for stream in self.mixture[phase].streams if stream.share > 0] if phase in self.mixture else []

    @property
    def languages(self) -> list[str]:
        """Codes of all languages that some phase draws."""
        return sorted({stream.language for phase in self.mixture for stream in self.drawn(phase)})

    def start_of(self, phase: str) -> int:
        """Return the tokens seen before a phase begins, in all phases that it follows."""
        before = self.recipe.phases[phase].follows
        return 0 if before is None else self.start_of(before) + self.recipe.phases[before].tokens

    @property
    def parameters(self) -> Parameters | None:
        """Of the model, once a phase has ended: only then is the size of the vocabulary known for sure."""
        if self.vocab_size is None:
            return None
        shape = self.recipe.shape.model_dump(include=set(ModelConfig.model_fields), exclude_none=True)
        return parameters(ModelConfig(**{**shape, "vocab_size": self.vocab_size}))

    def tokens_seen(self) -> int:
        """Return the tokens trained on, all phases together, as far as the run has come."""
        return sum(int(lines[-1]["tokens"]) for lines in self.metrics.values() if lines)

    def seconds(self, phase: str) -> float | None:
        """Return the time a phase took, None if its metrics do not hold it."""
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
            phase: Mixture(_streams(mixture[phase], folder / "mixture.json"), recipe.phases[phase].tokens)
            for phase in recipe.order()
            if phase in mixture
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


def _streams(values: Any, path: Path) -> tuple[StreamShare, ...]:
    try:
        return TypeAdapter(tuple[StreamShare, ...]).validate_python(values)
    except ValidationError as error:
        raise MMBertError(
            f"{path} is not a mixture of this version ({error.errors()[0]['msg']}): delete it and run again"
        ) from error
