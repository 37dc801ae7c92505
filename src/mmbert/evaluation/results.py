"""What an evaluation found, and its files.

    runs/<name>/evaluation/
      unigram.json      Baseline: the unigram model of each language
      <model>.json      ModelResult: one per phase, named like it, and one for the merge (``merged``)

A file belongs to the weights, held-out text and options it was computed with: their hashes stand in it, and
:func:`read_current` gives it back only if they still fit. Nothing that is there is computed again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mmbert.errors import MMBertError
from mmbert.files import read_checked_json, sha256, write_checked_json

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
        """From sums over the masked tokens."""
        bits = nats / math.log(2) / num_bytes
        return cls(bits_per_byte=bits, nats=nats, tokens=tokens, bytes=num_bytes, accuracy=hits / tokens)


class UnigramLoss(LanguageLoss):
    """The same of a unigram model, with what it was fitted to."""

    train_tokens: int
    """Tokens of the language's training text."""
    alpha: float
    """Pseudo-count added to every token."""


class Baseline(Result):
    """A unigram model of each language: it is told the language and knows nothing else."""

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
    surface_to_english: float
    surface_from_english: float

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
        return (self.surface_to_english + self.surface_from_english) / 2


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
    """The mean over languages and how surely it is above chance; None without a language."""
    if not results:
        return None
    number = len(results)
    accuracy = sum(r.accuracy for r in results) / number
    chance = sum(r.chance for r in results) / number
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
    """Hash of the model's files, see :func:`hash_model`."""
    heldout: str
    """Fingerprint of held-out text, masks and options."""
    losses: dict[str, LanguageLoss]
    retrieval: list[LanguageRetrieval]
    filled: list[FilledMask]
    seconds: float


R = TypeVar("R", Baseline, ModelResult)


def save(result: Baseline | ModelResult, path: Path) -> None:
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
    """The result at ``path`` if it is there, readable and was computed with these hashes, else None."""
    if not path.is_file():
        return None
    try:
        result = read(kind, path)
    except MMBertError:
        return None
    return result if all(getattr(result, name) == value for name, value in hashes.items()) else None


def read_models(folder: Path) -> dict[str, ModelResult]:
    """All models' results in a run's evaluation folder, by name; empty if there is none."""
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    return {path.stem: read(ModelResult, path) for path in files if path.stem != BASELINE}


def hash_model(folder: Path) -> str:
    """16 hexadecimal digits over a model folder's weights and config: equal hashes, equal outputs."""
    files = sorted([*folder.glob("*.safetensors"), folder / "config.json"])
    if len(files) < 2 or not files[-1].parent.joinpath("config.json").is_file():
        raise MMBertError(f"{folder} is not a model: expected config.json and *.safetensors")
    return hashlib.sha256("".join(f"{file.name} {sha256(file)}\n" for file in files).encode()).hexdigest()[:16]
