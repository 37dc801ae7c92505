"""Batches of texts: tokenised ahead, cut by tokens, with results in the order of the texts, in bounded memory.

1. :func:`_windows` takes a window of texts off the stream: a fixed number, or fewer long ones;
2. a thread tokenises it while the model computes the window before (the tokenizer releases the GIL);
3. :func:`cut` sorts the window by length, so that documents of one length share a batch, and cuts it by tokens;
4. :func:`run` calls a function for each batch and yields its results in the order of the texts.

A batch of about 2,000 tokens stays in the cache of a CPU from one layer to the next; a GPU needs larger ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch

from mmbert.inference.checks import check_finite, check_texts, text_name, whole
from mmbert.inference.load import Loaded
from mmbert.log import progress as progress_bar
from mmbert.packed import Packed
from mmbert.tokenizer.long_texts import encode_ends

T = TypeVar("T")
R = TypeVar("R")

Encode = Callable[[Sequence[T], int], Sequence[np.ndarray]]
"""Texts, and the number of the first one -> the ids of each, special tokens included."""

WINDOW = 4096
"""Texts in memory at a time, twice over: one window is computed while the next is tokenised."""

CHARACTERS = 4_000_000
"""Characters of a window at most (a single text may have more)."""


@dataclass(frozen=True)
class Batch:
    """A batch: ``packed`` (NumPy), the numbers of its texts in the stream, and the texts."""

    indices: list[int]
    packed: Packed
    items: list[Any]

    def finite(self, values: np.ndarray) -> np.ndarray:
        """Return the model's numbers, a row for each text. Raises NotFiniteOutput, naming the text, for NaN."""
        found: np.ndarray = check_finite(
            values, lambda row: text_name(self.indices[row], self.items[row]), self.indices.__getitem__
        )
        return found


def token_budget(device: torch.device) -> int:
    """Return the tokens of a batch that keep a device busy."""
    return 32768 if device.type == "cuda" else 2048


def text_encoder(
    loaded: Loaded,
    prompt: str = "",
    *,
    max_tokens: int | None = None,
    noted: Callable[[int, int, int], None] | None = None,
    end: bool = False,
) -> Encode[str]:
    """Return a function from texts to ``<bos> prompt text <eos>``, cut at ``max_tokens`` (default: the model's).

    noted  called for a text that is empty or cut, with its number, its tokens, and the number of special tokens
    end    keep the end of a text that is cut, instead of its beginning
    """
    tokenizer, longest = loaded.tokenizer, (max_tokens or loaded.max_tokens) - 2
    bos, eos = np.array([tokenizer.bos_id], np.uint32), np.array([tokenizer.eos_id], np.uint32)

    def encode(texts: Sequence[str], first: int) -> list[np.ndarray]:
        check_texts(texts, first)
        if prompt:
            texts = [prompt + text for text in texts]
        rows = encode_ends(
            tokenizer.encode_batch, texts, longest + 1, first=first, end=end
        )  # one more tells that a text is cut
        if noted is not None:
            for index, row in enumerate(rows):
                if len(row) > longest or not len(row):
                    noted(first + index, len(row), 2)
        kept = slice(-longest, None) if end else slice(longest)
        return [np.concatenate([bos, row[kept], eos]) for row in rows]

    return encode


def batches(
    items: Iterable[T], encode: Encode[T], budget: int, window: int = WINDOW, start: int = 0
) -> Iterator[Batch]:
    """Yield batches of about ``budget`` tokens, window by window, in each from short texts to long ones.

    start  number of the first text
    """
    found = _windows(items, window)
    here = next(found, None)
    if here is None:
        return
    later = next(found, None)
    if later is None:  # a single window needs no thread
        yield from _prepare(here, start, encode, budget)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="tokenise") as pool:
        ahead: Future[list[Batch]] | None = None
        for texts in chain([here, later], found):
            following = pool.submit(_prepare, texts, start, encode, budget)  # runs while the caller computes ``ahead``
            start += len(texts)
            if ahead is not None:
                yield from ahead.result()
            ahead = following
        if ahead is not None:
            yield from ahead.result()


def _prepare(texts: Sequence[T], start: int, encode: Encode[T], budget: int) -> list[Batch]:
    return list(cut(texts, encode(texts, start), budget, start))


def cut(texts: Sequence[Any], rows: Sequence[np.ndarray], budget: int, start: int = 0) -> Iterator[Batch]:
    """Yield batches of at most ``budget`` tokens, sorted by length; a longer sequence is a batch of its own."""

    def batch() -> Batch:
        packed = Packed.from_lists([rows[index] for index in chosen])
        return Batch([start + index for index in chosen], packed, [texts[index] for index in chosen])

    lengths = np.array([len(row) for row in rows])
    chosen: list[int] = []
    tokens = 0
    for number in np.argsort(lengths, kind="stable").tolist():  # stable: equal texts give equal batches
        if chosen and tokens + lengths[number] > budget:
            yield batch()
            chosen, tokens = [], 0
        chosen.append(number)
        tokens += int(lengths[number])
    if chosen:
        yield batch()


def run(
    loaded: Loaded,
    items: Iterable[T],
    function: Callable[[Packed, Batch], Sequence[R]],
    *,
    encode: Encode[T],
    budget: int | None = None,
    window: int = WINDOW,
    first: int = 0,
    progress: bool | None = None,
    what: str = "texts",
) -> Iterator[R]:
    """Yield one result for each text, in order. ``items`` may be endless: two windows are in memory.

    function  (ids on the model's device, batch) -> one result for each text, on the host, after
              :meth:`Batch.finite`; called without gradients
    budget    tokens of a batch; default by device
    first     number of the first text, for messages
    progress  a bar on stderr; default: for more than one window
    """
    if budget is not None:
        whole("budget", budget)
    total = len(items) if isinstance(items, Sized) else None
    shown = progress if progress is not None else total is None or total > window
    done: dict[int, R] = {}  # results that wait for those of earlier texts: a window at most
    following = first
    bar: progress_bar[Any] | None = None
    try:
        for batch in batches(items, encode, budget or token_budget(loaded.device), window, first):
            if shown and bar is None and (progress or batch.indices[0] - first >= window or total is not None):
                bar = progress_bar(total=total, desc=what, unit="text", initial=following - first)
            with torch.inference_mode():
                results = function(batch.packed.to(loaded.device), batch)
            done.update(zip(batch.indices, results, strict=True))
            if bar is not None:
                bar.update(len(batch.indices))
            while following in done:  # batches are sorted by length, results are yielded in the order of texts
                yield done.pop(following)
                following += 1
    finally:
        if bar is not None:
            bar.close()


def _windows(items: Iterable[T], size: int) -> Iterator[list[T]]:
    texts: list[T] = []
    characters = 0
    for item in items:
        texts.append(item)
        characters += _characters(item)
        if len(texts) >= size or characters >= CHARACTERS:
            yield texts
            texts, characters = [], 0
    if texts:
        yield texts


def _characters(item: Any) -> int:
    """Return the characters of a text, or of the texts of a pair."""
    if isinstance(item, str):
        return len(item)
    return sum(map(_characters, item)) if isinstance(item, tuple | list) else 0
