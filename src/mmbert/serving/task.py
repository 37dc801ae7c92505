"""A task for a model: how a request becomes rows of tokens, how a batch is computed, how the answer is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from mmbert.inference.windows import Compute, Rows

R = TypeVar("R")


@dataclass(frozen=True)
class Task(Generic[R]):
    """One request to a model.

    items       the texts, or pairs of texts
    characters  of all items
    prepare     called in a tokenising thread; raises an error of the package for unreadable input
    compute     called in the computing thread; tasks with equal ``compute`` share batches
    finish      called in a tokenising thread once every row has a result, all of finite numbers
    longest     tokens of an item that are read at most, the rest is cut or refused; None: everything is read
    adapter     number of the adapter that reads it, if the model has adapters; all of them share batches
    """

    items: Sequence[Any]
    characters: int
    prepare: Callable[[], list[Rows[Any]]]
    compute: Compute
    finish: Callable[[list[Rows[Any]]], R]
    longest: int | None = None
    adapter: int | None = None

    @property
    def likely(self) -> int:
        """A low estimate of the tokens that will be read."""
        return self._tokens(4) + 2 * self.texts

    @property
    def least(self) -> int:
        """A lower bound of the tokens that will be read: tokens of common vocabularies have 31 characters at most."""
        return self._tokens(32)

    def _tokens(self, characters: int) -> int:
        if self.longest is None or self.characters <= self.longest * characters:
            return self.characters // characters
        return sum(min(size(item) // characters, self.longest) for item in self.items)

    @property
    def texts(self) -> int:
        """Number of items."""
        return len(self.items)


def size(item: Any) -> int:
    """Return the characters of a text, or of all texts of a pair."""
    return len(item) if isinstance(item, str) else sum(map(size, item))


@dataclass
class Timing:
    """Tokens of a request, and the seconds spent on it."""

    tokens: int = 0
    tokenization: float = 0.0
    queue: float = 0.0
    inference: float = 0.0


@dataclass(frozen=True)
class Answer(Generic[R]):
    """The result of a task."""

    value: R
    timing: Timing = field(default_factory=Timing)
