"""Texts that may take several passes: their rows are batched with those of other texts, and collected again.

A text that the model can read whole is one row. A longer one is cut into windows that overlap, and each of its tokens
is taken from the window in which it is farther from the edge (:func:`mmbert.inference.chunking.plan_windows`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any, Generic, TypeVar

import numpy as np

from mmbert.inference.batching import Batch, run
from mmbert.inference.checks import check_finite, check_texts, text_name
from mmbert.inference.chunking import Window, plan_windows
from mmbert.inference.load import Loaded
from mmbert.packed import Packed

T = TypeVar("T")

_AHEAD = 1024
"""Rows read ahead and sorted by length together."""

_TOKENISED = 256
"""Texts tokenised at once."""


@dataclass
class Rows(Generic[T]):
    """One text: its ``rows`` of token ids as the model reads them, and what the result needs to know of it.

    results       one for each row, as they are computed
    number, text  for messages: its place in the input, and its characters
    """

    rows: Sequence[np.ndarray]
    metadata: T
    results: list[Any] = field(default_factory=list)
    number: int = 0
    text: Any = ""

    def finite(self) -> Rows[T]:
        """Return the text, all of whose rows have results. Raises NotFiniteOutput if one of those is not finite."""
        for result in self.results:
            self.check(result[0] if isinstance(result, tuple) else result)  # (probabilities, token ids)
        return self

    def check(self, values: np.ndarray) -> np.ndarray:
        """Return the model's numbers for this text. Raises NotFiniteOutput where one is NaN or infinite."""
        found: np.ndarray = check_finite(values, lambda _: text_name(self.number, self.text), lambda _: self.number)
        return found


Place = tuple[Rows[Any], int]
"""A row: its text, and its index among the rows of that text."""

Compute = Callable[[Packed, Sequence[Place]], Sequence[Any]]
"""A batch on the model's device, and the place of each of its sequences -> one result for each, on the host."""


def run_rows(
    loaded: Loaded,
    texts: Iterable[Rows[T]],
    compute: Compute,
    *,
    ahead: int = _AHEAD,
    progress: bool | None = None,
    what: str = "texts",
) -> Iterator[Rows[T]]:
    """Yield each text with the ``results`` of its rows, in order. ``ahead``: rows in memory at a time.

    Raises NotFiniteOutput, which names the text, for NaN and infinite numbers.
    """
    waiting: deque[Rows[T]] = deque()
    places: dict[int, Place] = {}
    numbers = count()

    def produce() -> Iterator[np.ndarray]:
        for text in texts:
            waiting.append(text)
            for index, row in enumerate(text.rows):
                places[next(numbers)] = (text, index)
                yield row

    def function(packed: Packed, batch: Batch) -> Sequence[Any]:
        return compute(packed, [places.pop(number) for number in batch.indices])

    results = run(
        loaded, produce(), function, encode=lambda rows, first: rows, window=ahead, progress=progress, what=what
    )
    for result in results:  # rows come back in order, so each belongs to the first text that is not complete
        while not waiting[0].rows:
            yield waiting.popleft()
        waiting[0].results.append(result)
        if len(waiting[0].results) == len(waiting[0].rows):
            yield waiting.popleft().finite()
    yield from waiting


def tokenised(
    loaded: Loaded, texts: Iterable[str], prefix: str = "", *, ahead: int = _TOKENISED
) -> Iterator[tuple[int, str, np.ndarray, np.ndarray]]:
    """Yield (number, text, ids, character spans) of each text; special strings in it become special tokens.

    prefix  a prompt before each text, whose tokens and characters are in ids and spans
    """
    stream, number = iter(texts), 0
    while chunk := list(islice(stream, ahead)):
        check_texts(chunk, number)
        prompted = [prefix + text for text in chunk] if prefix else chunk
        encoded = loaded.tokenizer.encode_spans(prompted, specials=True, first=number)
        for text, (ids, spans) in zip(chunk, encoded, strict=True):
            yield number, text, ids, spans
            number += 1


def windows(loaded: Loaded, ids: np.ndarray) -> list[Window]:
    """Return the windows of one text: one if the model can read it whole, else each shares a quarter with the next."""
    capacity = max(1, loaded.max_tokens - 2)
    return plan_windows(len(ids), capacity, capacity // 4)


def with_ends(loaded: Loaded, ids: np.ndarray) -> np.ndarray:
    """Return ``<bos> ids <eos>``, uint32."""
    return np.concatenate([[loaded.tokenizer.bos_id], ids, [loaded.tokenizer.eos_id]]).astype(np.uint32)
