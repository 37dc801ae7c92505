"""Streams behind ``Embedder.passages`` and ``Embedder.tokens``: long texts in windows, put together again in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmbert.cancellation import check_cancelled
from mmbert.errors import ConfigError, DataError, TooLong
from mmbert.inference.batching import Batch, run
from mmbert.inference.checks import check_texts, whole
from mmbert.inference.chunking import (
    Passages,
    Span,
    Window,
    character_span,
    plan_windows,
    split_text,
    split_tokens,
    token_spans,
)
from mmbert.inference.pooling import pool
from mmbert.inference.vectors import check_output, quantize
from mmbert.inference.windows import Rows
from mmbert.packed import Packed

if TYPE_CHECKING:
    from mmbert.inference.embedder import Embedder, TokenVectors

_AHEAD = 64
"""Texts tokenised at once, and windows in memory at a time: token vectors of 8,192 tokens are 25 MB."""


@dataclass(frozen=True)
class Cut:
    """A text in passages: their ``spans`` of characters, their ``runs`` of tokens, and what goes through the model."""

    text: str
    spans: list[Span]
    runs: list[Span]
    tokens: int
    windows: list[Window]


Parts = np.ndarray
"""What of one window goes to which passage: (n, 3) int64 of passage, first row, row behind the last."""

_NO_PARTS = np.zeros((0, 3), np.int64)

_FEW = 2048
"""Parts of a window up to which each is summed by itself."""


@dataclass(frozen=True)
class PassageMetadata:
    """What is known of a text while its windows are computed. ``parts``: of each window."""

    cut: Cut
    parts: list[Parts]


def stream_passages(
    embedder: Embedder,
    texts: Iterable[str],
    *,
    dimensions: int | None,
    normalize: bool,
    output: str,
    progress: bool | None,
    **options: Any,
) -> Iterator[Passages]:
    """See ``Embedder.passages``. ``options``: of a :class:`Reader`."""
    check_output(output)
    reader = Reader(embedder, **options)

    def stream() -> Iterator[Passages]:
        for found in _run(embedder, reader, texts, progress):
            vectors = found.check(embedder.finish(reader.pooled(found), dimensions, normalize))
            yield Passages(
                found.metadata.cut.text, found.metadata.cut.spans, quantize(vectors, output, embedder.ranges)
            )

    return stream()


class Reader:
    """How an embedder reads texts passage by passage; options as in ``Embedder.passages``.

    Raises ConfigError for options that do not go together.
    """

    def __init__(
        self, embedder: Embedder, *, chunking: str, by: Any, size: int | None, overlap: int | None, prompt: str | None
    ) -> None:
        self.embedder, self.late = embedder, chunking == "late"
        self.prefix = prefix = embedder.prompt_text(prompt)
        self.skip = embedder.skipped(prefix)
        capacity = embedder.max_tokens - 2 - len(embedder.loaded.tokenizer.encode_batch([prefix], specials=True)[0])
        if capacity < 1:
            raise ConfigError(
                f"the prompt leaves no room for text in the {embedder.max_tokens} tokens that the model reads"
            )
        self._cutter: _Windows | _Late
        if chunking == "windows":
            if by is not None:
                raise ConfigError("by is for late chunking; windows go by size, in tokens")
            wide = capacity if size is None else min(whole("size", size), capacity)
            self._cutter = _Windows(wide, wide // 8 if overlap is None else whole("overlap", overlap, 0))
        elif chunking == "late":
            if embedder.pooling.modes != ("mean",):
                raise ConfigError(f"late chunking takes means, the model pools {embedder.pooling.modes}: use windows")
            wide = 256 if size is None else whole("size", size)
            shared = capacity // 4 if overlap is None else whole("overlap", overlap, 0)
            self._cutter = _Late("sentence" if by is None else by, wide, capacity, shared)
        else:
            raise ConfigError(f"chunking {chunking!r} is neither windows nor late")

    def rows(self, texts: Iterable[str], most: int | None = None) -> Iterator[Rows[PassageMetadata]]:
        """Each text as the model reads it, a row a window.

        most  passages of all texts; for more TooLong is raised before they are tokenised, or windows are planned
        """
        tokenizer, prefix = self.embedder.loaded.tokenizer, self.prefix
        passages: dict[int, list[Span] | None] = {}
        known = 0

        def count(more: int) -> None:
            nonlocal known
            known += more
            if most is not None and known > most:
                raise TooLong(f"the texts have {known:,} passages or more, an answer may have {most:,}: send fewer")

        def split() -> Iterator[str]:
            for number, text in enumerate(texts):
                check_cancelled()
                passages[number] = found = self._cutter.split(number, text) if isinstance(text, str) else None
                count(len(found or ()))
                yield text

        for number, text, ids, spans in _tokenised(self.embedder, split(), prefix):
            check_cancelled()
            own = int(np.searchsorted(spans[:, 1], len(prefix), side="right")) if prefix else 0
            head, ids = np.concatenate([[tokenizer.bos_id], ids[:own]]), ids[own:]
            spans = np.maximum(spans[own:] - len(prefix), 0)
            if (found := passages.pop(number)) is None:
                count(-(-len(spans) // self._cutter.size))
            cut = self._cutter(number, text, spans, found)
            rows = [np.concatenate([head, ids[w.start : w.end], [tokenizer.eos_id]]) for w in cut.windows]
            parts = _parts(cut, len(head), self.skip) if self.late else [_NO_PARTS] * len(cut.windows)
            yield Rows(rows, PassageMetadata(cut, parts), number=number, text=text)

    def read(self, states: torch.Tensor, packed: Packed, parts: Sequence[Parts]) -> list[np.ndarray]:
        """Of token vectors (T, h) what each row of a batch gives: sums of its parts, or its own pooled vector."""
        if not self.late:
            return list(pool(states, packed, self.embedder.pooling.modes, self.skip).cpu().numpy()[:, None])
        return [sum_parts(rows, own) for rows, own in zip(packed.unpack(states), parts, strict=True)]

    def pooled(self, found: Rows[PassageMetadata]) -> torch.Tensor:
        """Vectors (passages, h) of a text whose rows were read, on the model's device, for ``Embedder.finish``."""
        vectors = _means(found) if self.late else np.concatenate(found.results)
        return torch.from_numpy(vectors).to(self.embedder.loaded.device)


