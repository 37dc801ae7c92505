"""What a request asks of a model: how it becomes rows of tokens, how a batch is computed, how its answer is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from mmbert.inference.windows import Rows
from mmbert.packed import Packed

R = TypeVar("R")

Place = tuple[Rows[Any], int]
"""A row: the text that it is of, and its number among that text's rows."""

Compute = Callable[[Packed, Sequence[Place]], Sequence[Any]]
"""A batch on the model's device, and the row behind each of its sequences -> one result a row, on the host."""


@dataclass(frozen=True)
class Task(Generic[R]):
    """One request to a model.

    items       the texts, or pairs of texts
    characters  in all of them
    prepare     called in a thread that tokenises; raises an error of the package for what cannot be read
    compute     called in the thread that computes; tasks of equal ``compute`` share batches
    finish      called in a thread that tokenises, once each row has its result, all of finite numbers
    longest     tokens of an item that are read at most, the rest is left out or refused; None: all of it is read
    """

    items: Sequence[Any]
    characters: int
    prepare: Callable[[], list[Rows[Any]]]
    compute: Compute
    finish: Callable[[list[Rows[Any]]], R]
    longest: int | None = None

    @property
    def likely(self) -> int:
        """About as many tokens as will be read, rather fewer."""
        return self._tokens(4) + 2 * self.texts

    @property
    def least(self) -> int:
        """Tokens that will surely be read: those of common vocabularies have 31 characters at most."""
        return self._tokens(32)

    def _tokens(self, characters: int) -> int:
        if self.longest is None or self.characters <= self.longest * characters:
            return self.characters // characters
        return sum(min(size(item) // characters, self.longest) for item in self.items)

    @property
    def texts(self) -> int:
        """How many."""
        return len(self.items)


def size(item: Any) -> int:
    """Return the characters of a text, or of all texts of a pair."""
    return len(item) if isinstance(item, str) else sum(map(size, item))


@dataclass
class Timing:
    """Where a request's time went, in seconds, and how much it was."""

    tokens: int = 0
    tokenization: float = 0.0
    queue: float = 0.0
    inference: float = 0.0


@dataclass(frozen=True)
class Answer(Generic[R]):
    """What a task gives."""

    value: R
    timing: Timing = field(default_factory=Timing)
