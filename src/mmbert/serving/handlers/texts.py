"""Limits that all handlers share: the length of texts, and the size of answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from mmbert.errors import TooLong
from mmbert.serving.task import size

Cut = Literal["beginning", "end"] | None
"""What is kept of a text that is too long; None: it is refused."""


def characters(texts: Iterable[Any]) -> int:
    """Return the characters of all texts, or pairs of texts."""
    return sum(map(size, texts))


def refuse_long(longest: int) -> Callable[..., None]:
    """Return a ``noted`` for encoders that raises TooLong for a text of more than ``longest`` tokens."""

    def noted(number: int, tokens: int, ends: int) -> None:
        if tokens + ends > longest:
            raise TooLong(
                f"input {number} has {tokens + ends:,} tokens or more, the model reads {longest:,}: send "
                '"truncate": true to have the rest left out, or shorter texts'
            )

    return noted


def check_size(numbers: int, text: int, limit: int | None) -> None:
    """Raise TooLong for an answer of more than ``limit`` numbers, where four characters of text count as one."""
    size = numbers + text // 4
    if limit is not None and size > limit:
        raise TooLong(
            f"the answer would hold {size:,} numbers (four characters count as one), at most {limit:,}: ask in several "
            "requests"
        )
