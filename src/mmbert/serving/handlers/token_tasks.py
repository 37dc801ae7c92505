"""What models with a head on tokens are asked: entities, filled masks, answers. Long texts go in windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmbert.cancellation import check_cancelled
from mmbert.errors import ConfigError
from mmbert.inference.answerer import Answer, Answerer, Decoding, best_answers
from mmbert.inference.entities import Entity, Strategy
from mmbert.inference.fill_mask import Fill, FillMask
from mmbert.inference.load import Loaded
from mmbert.inference.tagger import Tagger
from mmbert.inference.windows import Rows
from mmbert.packed import Packed
from mmbert.serving.handlers.texts import characters, check_size
from mmbert.serving.task import Place, Task
from mmbert.tokenizer.folder import SPECIALS

_TOP = 100
"""Fills and answers at most."""


class TaggingHandler:
    """Tasks for a token classifier."""

    def __init__(self, loaded: Loaded) -> None:
        self._tagger = Tagger(loaded)
        self.labels = self._tagger.labels

    def tag(
        self, texts: Sequence[str], *, strategy: Strategy = "first", most: int | None = None
    ) -> Task[list[list[Entity]]]:
        """The entities of each text, of ``Tagger``. ``most``: numbers of the answer, see :func:`check_size`."""

        def finish(found: list[Rows[Any]]) -> list[list[Entity]]:
            made = []
            numbers = text = 0
            for one in found:
                check_cancelled()
                made.append(self._tagger.entities(one, strategy))
                numbers += 4 * len(made[-1])
                text += sum(len(entity.text) + len(entity.label) for entity in made[-1])
                check_size(numbers, text, most)
            return made

        return Task(texts, characters(texts), lambda: list(self._tagger.rows(texts)), self.compute, finish)

    def compute(self, packed: Packed, places: Sequence[Place]) -> list[np.ndarray]:
        """Logits of the tokens of each row of a batch."""
        return self._tagger.logits_of(packed)


@dataclass
class _Asked(Rows[Any]):
    """A text with masks, and how many fills are wanted."""

    top_k: int = 5


class FillMaskHandler:
    """Tasks for a masked language model."""

    def __init__(self, loaded: Loaded) -> None:
        self._model = FillMask(loaded)

    def fill(self, texts: Sequence[str], *, top_k: int = 5, most: int | None = None) -> Task[list[list[list[Fill]]]]:
        """Of each text for each mask its fills, of ``FillMask``: every fill holds the whole text with it.

        most  numbers of the answer, see :func:`check_size`: checked before anything is computed
        """
        check_top(top_k, self._model.loaded.tokenizer.vocab_size)

        def prepare() -> list[Rows[Any]]:
            fills = text = 0
            for one in texts:
                masks = one.count(SPECIALS["mask"])
                fills += masks * top_k
                text += masks * top_k * len(one)
                check_size(4 * fills, text, most)
            return [_Asked(text.rows, text.metadata, top_k=top_k) for text in self._model.rows(texts)]

        def finish(found: list[Rows[Any]]) -> list[list[list[Fill]]]:
            made = []
            for text in found:
                check_cancelled()
                made.append(self._model.fills(text, top_k))
            return made

        return Task(texts, characters(texts), prepare, self.compute, finish)

    def compute(self, packed: Packed, places: Sequence[Place]) -> list[Any]:
        """The best tokens of each row of a batch, as many as the one that wants most."""
        return self._model.best_of(packed, max(text.top_k for text, _ in places if isinstance(text, _Asked)))


class AnswerHandler:
    """Tasks for a model of extractive question answering."""

    def __init__(self, loaded: Loaded) -> None:
        self._answerer = Answerer(loaded)

    def answer(
        self, pairs: Sequence[tuple[str, str]], *, top_k: int = 1, most: int | None = None
    ) -> Task[list[list[Answer]]]:
        """The answers to each (question, text), of ``Answerer``. ``most``: numbers of the answer, as for tags."""
        check_top(top_k)
        options = Decoding(top_k, 64, False, 0.0)

        def prepare() -> list[Rows[Any]]:
            return list(self._answerer.rows(pairs, self._answerer.loaded.max_tokens, None, options.longest))

        def finish(found: list[Rows[Any]]) -> list[list[Answer]]:
            made = []
            numbers = text = 0
            for one in found:
                check_cancelled()
                made.append(best_answers(one.metadata, one.results, options))
                numbers += 4 * len(made[-1])
                text += sum(len(answer.text) for answer in made[-1])
                check_size(numbers, text, most)
            return made

        return Task(pairs, characters(pairs), prepare, self.compute, finish)

    def compute(self, packed: Packed, places: Sequence[Place]) -> list[np.ndarray]:
        """Logits of the tokens of each row of a batch."""
        return self._answerer.logits_of(packed)


def check_top(top_k: int, known: int = _TOP) -> None:
    """Raises ConfigError."""
    if not 1 <= top_k <= min(known, _TOP):
        raise ConfigError(f"top_k is {top_k}: it must be 1 to {min(known, _TOP)}")
