"""Results of evaluations, and the files that store them.

    runs/<name>/evaluation/                  held-out evaluation of a run
      unigram.json                           Baseline: the unigram model of each language
      <model>.json                           ModelResult: one per phase, by its name, and ``merged``
    results/                                 benchmarks (``mmbert evaluate``)
      pins.json                              commits of hub data sets that no declaration pins
      <model hash>/<task>@<revision>.json    TaskResult
      <model hash>/models/<task>-<key>/      models that were fine-tuned on the way

A file belongs to the weights, the text and the options it was computed with: their hashes stand in it or in its name,
and what is there and still fits is read, never computed again. A task's file is written after each language, so that
what was stopped resumes with the next one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmbert.errors import MMBertError
from mmbert.files import read_checked_json, write_checked_json

BASELINE = "unigram"
"""Name of the baseline's file; no phase may be called so."""
MERGED = "merged"
"""Name of the merged model's file."""


class Result(BaseModel):
    """A part of a result: frozen; an unknown key is an error, and so is NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LanguageLoss(Result):
    """Loss on the masked tokens of one language.

    bits_per_byte  nats / ln 2 / bytes: fair across vocabularies and scripts
    nats           sum of -ln p(token)
    tokens         masked tokens
    bytes          UTF-8 bytes of text that those tokens stand for
    accuracy       part of the tokens whose most probable guess was right
    """

    bits_per_byte: float
    nats: float
    tokens: int
    bytes: int
    accuracy: float

    @classmethod
    def of(cls, *, nats: float, tokens: int, num_bytes: int, hits: float) -> Self:
        """Make it from sums over the masked tokens."""
        bits = nats / math.log(2) / num_bytes
        return cls(bits_per_byte=bits, nats=nats, tokens=tokens, bytes=num_bytes, accuracy=hits / tokens)


class UnigramLoss(LanguageLoss):
    """The same of a unigram model, with what it was fitted to."""

    train_tokens: int
    """Tokens of the language's training text."""
    alpha: float
    """Pseudo-count added to every token."""


class Baseline(Result):
    """A unigram model of each language, which is given the language, as the encoder is not."""

    version: int = 1
    heldout: str
    """Fingerprint of the held-out text and masks."""
    training_text: str
    """Hash of the manifest of the shards it was fitted to."""
    losses: dict[str, UnigramLoss]


class LanguageRetrieval(Result):
    """Finding a message's translation among ``pairs`` candidates; accuracies at rank 1, in both directions.

    ``centred``: after subtracting each language's mean vector. ``spelling``: by character trigrams, without a model;
    what it reaches is shared spelling (names, numbers, loans), not understanding.
    """

    language: str
    pairs: int
    to_english: float
    from_english: float
    centred_to_english: float
    centred_from_english: float
    spelling_to_english: float
    spelling_from_english: float

    @property
    def chance(self) -> float:
        return 1.0 / self.pairs

    @property
    def accuracy(self) -> float:
        """Mean of both directions."""
        return (self.to_english + self.from_english) / 2

    @property
    def centred(self) -> float:
        return (self.centred_to_english + self.centred_from_english) / 2

    @property
    def spelling(self) -> float:
        return (self.spelling_to_english + self.spelling_from_english) / 2


class RetrievalSummary(Result):
    """All languages together, each counting the same.

    error  standard error of ``accuracy`` if the vectors meant nothing and each query were right with probability 1/N,
           counted for one direction, since both directions look at the same similarities
    z      (accuracy - chance) / error
    """

    languages: int
    pairs: int
    accuracy: float
    centred: float
    spelling: float
    chance: float
    error: float
    z: float


