"""Handlers for models with a head on tokens: entities, filled masks, answers. Long texts are read in windows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from mmbert.cancellation import check_cancelled
from mmbert.errors import ConfigError
from mmbert.inference.answerer import Answer, Answerer, Decoding, best_answers
from mmbert.inference.entities import Entity, Strategy
from mmbert.inference.fill_mask import Fill, FillMask
from mmbert.inference.load import Loaded
from mmbert.inference.tagger import Tagger
from mmbert.inference.windows import Rows
from mmbert.serving.handlers.texts import characters, check_size
from mmbert.serving.task import Task

R = TypeVar("R")

_TOP = 100
"""Fills and answers at most."""


class TaggingHandler:
    """Tasks for a token classifier."""

    name, routes = "token classification", "/token_classify"

    def __init__(self, loaded: Loaded) -> None:
        self._tagger = Tagger(loaded)
        self.labels = self._tagger.labels

    def tag(
        self, texts: Sequence[str], *, strategy: Strategy = "first", limit: int | None = None
    ) -> Task[list[list[Entity]]]:
        """Return the task for the entities of each text. ``limit``: size of the answer, see :func:`check_size`."""

        def finish(rows: list[Rows[Any]]) -> list[list[Entity]]:
            def entities(text: Rows[Any]) -> list[Entity]:
                return self._tagger.entities(text, strategy)

            return _each(rows, entities, limit, lambda entity: len(entity.text) + len(entity.label))

        tagger = self._tagger
        return Task(texts, characters(texts), lambda: list(tagger.rows(texts)), tagger.logits_of, finish)

    def warm_up(self, texts: Sequence[str]) -> Task[Any]:
        """Return a task that runs all of the model's code."""
        return self.tag(texts)


class FillMaskHandler:
    """Tasks for a masked language model."""

    name, routes = "masked language model", "/fill_mask"

    def __init__(self, loaded: Loaded) -> None:
        self._model = FillMask(loaded)

    def fill(self, texts: Sequence[str], *, top_k: int = 5, limit: int | None = None) -> Task[list[list[list[Fill]]]]:
        """Return the task for the fills of each mask of each text; every fill holds the whole text.

        limit  size of the answer, see :func:`check_size`; checked before anything is computed
        """
        check_top(top_k, self._model.loaded.tokenizer.vocab_size)

        def prepare() -> list[Rows[Any]]:
            fills = text = 0
            for one in texts:
                masks = one.count(self._model.mask)
                fills += masks * top_k
                text += masks * top_k * len(one)
                check_size(4 * fills, text, limit)
            return list(self._model.rows(texts, top_k))

        def finish(rows: list[Rows[Any]]) -> list[list[list[Fill]]]:
            return _each(rows, self._model.fills)

        return Task(texts, characters(texts), prepare, self._model.best_of, finish)

    def warm_up(self, texts: Sequence[str]) -> Task[Any]:
        """Return a task that runs all of the model's code."""
        return self.fill([f"{text}{self._model.mask}" for text in texts])


class AnswerHandler:
    """Tasks for a model of extractive question answering."""

    name, routes = "question answering", "/answer"

    def __init__(self, loaded: Loaded) -> None:
        self._answerer = Answerer(loaded)

    def answer(
        self, pairs: Sequence[tuple[str, str]], *, top_k: int = 1, limit: int | None = None
    ) -> Task[list[list[Answer]]]:
        """Return the task for the answers to each (question, text). ``limit``: as for :meth:`TaggingHandler.tag`."""
        check_top(top_k)
        answerer, options = self._answerer, Decoding(top_k, 64, False, 0.0)

        def prepare() -> list[Rows[Any]]:
            return list(answerer.rows(pairs, answerer.loaded.max_tokens, None, options.longest))

        def finish(rows: list[Rows[Any]]) -> list[list[Answer]]:
            def answers(text: Rows[Any]) -> list[Answer]:
                return best_answers(text.metadata, text.results, options)

            return _each(rows, answers, limit, lambda answer: len(answer.text))

        return Task(pairs, characters(pairs), prepare, answerer.logits_of, finish)

    def warm_up(self, texts: Sequence[str]) -> Task[Any]:
        """Return a task that runs all of the model's code."""
        return self.answer([("warm?", text or "warm") for text in texts])


def _each(
    rows: Iterable[Rows[Any]],
    read: Callable[[Rows[Any]], list[R]],
    limit: int | None = None,
    size: Callable[[R], int] = lambda item: 0,
) -> list[list[R]]:
    """Return the items of each text; ``size``: characters of one, which counts as four numbers beside them.

    The size is checked text by text, so that an answer that is too large is never built.
    """
    items: list[list[R]] = []
    numbers = text = 0
    for one in rows:
        check_cancelled()
        items.append(read(one))
        numbers += 4 * len(items[-1])
        text += sum(map(size, items[-1]))
        check_size(numbers, text, limit)
    return items


def check_top(top_k: int, known: int = _TOP) -> None:
    """Raise ConfigError for more fills or answers than there can be, or than a request may ask for."""
    if not 1 <= top_k <= min(known, _TOP):
        raise ConfigError(f"top_k is {top_k}: it must be 1 to {min(known, _TOP)}")
