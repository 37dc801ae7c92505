"""Streams behind ``Embedder.passages`` and ``Embedder.tokens``: long texts in windows, put together again in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmbert.errors import ConfigError, DataError
from mmbert.inference.batching import run
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
from mmbert.packed import Packed

if TYPE_CHECKING:
    from mmbert.inference.embedder import Embedder, TokenVectors

_AHEAD = 64
"""Texts tokenised at once, and windows in memory at a time: token vectors of 8,192 tokens are 25 MB."""


@dataclass
class _Text:
    """A text on its way: its passages, where they lie in tokens, and its windows."""

    text: str
    spans: list[Span]
    runs: list[Span]
    tokens: int
    windows: list[Window]
    sums: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class _Piece:
    """One window as the model reads it, and the rows of it that go to each passage."""

    ids: np.ndarray
    parts: list[tuple[int, int, int]]
    """(passage, first row, row behind the last)."""


def stream_passages(
    embedder: Embedder,
    texts: Iterable[str],
    *,
    chunking: str,
    by: Any,
    size: int | None,
    overlap: int | None,
    prompt: str | None,
    dimensions: int | None,
    normalize: bool,
    output: str,
    progress: bool | None,
) -> Iterator[Passages]:
    """See ``Embedder.passages``."""
    check_output(output)
    prefix = embedder.prompt_text(prompt)
    capacity = embedder.max_tokens - 2 - len(embedder.loaded.tokenizer.encode_batch([prefix], specials=True)[0])
    if capacity < 1:
        raise ConfigError(
            f"the prompt leaves no room for text in the {embedder.max_tokens} tokens that the model reads"
        )
    cutter: _Windows | _Late
    if chunking == "windows":
        if by is not None:
            raise ConfigError("by is for late chunking; windows go by size, in tokens")
        wide = capacity if size is None else min(size, capacity)
        cutter = _Windows(wide, wide // 8 if overlap is None else overlap)
    elif chunking == "late":
        if embedder.pooling.modes != ("mean",):
            raise ConfigError(f"late chunking takes means, the model pools {embedder.pooling.modes}: use windows")
        cutter = _Late(by or "sentence", size or 256, capacity, capacity // 4 if overlap is None else overlap)
    else:
        raise ConfigError(f"chunking {chunking!r} is neither windows nor late")
    return _stream(embedder, texts, cutter, prefix, dimensions, normalize, output, progress)


class _Windows:
    """Pieces of a text, each for itself."""

    def __init__(self, size: int, overlap: int) -> None:
        split_tokens(1, size, overlap)  # raises for what cannot work
        self.size, self.overlap = size, overlap

    def __call__(self, number: int, text: str, spans: np.ndarray) -> _Text:
        runs = split_tokens(len(spans), self.size, self.overlap)
        windows = [Window(start, end, start, end) for start, end in runs]
        return _Text(text, [character_span(span, spans) for span in runs], runs, len(spans), windows)


class _Late:
    """Passages of a text, pooled from as few passes as possible."""

    def __init__(self, by: Any, size: int, capacity: int, overlap: int) -> None:
        split_tokens(1, capacity, overlap)
        if by == "size":
            split_tokens(1, size)
        elif isinstance(by, str) and by not in ("sentence", "paragraph"):
            raise ConfigError(f"by {by!r} is none of sentence, paragraph, size, or lists of spans")
        self.by, self.size, self.capacity, self.overlap = by, size, capacity, overlap

    def __call__(self, number: int, text: str, spans: np.ndarray) -> _Text:
        if self.by == "size":
            runs = split_tokens(len(spans), self.size)
            passages = [character_span(span, spans) for span in runs]
        else:
            passages = self._passages(number, text)
            runs = token_spans(passages, spans, f"text {number}")
        return _Text(text, passages, runs, len(spans), plan_windows(len(spans), self.capacity, self.overlap))

    def _passages(self, number: int, text: str) -> list[Span]:
        if isinstance(self.by, str):
            return split_text(text, self.by) or [(0, len(text))]
        if number >= len(self.by):
            raise DataError(f"by has spans for {len(self.by)} texts, there are more: give a list for every text")
        return [(int(start), int(end)) for start, end in self.by[number]]


def _stream(
    embedder: Embedder,
    texts: Iterable[str],
    cutter: _Windows | _Late,
    prefix: str,
    dimensions: int | None,
    normalize: bool,
    output: str,
    progress: bool | None,
) -> Iterator[Passages]:
    waiting: deque[_Text] = deque()
    pieces: dict[int, _Piece] = {}
    numbers = count()
    late = isinstance(cutter, _Late)
    skip = embedder.skipped(prefix)
    tokenizer = embedder.loaded.tokenizer

    def produce() -> Iterator[np.ndarray]:
        for number, text, ids, spans in _tokenised(embedder, texts, prefix):
            own = int(np.searchsorted(spans[:, 1], len(prefix), side="right")) if prefix else 0
            head, ids = np.concatenate([[tokenizer.bos_id], ids[:own]]), ids[own:]
            cut = cutter(number, text, np.maximum(spans[own:] - len(prefix), 0))
            waiting.append(cut)
            for window in cut.windows:
                row = np.concatenate([head, ids[window.start : window.end], [tokenizer.eos_id]])
                parts = _parts(cut, window, len(head), skip) if late else []
                pieces[next(numbers)] = _Piece(row, parts)
                yield row

    def embed(packed: Packed, indices: list[int]) -> list[np.ndarray]:
        states = embedder.states(packed)
        if not late:
            return list(pool(states, packed, embedder.pooling.modes, skip).cpu().numpy()[:, None])
        rows = packed.unpack(states)
        return [_sums(piece, pieces[index].parts) for index, piece in zip(indices, rows, strict=True)]

    results = run(
        embedder.loaded, produce(), embed, encode=lambda rows, first: rows, window=_AHEAD,
        progress=progress, what="embedding windows",
    )  # fmt: skip
    for number, found in enumerate(results):
        piece, text = pieces.pop(number), waiting[0]
        text.sums.append(_spread(piece, found, len(text.runs)) if late else found)
        if len(text.sums) < len(text.windows):
            continue
        waiting.popleft()
        pooled = _means(text) if late else np.concatenate(text.sums)
        vectors = embedder.finish(torch.from_numpy(pooled).to(embedder.loaded.device), dimensions, normalize)
        yield Passages(text.text, text.spans, quantize(vectors, output, embedder.ranges))


def _parts(text: _Text, window: Window, head: int, skip: int) -> list[tuple[int, int, int]]:
    """Rows of a window that go to each passage: <bos> and the prompt to the first, <eos> to the last."""
    shift, parts = head - window.start, []
    for passage, (start, end) in enumerate(text.runs):
        first, last = max(start, window.first), min(end, window.last)
        low = skip if start == 0 == window.first else first + shift
        high = last + shift + (end == text.tokens == window.last)
        if first < last or not text.tokens:
            parts.append((passage, low, high))
    return parts


def _sums(rows: torch.Tensor, parts: list[tuple[int, int, int]]) -> np.ndarray:
    """Sum of the rows of each part: (parts, h)."""
    if not parts:
        return np.zeros((0, rows.shape[1]), np.float32)
    return torch.stack([rows[low:high].float().sum(dim=0) for _, low, high in parts]).cpu().numpy()


def _spread(piece: _Piece, sums: np.ndarray, passages: int) -> np.ndarray:
    """Sums at their passages, and behind them the number of rows: (passages, h + 1)."""
    out = np.zeros((passages, sums.shape[1] + 1), np.float32)
    for (passage, low, high), row in zip(piece.parts, sums, strict=True):
        out[passage, :-1] += row
        out[passage, -1] += high - low
    return out


def _means(text: _Text) -> np.ndarray:
    total = np.stack(text.sums).sum(axis=0)
    return np.asarray(total[:, :-1] / np.maximum(total[:, -1:], 1))


def _tokenised(
    embedder: Embedder, texts: Iterable[str], prefix: str = ""
) -> Iterator[tuple[int, str, np.ndarray, np.ndarray]]:
    """(number, text, ids, spans) of each text with the prompt before it; spans count the prompt's characters too."""
    stream, number = iter(texts), 0
    while chunk := list(islice(stream, _AHEAD)):
        prompted = [prefix + text if isinstance(text, str) else text for text in chunk]
        encoded = embedder.loaded.tokenizer.encode_spans(prompted, specials=True, first=number)
        for text, (ids, spans) in zip(chunk, encoded, strict=True):
            yield number, text, ids, spans
            number += 1


def stream_tokens(embedder: Embedder, texts: Iterable[str], progress: bool | None) -> Iterator[TokenVectors]:
    """See ``Embedder.tokens``."""
    from mmbert.inference.embedder import TokenVectors

    tokenizer, longest = embedder.loaded.tokenizer, embedder.max_tokens - 2
    waiting: deque[tuple[str, np.ndarray, np.ndarray]] = deque()

    def produce() -> Iterator[np.ndarray]:
        for _, text, ids, spans in _tokenised(embedder, texts):
            waiting.append((text, ids[:longest], spans[:longest]))
            yield np.concatenate([[tokenizer.bos_id], ids[:longest], [tokenizer.eos_id]])

    def embed(packed: Packed, indices: list[int]) -> Sequence[np.ndarray]:
        return [np.asarray(rows[1:-1]) for rows in packed.unpack(embedder.states(packed).float().cpu().numpy())]

    rows = run(
        embedder.loaded, produce(), embed, encode=lambda rows, first: rows, window=_AHEAD, progress=progress,
        what="embedding tokens",
    )  # fmt: skip
    for vectors in rows:
        text, ids, spans = waiting.popleft()
        yield TokenVectors(text, ids, spans, vectors)