class _Windows:
    """Parts of a text, each for itself."""

    def __init__(self, size: int, overlap: int) -> None:
        split_tokens(1, size, overlap)  # raises for what cannot work
        self.size, self.overlap = size, overlap

    def split(self, number: int, text: str) -> None:
        """Nothing is known before the tokens are."""

    def __call__(self, number: int, text: str, spans: np.ndarray, passages: list[Span] | None) -> Cut:
        runs = split_tokens(len(spans), self.size, self.overlap)
        windows = [Window(start, end, start, end) for start, end in runs]
        return Cut(text, [character_span(span, spans) for span in runs], runs, len(spans), windows)


class _Late:
    """Passages of a text, pooled from as few passes as possible."""

    def __init__(self, by: Any, size: int, capacity: int, overlap: int) -> None:
        split_tokens(1, capacity, overlap)
        if by == "size":
            split_tokens(1, size)
        elif isinstance(by, str) and by not in ("sentence", "paragraph"):
            raise ConfigError(f"by {by!r} is none of sentence, paragraph, size, or lists of spans")
        self.by, self.size, self.capacity, self.overlap = by, size, capacity, overlap

    def split(self, number: int, text: str) -> list[Span] | None:
        """The passages of a text; None where tokens decide."""
        return None if isinstance(self.by, str) and self.by == "size" else self._passages(number, text)

    def __call__(self, number: int, text: str, spans: np.ndarray, passages: list[Span] | None) -> Cut:
        if passages is None:
            runs = split_tokens(len(spans), self.size)
            passages = [character_span(span, spans) for span in runs]
        else:
            runs = token_spans(passages, spans, f"text {number}")
        return Cut(text, passages, runs, len(spans), plan_windows(len(spans), self.capacity, self.overlap))

    def _passages(self, number: int, text: str) -> list[Span]:
        if isinstance(self.by, str):
            return split_text(text, self.by) or [(0, len(text))]
        if number >= len(self.by):
            raise DataError(f"by has spans for {len(self.by)} texts, there are more: give a list for every text")
        return [(int(start), int(end)) for start, end in self.by[number]]


def _run(
    embedder: Embedder, reader: Reader, texts: Iterable[str], progress: bool | None
) -> Iterator[Rows[PassageMetadata]]:
    waiting: deque[Rows[PassageMetadata]] = deque()
    parts: dict[int, Parts] = {}
    numbers = count()

    def produce() -> Iterator[np.ndarray]:
        for text in reader.rows(texts):
            waiting.append(text)
            for row, own in zip(text.rows, text.metadata.parts, strict=True):
                parts[next(numbers)] = own
                yield row

    def embed(packed: Packed, batch: Batch) -> list[np.ndarray]:
        return reader.read(embedder.states(packed), packed, [parts.pop(index) for index in batch.indices])

    results = run(
        embedder.loaded, produce(), embed, encode=lambda rows, first: rows, window=_AHEAD,
        progress=progress, what="embedding windows",
    )  # fmt: skip
    for result in results:
        waiting[0].results.append(result)
        if len(waiting[0].results) == len(waiting[0].rows):
            yield waiting.popleft()