def summarise_retrieval(results: Sequence[LanguageRetrieval]) -> RetrievalSummary | None:
    """Return the mean over languages and how surely it is above chance; None without a language."""
    if not results:
        return None
    number = len(results)
    accuracy = sum(r.accuracy for r in results) / number
    chance = sum(r.chance for r in results) / number
    # a query is right with probability p = 1/N: its variance is p (1 - p), and N of them are averaged
    error = math.sqrt(sum(r.chance * (1 - r.chance) / r.pairs for r in results)) / number
    return RetrievalSummary(
        languages=number,
        pairs=sum(r.pairs for r in results),
        accuracy=accuracy,
        centred=sum(r.centred for r in results) / number,
        spelling=sum(r.spelling for r in results) / number,
        chance=chance,
        error=error,
        z=(accuracy - chance) / error,
    )


class Guess(Result):
    """A token proposed for a mask."""

    token: str
    probability: float


class FilledMask(Result):
    """A held-out sentence with one token masked, and what the model proposes."""

    language: str
    before: str
    after: str
    truth: str
    guesses: list[Guess]


class ModelResult(Result):
    """All that was measured on one model of a run."""

    version: int = 1
    model: str
    """Name of the phase, or ``merged``."""
    weights: str
    """Hash of the model's files (``mmbert.inference.load.hash_folder``)."""
    heldout: str
    """Fingerprint of held-out text, masks and options."""
    losses: dict[str, LanguageLoss]
    retrieval: list[LanguageRetrieval]
    filled: list[FilledMask]
    seconds: float


class TaskScore(Result):
    """Of one language (or one of mteb's tasks)."""

    rows: int
    """Examples that were scored."""
    scores: dict[str, float]
    """Metric -> value, a fraction where it is a percentage elsewhere."""
    group: str | None = None
    """Of mteb's tasks: their type."""


class TaskRun(Result):
    """One protocol with one seed."""

    protocol: dict[str, Any]
    """All that the figures depend on beside model and examples."""
    seed: int
    scores: dict[str, TaskScore] = Field({})
    """Language -> scores, in the order of scoring."""
    seconds: float = 0.0
    """Of training and scoring, over all sessions."""


class TaskResult(Result):
    """All runs of one model on one task at one revision."""

    version: int = 1
    task: str
    revision: str
    model: str
    """As it was named."""
    weights: str
    """Hash of the model's files, or the name of a baseline that has none."""
    runs: dict[str, TaskRun] = Field({})
    """Hash of (protocol, seed) -> run."""


R = TypeVar("R", Baseline, ModelResult, TaskResult)


def save(result: Baseline | ModelResult | TaskResult, path: Path) -> None:
    """Write a result as JSON, atomically."""
    write_checked_json(path, result.model_dump(mode="json"))


def read(kind: type[R], path: Path) -> R:
    """Read a result; raises MMBertError naming the file if it is absent or of another form."""
    try:
        return kind.model_validate(read_checked_json(path))
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise MMBertError(
            f"{path} is not a result of this version ({place}: {fault['msg']}): delete it and evaluate again"
        ) from error


def read_current(kind: type[R], path: Path, **hashes: str) -> R | None:
    """Return the result at ``path`` if it is there, readable and was computed with these hashes, else None."""
    if not path.is_file():
        return None
    try:
        result = read(kind, path)
    except MMBertError:
        return None
    return result if all(getattr(result, name) == value for name, value in hashes.items()) else None


def read_models(folder: Path) -> dict[str, ModelResult]:
    """Return all models' results in a run's evaluation folder, by name; empty if there is none."""
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    return {path.stem: read(ModelResult, path) for path in files if path.stem != BASELINE}


class TaskFile:
    """The file of one model's results on one task at one revision."""

    def __init__(self, folder: Path, task: str, revision: str, model: str, weights: str) -> None:
        self.path = folder / weights / f"{task}@{revision}.json"
        self._empty = TaskResult(task=task, revision=revision, model=model, weights=weights)

    def read(self) -> TaskResult:
        """Return what is there, an empty result if nothing is. Raises MMBertError for a file of another form."""
        return read(TaskResult, self.path) if self.path.is_file() else self._empty

    def write(self, key: str, run: TaskRun) -> None:
        """Put one run in its place, atomically."""
        result = self.read()  # the other runs of the file stay
        save(result.model_copy(update={"runs": {**result.runs, key: run}}), self.path)
