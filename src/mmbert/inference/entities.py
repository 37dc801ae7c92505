"""From label probabilities of tokens to entities: which tokens belong together, their label, their characters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mmbert.errors import ConfigError
from mmbert.words import number_words

Strategy = Literal["simple", "first", "average", "max"]

STRATEGIES = ("simple", "first", "average", "max")
"""How a word gets its label. simple: each token has its own; first: from its first token; average: from the mean
probabilities of its tokens; max: from its most certain token."""

_PREFIXED = re.compile(r"([BIESLUM])[-_](.+)", re.DOTALL)

_SPACES = np.array([code for code in range(0x10000) if chr(code).isspace()], np.uint32)

_OPENS, _CLOSES = "BSU", "ESLU"
"""Prefixes that begin an entity (beginning, single, unit), and that end one (end, single, last, unit)."""


@dataclass(frozen=True)
class Entity:
    """``text[start:end]`` is a ``label``; ``score``: mean probability of its words or tokens."""

    label: str
    start: int
    end: int
    text: str
    score: float


class Scheme:
    """The tagging scheme of a model's labels: BIO, BIOES, BILOU, BMES, or plain names.

    Neighbours with the same plain name are one entity if there is a label ``O``; without an ``O`` (parts of speech)
    each word is one.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        found = [_PREFIXED.fullmatch(label) for label in labels]
        self.tags = [match[2] if match else label for match, label in zip(found, labels, strict=True)]
        self.prefixes = [match[1] if match else "I" for match in found]
        self.outside = labels.index("O") if "O" in labels else -1
        self.alone = self.outside < 0 and not any(found)


def check_strategy(strategy: str) -> None:
    """Raise ConfigError for what is not in STRATEGIES."""
    if strategy not in STRATEGIES:
        raise ConfigError(f"strategy {strategy!r} is none of {', '.join(STRATEGIES)}")


def read_entities(
    text: str, spans: np.ndarray, probabilities: np.ndarray, scheme: Scheme, strategy: str = "first"
) -> list[Entity]:
    """Return the entities in the order of the text.

    spans          (n, 2) characters of each token, with or without the space before a word
    probabilities  (n, labels) of each token
    """
    spans = trim_spans(text, spans)
    kept = spans[:, 0] < spans[:, 1]  # without tokens of white space alone
    spans, probabilities = spans[kept], probabilities[kept]
    if strategy != "simple" and len(spans):
        spans, probabilities = _words(text, spans, probabilities, strategy)
    if not len(spans):
        return []
    best = probabilities.argmax(axis=1)
    scores = probabilities[np.arange(len(best)), best]
    groups: list[list[int]] = []
    last, closed = -2, True  # last word or token of the open entity, and whether it is complete
    for unit in np.flatnonzero(best != scheme.outside).tolist():
        label = int(best[unit])
        joins = (
            unit == last + 1
            and not closed
            and not scheme.alone
            and scheme.prefixes[label] not in _OPENS
            and scheme.tags[label] == scheme.tags[int(best[last])]
        )
        if joins:
            groups[-1].append(unit)
        else:
            groups.append([unit])
        last, closed = unit, scheme.prefixes[label] in _CLOSES
    return [_entity(text, spans[group], scores[group], scheme.tags[int(best[group[0]])]) for group in groups]


def _entity(text: str, spans: np.ndarray, scores: np.ndarray, tag: str) -> Entity:
    start, end = int(spans[0, 0]), int(spans[-1, 1])
    return Entity(tag, start, end, text[start:end], float(scores.mean()))


def trim_spans(text: str, spans: np.ndarray) -> np.ndarray:
    """Return spans (n, 2) without white space at their ends, empty for white space alone. Vectorised over the text."""
    characters = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    places = np.arange(len(characters))
    space = np.isin(characters, _SPACES)
    following = np.minimum.accumulate(np.where(space, len(characters), places)[::-1])[::-1]
    following = np.append(following, len(characters))  # the next place that is no space
    before = np.append(0, np.maximum.accumulate(np.where(space, 0, places + 1)))  # the end of the last that is none
    spans = np.asarray(spans, np.int64).reshape(-1, 2)
    starts = np.minimum(following[spans[:, 0]], spans[:, 1])
    return np.stack([starts, np.maximum(before[spans[:, 1]], starts)], axis=1)


def _words(text: str, spans: np.ndarray, probabilities: np.ndarray, strategy: str) -> tuple[np.ndarray, np.ndarray]:
    """Return spans and probabilities of words instead of tokens."""
    words = number_words(text)[spans[:, 0]]
    starts = np.flatnonzero(np.diff(words, prepend=-2))
    ends = np.append(starts[1:], len(words))
    found = np.stack([spans[starts, 0], spans[ends - 1, 1]], axis=1)
    if strategy == "first":
        return found, probabilities[starts]
    if strategy == "average":
        return found, np.add.reduceat(probabilities, starts, axis=0) / (ends - starts)[:, None]
    surest = probabilities.max(axis=1)
    chosen = [start + int(surest[start:end].argmax()) for start, end in zip(starts, ends, strict=True)]
    return found, probabilities[chosen]
