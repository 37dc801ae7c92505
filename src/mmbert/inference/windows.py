"""Texts that take several passes: the rows of each go through the model among those of others, and come back together.

A text within the model's longest is one row. A longer one is cut into windows that overlap, and each of its tokens is
taken from the window in which it stands farther from the edge (:func:`mmbert.inference.chunking.plan_windows`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np

from mmbert.inference.batching import run
from mmbert.inference.checks import check_finite, check_texts, text_name
from mmbert.inference.chunking import Window, plan_windows
from mmbert.inference.load import Loaded
from mmbert.packed import Packed

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 1024
"""Rows read ahead and sorted by length together."""

_TOKENISED = 256
"""Texts tokenised at once."""


@dataclass
class Rows(Generic[T]):
    """One text on its way: ``rows`` of token ids as the model reads them, and what else is known of it.

    number, text  what messages call it by: where it stands among those that were asked, and its characters
    """

    rows: Sequence[np.ndarray]
    metadata: T
    results: list[Any] = field(default_factory=list)
    number: int = 0
    text: Any = ""

    def finite(self) -> Rows[T]:
        """Return the text itself, whose rows have their results. Raises NotFiniteOutput if one of those is NaN."""
        for result in self.results:
            self.check(result[0] if isinstance(result, tuple) else result)  # probabilities, and the tokens they are of
        return self

    def check(self, values: np.ndarray) -> np.ndarray:
        """Return numbers that the model says of this text. Raises NotFiniteOutput where one is NaN or infinite."""
        found: np.ndarray = check_finite(values, lambda _: text_name(self.number, self.text), lambda _: self.number)
        return found


def run_rows(
    loaded: Loaded,
    texts: Iterable[Rows[T]],
    function: Callable[[Packed], Sequence[R]],
    *,
    progress: bool | None = None,
    what: str = "texts",
) -> Iterator[Rows[T]]:
    """Each text with the ``results`` of its rows, in order. ``function``: a batch -> one result a row, on the host.

    Raises NotFiniteOutput, naming the text, for NaN and infinite numbers.
    """
    waiting: deque[Rows[T]] = deque()

    def produce() -> Iterator[np.ndarray]:
        for text in texts:
            waiting.append(text)
            yield from text.rows

    results = run(
        loaded, produce(), lambda packed, batch: function(packed), encode=lambda rows, first: rows, window=_AHEAD,
        progress=progress, what=what,
    )  # fmt: skip
    for result in results:
        while not waiting[0].rows:
            yield waiting.popleft()
        waiting[0].results.append(result)
        if len(waiting[0].results) == len(waiting[0].rows):
            yield waiting.popleft().finite()
    yield from waiting


def tokenised(loaded: Loaded, texts: Iterable[str]) -> Iterator[tuple[int, str, np.ndarray, np.ndarray]]:
    """(number, text, ids, spans of characters) of each text, special strings in it read as such."""
    stream, number = iter(texts), 0
    while chunk := list(islice(stream, _TOKENISED)):
        check_texts(chunk, number)
        encoded = loaded.tokenizer.encode_spans(chunk, specials=True, first=number)
        for text, (ids, spans) in zip(chunk, encoded, strict=True):
            yield number, text, ids, spans
            number += 1


def windows(loaded: Loaded, ids: np.ndarray) -> list[Window]:
    """The windows of one text; one, if the model can read it whole. A quarter of a window is shared with the next."""
    capacity = max(1, loaded.max_tokens - 2)
    return plan_windows(len(ids), capacity, capacity // 4)


def with_ends(loaded: Loaded, ids: np.ndarray) -> np.ndarray:
    """``<bos> ids <eos>``."""
    return np.concatenate([[loaded.tokenizer.bos_id], ids, [loaded.tokenizer.eos_id]]).astype(np.uint32)
