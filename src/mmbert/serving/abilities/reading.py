"""What models with a head on tokens are asked: entities, filled masks, answers. Long texts go in windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmbert.errors import ConfigError
from mmbert.inference.answerer import Answer, Answerer, Decoding, best_answers
from mmbert.inference.entities import Entity, Strategy
from mmbert.inference.fill_mask import Fill, FillMask
from mmbert.inference.load import Loaded
from mmbert.inference.rows import Rows
from mmbert.inference.tagger import Tagger
from mmbert.packed import Packed
from mmbert.serving.abilities.texts import characters
from mmbert.serving.task import Place, Task

_TOP = 100
"""Fills and answers at most."""


class Tagging:
    """Tasks for a token classifier."""

    def __init__(self, loaded: Loaded) -> None:
        self._tagger = Tagger(loaded)
        self.labels = self._tagger.labels

    def tag(self, texts: Sequence[str], *, strategy: Strategy = "first") -> Task[list[list[Entity]]]:
        """The entities of each text, of ``Tagger``."""

        def finish(found: list[Rows[Any]]) -> list[list[Entity]]:
            return [self._tagger.entities(text, strategy) for text in found]

        return Task(texts, characters(texts), lambda: list(self._tagger.rows(texts)), self.compute, finish)

    def compute(self, packed: Packed, places: Sequence[Place]) -> list[np.ndarray]:
        """Logits of the tokens of each row of a batch."""
        return self._tagger.logits_of(packed)


@dataclass
class _Asked(Rows[Any]):
    """A text with masks, and how many fills are wanted."""

    top_k: int = 5


class Filling:
    """Tasks for a masked language model."""

    def __init__(self, loaded: Loaded) -> None:
        self._model = FillMask(loaded)

    def fill(self, texts: Sequence[str], *, top_k: int = 5) -> Task[list[list[list[Fill]]]]:
        """Of each text for each mask its fills, of ``FillMask``."""
        check_top(top_k, self._model.loaded.tokenizer.vocab_size)

        def prepare() -> list[Rows[Any]]:
            return [_Asked(text.rows, text.note, top_k=top_k) for text in self._model.rows(texts)]

        def finish(found: list[Rows[Any]]) -> list[list[list[Fill]]]:
            return [self._model.fills(text, top_k) for text in found]

        return Task(texts, characters(texts), prepare, self.compute, finish)

    def compute(self, packed: Packed, places: Sequence[Place]) -> list[Any]:
        """The best tokens of each row of a batch, as many as the one that wants most."""
        return self._model.best_of(packed, max(text.top_k for text, _ in places if isinstance(text, _Asked)))


class Answering:
    """Tasks for a model of extractive question answering."""

    def __init__(self, loaded: Loaded) -> None:
        self._answerer = Answerer(loaded)

    def answer(self, pairs: Sequence[tuple[str, str]], *, top_k: int = 1) -> Task[list[list[Answer]]]:
        """The answers to each (question, text), of ``Answerer``."""
        check_top(top_k)
        options = Decoding(top_k, 64, False, 0.0)

        def prepare() -> list[Rows[Any]]:
            return list(self._answerer.rows(pairs, self._answerer.loaded.max_tokens, None, options.longest))

        def finish(found: list[Rows[Any]]) -> list[list[Answer]]:
            return [best_answers(text.note, text.results, options) for text in found]

        return Task(pairs, characters(pairs), prepare, self.compute, finish)

    def compute(self, packed: Packed, places: Sequence[Place]) -> list[np.ndarray]:
        """Logits of the tokens of each row of a batch."""
        return self._answerer.logits_of(packed)


def check_top(top_k: int, known: int = _TOP) -> None:
    """Raises ConfigError."""
    if not 1 <= top_k <= min(known, _TOP):
        raise ConfigError(f"top_k is {top_k}: it must be 1 to {min(known, _TOP)}")