def _parts(text: Cut, head: int, skip: int) -> list[Parts]:
    """Rows of each window that go to its passages: <bos> and the prompt to the first, <eos> to the last.

    Windows are disjoint in what is taken of them, so a passage is in those from the one that holds its first token to
    the one that holds its last: pairs are as many as parts, not windows times passages.
    """
    runs = np.asarray(text.runs, np.int64).reshape(-1, 2)
    firsts = np.array([window.first for window in text.windows])
    lasts = np.array([window.last for window in text.windows])
    if text.tokens:
        begin = np.searchsorted(lasts, runs[:, 0], side="right")
        end = np.searchsorted(firsts, runs[:, 1], side="left")
        count = np.where(runs[:, 0] < runs[:, 1], end - begin, 0)
    else:  # <bos> and <eos> alone, for every passage
        begin, count = np.zeros(len(runs), np.int64), np.ones(len(runs), np.int64)
    passage = np.repeat(np.arange(len(runs)), count)
    window = np.arange(len(passage)) + np.repeat(begin - (np.cumsum(count) - count), count)
    order = np.argsort(window, kind="stable")
    passage, window = passage[order], window[order]
    shift = (head - np.array([window.start for window in text.windows]))[window]
    low = np.maximum(runs[passage, 0], firsts[window]) + shift
    low[(runs[passage, 0] == 0) & (firsts[window] == 0)] = skip
    high = np.minimum(runs[passage, 1], lasts[window]) + shift
    high += (runs[passage, 1] == text.tokens) & (lasts[window] == text.tokens)
    borders = np.searchsorted(window, np.arange(1, len(text.windows)))
    return np.split(np.stack([passage, low, high], axis=1), borders)


def sum_parts(rows: torch.Tensor, parts: Parts) -> np.ndarray:
    """Sum of the rows of each part: (parts, h)."""
    if not len(parts):
        return np.zeros((0, rows.shape[1]), np.float32)
    if len(parts) <= _FEW:
        sums = [rows[low:high].float().sum(dim=0) for _, low, high in parts.tolist()]
        return torch.stack(sums).cpu().numpy()
    lengths = parts[:, 2] - parts[:, 1]
    taken = np.arange(lengths.sum()) + np.repeat(parts[:, 1] - (np.cumsum(lengths) - lengths), lengths)
    picked = rows.float()[torch.from_numpy(taken).to(rows.device)]
    return torch.segment_reduce(picked, "sum", lengths=torch.from_numpy(lengths).to(rows.device)).cpu().numpy()


def _means(found: Rows[PassageMetadata]) -> np.ndarray:
    """(passages, h) fp32, from the sums of all windows."""
    passages, width = len(found.metadata.cut.runs), found.results[0].shape[1]
    total, rows = np.zeros((passages, width), np.float32), np.zeros((passages, 1), np.float32)
    for parts, sums in zip(found.metadata.parts, found.results, strict=True):
        total[parts[:, 0]] += sums  # a passage is in a window once
        rows[parts[:, 0], 0] += parts[:, 2] - parts[:, 1]
    return np.asarray(total / np.maximum(rows, 1))


def _tokenised(
    embedder: Embedder, texts: Iterable[str], prefix: str = ""
) -> Iterator[tuple[int, str, np.ndarray, np.ndarray]]:
    """(number, text, ids, spans) of each text with the prompt before it; spans count the prompt's characters too."""
    stream, number = iter(texts), 0
    while chunk := list(islice(stream, _AHEAD)):
        check_texts(chunk, number)
        prompted = [prefix + text for text in chunk]
        encoded = embedder.loaded.tokenizer.encode_spans(prompted, specials=True, first=number)
        for text, (ids, spans) in zip(chunk, encoded, strict=True):
            yield number, text, ids, spans
            number += 1


def stream_tokens(embedder: Embedder, texts: Iterable[str], progress: bool | None) -> Iterator[TokenVectors]:
    """See ``Embedder.tokens``."""
    from mmbert.inference.embedder import TokenVectors

    tokenizer, longest = embedder.loaded.tokenizer, embedder.max_tokens - 2
    waiting: deque[Rows[tuple[np.ndarray, np.ndarray]]] = deque()

    def produce() -> Iterator[np.ndarray]:
        for number, text, ids, spans in _tokenised(embedder, texts):
            waiting.append(Rows([], (ids[:longest], spans[:longest]), number=number, text=text))
            yield np.concatenate([[tokenizer.bos_id], ids[:longest], [tokenizer.eos_id]])

    def embed(packed: Packed, batch: Batch) -> Sequence[np.ndarray]:
        return [np.asarray(rows[1:-1]) for rows in packed.unpack(embedder.states(packed).float().cpu().numpy())]

    rows = run(
        embedder.loaded, produce(), embed, encode=lambda rows, first: rows, window=_AHEAD, progress=progress,
        what="embedding tokens",
    )  # fmt: skip
    for vectors in rows:
        found = waiting.popleft()
        yield TokenVectors(found.text, *found.metadata, found.check(vectors))
