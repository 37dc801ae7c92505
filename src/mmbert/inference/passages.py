"""Vectors of the passages and the tokens of texts, for ``Embedder.passages`` and ``Embedder.tokens``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmbert.cancellation import check_cancelled
from mmbert.errors import ConfigError, DataError, TooLong
from mmbert.inference.checks import whole
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
from mmbert.inference.vector_predictor import VectorPredictor
from mmbert.inference.vectors import check_output, quantize
from mmbert.inference.windows import Place, Rows, run_rows, tokenised, with_ends
from mmbert.packed import Packed

_AHEAD = 64
"""Texts tokenised at once, and windows in memory at a time: token vectors of 8,192 tokens are 25 MB."""


@dataclass(frozen=True)
class TokenVectors:
    """The tokens of one text without <bos> and <eos>: ``ids`` (n,), character ``spans`` (n, 2), ``vectors`` (n, h).

    A space before a word is part of its token's span.
    """

    text: str
    ids: np.ndarray
    spans: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True)
class Cut:
    """A text cut into passages: their character ``spans``, their ``runs`` of tokens, and the windows to compute."""

    text: str
    spans: list[Span]
    runs: list[Span]
    tokens: int
    windows: list[Window]


Parts = np.ndarray
"""The rows of one window that belong to each passage: (n, 3) int64 of passage, first row, row behind the last."""

_NO_PARTS = np.zeros((0, 3), np.int64)

_FEW = 2048
"""Up to so many parts of a window each is summed by itself: a gather copies all rows once more."""


@dataclass(frozen=True)
class PassageMetadata:
    """How the windows of a text become passages. ``parts``: of each window."""

    cut: Cut
    parts: list[Parts]


def stream_passages(
    embedder: VectorPredictor,
    texts: Iterable[str],
    *,
    dimensions: int | None,
    normalize: bool,
    output: str,
    progress: bool | None,
    **options: Any,
) -> Iterator[Passages]:
    """Return an iterator of the passages of each text, see ``Embedder.passages``. ``options``: of a :class:`Reader`."""
    check_output(output)
    reader = Reader(embedder, **options)
    embedder.warn_untuned()

    def stream() -> Iterator[Passages]:
        rows = reader.rows(texts)
        for found in run_rows(
            embedder.loaded, rows, reader.compute, ahead=_AHEAD, progress=progress, what="embedding windows"
        ):
            vectors = found.check(embedder.finish(reader.pooled(found), dimensions, normalize))
            cut = found.metadata.cut
            yield Passages(cut.text, cut.spans, quantize(vectors, output, embedder.ranges))

    return stream()


class Reader:
    """Reads texts passage by passage; options as in ``Embedder.passages``.

    Raises ConfigError for options that do not go together.
    """

    def __init__(
        self,
        embedder: VectorPredictor,
        *,
        chunking: str,
        by: Any,
        size: int | None,
        overlap: int | None,
        prompt: str | None,
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
        """Yield each text with a row for each window.

        most  passages of all texts; for more, TooLong is raised before they are tokenised or windows are planned
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

        for number, text, ids, spans in tokenised(self.embedder.loaded, split(), prefix, ahead=_AHEAD):
            check_cancelled()
            # tokens that end within the prompt are the prompt's; spans of the others are shifted to the text's own
            # Prompt and text are tokenised together; a token that crosses their border counts as the text's.
            own = int(np.searchsorted(spans[:, 1], len(prefix), side="right")) if prefix else 0
            head, ids = np.concatenate([[tokenizer.bos_id], ids[:own]]), ids[own:]
            spans = np.maximum(spans[own:] - len(prefix), 0)
            # Passages by size depend on tokens; their number is then at least tokens / size, known before any is
            # computed.
            if (found := passages.pop(number)) is None:
                count(-(-len(spans) // self._cutter.size))
            cut = self._cutter(number, text, spans, found)
            rows = [np.concatenate([head, ids[w.start : w.end], [tokenizer.eos_id]]) for w in cut.windows]
            parts = _parts(cut, len(head), self.skip) if self.late else [_NO_PARTS] * len(cut.windows)
            yield Rows(rows, PassageMetadata(cut, parts), number=number, text=text)

    def compute(self, packed: Packed, places: Sequence[Place]) -> list[np.ndarray]:
        """Return for each row of a batch the sums of its parts (late chunking), or its own pooled vector."""
        states = self.embedder.states(packed)
        if not self.late:
            # [:, None]: a window gives one row, as a part of late chunking does, so both are joined the same way.
            return list(pool(states, packed, self.embedder.pooling.modes, self.skip).cpu().numpy()[:, None])
        rows = zip(packed.unpack(states), places, strict=True)
        return [sum_parts(own, text.metadata.parts[index]) for own, (text, index) in rows]

    def pooled(self, text: Rows[PassageMetadata]) -> torch.Tensor:
        """Return (passages, h) of a text whose rows were computed, on the model's device, for ``finish``."""
        vectors = _means(text) if self.late else np.concatenate(text.results)
        return torch.from_numpy(vectors).to(self.embedder.loaded.device)


class _Windows:
    """Cuts a text into windows of tokens, each embedded by itself."""

    def __init__(self, size: int, overlap: int) -> None:
        # Checked here, so that wrong options fail before the first text is read.
        split_tokens(1, size, overlap)  # raises for what cannot work
        self.size, self.overlap = size, overlap

    def split(self, number: int, text: str) -> None:
        """Return None: windows depend on tokens."""

    def __call__(self, number: int, text: str, spans: np.ndarray, passages: list[Span] | None) -> Cut:
        runs = split_tokens(len(spans), self.size, self.overlap)
        windows = [Window(start, end, start, end) for start, end in runs]
        return Cut(text, [character_span(span, spans) for span in runs], runs, len(spans), windows)


class _Late:
    """Cuts a text into passages, which are pooled from as few passes as possible."""

    def __init__(self, by: Any, size: int, capacity: int, overlap: int) -> None:
        split_tokens(1, capacity, overlap)
        if by == "size":
            split_tokens(1, size)
        elif isinstance(by, str) and by not in ("sentence", "paragraph"):
            raise ConfigError(f"by {by!r} is none of sentence, paragraph, size, or lists of spans")
        self.by, self.size, self.capacity, self.overlap = by, size, capacity, overlap

    def split(self, number: int, text: str) -> list[Span] | None:
        """Return the passages of a text; None where they depend on tokens."""
        return None if isinstance(self.by, str) and self.by == "size" else self._passages(number, text)

    def __call__(self, number: int, text: str, spans: np.ndarray, passages: list[Span] | None) -> Cut:
        if passages is None:
            runs = split_tokens(len(spans), self.size)
            passages = [character_span(span, spans) for span in runs]
        else:
            runs = token_spans(passages, spans, f"text {number}", length=len(text))
        return Cut(text, passages, runs, len(spans), plan_windows(len(spans), self.capacity, self.overlap))

    def _passages(self, number: int, text: str) -> list[Span]:
        if isinstance(self.by, str):
            return split_text(text, self.by) or [(0, len(text))]
        if number >= len(self.by):
            raise DataError(f"by has spans for {len(self.by)} texts, there are more: give a list for every text")
        return [(int(start), int(end)) for start, end in self.by[number]]


def _parts(text: Cut, head: int, skip: int) -> list[Parts]:
    """Return the rows of each window that belong to its passages: <bos> and prompt to the first, <eos> to the last.

    The tokens taken from windows are disjoint, so a passage spans the windows from that of its first token to that of
    its last: the work grows with the number of parts, not with windows times passages.
    """
    runs = np.asarray(text.runs, np.int64).reshape(-1, 2)
    firsts = np.array([window.first for window in text.windows])
    lasts = np.array([window.last for window in text.windows])
    if text.tokens:
        # the window that takes a passage's first token, and the one behind the window that takes its last
        begin = np.searchsorted(lasts, runs[:, 0], side="right")
        end = np.searchsorted(firsts, runs[:, 1], side="left")
        count = np.where(runs[:, 0] < runs[:, 1], end - begin, 0)
    else:  # <bos> and <eos> alone, for every passage
        begin, count = np.zeros(len(runs), np.int64), np.ones(len(runs), np.int64)
    passage = np.repeat(np.arange(len(runs)), count)
    # begin, begin + 1, ... for each passage, without a loop
    window = np.arange(len(passage)) + np.repeat(begin - (np.cumsum(count) - count), count)
    order = np.argsort(window, kind="stable")
    passage, window = passage[order], window[order]
    # token t of the text is row t + shift of its window: <bos> and the prompt (``head`` rows) come first
    shift = (head - np.array([window.start for window in text.windows]))[window]
    low = np.maximum(runs[passage, 0], firsts[window]) + shift
    # the first passage also gets the rows before the text from ``skip`` on, and the last one <eos>
    low[(runs[passage, 0] == 0) & (firsts[window] == 0)] = skip
    high = np.minimum(runs[passage, 1], lasts[window]) + shift
    high += (runs[passage, 1] == text.tokens) & (lasts[window] == text.tokens)
    borders = np.searchsorted(window, np.arange(1, len(text.windows)))
    return np.split(np.stack([passage, low, high], axis=1), borders)


def sum_parts(rows: torch.Tensor, parts: Parts) -> np.ndarray:
    """Return the sum of the rows of each part: (parts, h) fp32."""
    # torch.stack raises for an empty list.
    if not len(parts):
        return np.zeros((0, rows.shape[1]), np.float32)
    if len(parts) <= _FEW:
        sums = [rows[low:high].float().sum(dim=0) for _, low, high in parts.tolist()]
        return torch.stack(sums).cpu().numpy()
    lengths = parts[:, 2] - parts[:, 1]
    # rows of all parts as one gather: low, low + 1, ... of each part
    taken = np.arange(lengths.sum()) + np.repeat(parts[:, 1] - (np.cumsum(lengths) - lengths), lengths)
    picked = rows.float()[torch.from_numpy(taken).to(rows.device)]
    return torch.segment_reduce(picked, "sum", lengths=torch.from_numpy(lengths).to(rows.device)).cpu().numpy()


def _means(text: Rows[PassageMetadata]) -> np.ndarray:
    """Return (passages, h) fp32 means, from the sums of all windows."""
    passages, width = len(text.metadata.cut.runs), text.results[0].shape[1]
    total, rows = np.zeros((passages, width), np.float32), np.zeros((passages, 1), np.float32)
    for parts, sums in zip(text.metadata.parts, text.results, strict=True):
        # Fancy indexing with += would lose repeated indices; there are none.
        total[parts[:, 0]] += sums  # a passage is in a window once
        rows[parts[:, 0], 0] += parts[:, 2] - parts[:, 1]
    # mean = (sum over all windows) / (rows over all windows); an empty passage gets zeros, not NaN.
    return np.asarray(total / np.maximum(rows, 1))


def stream_tokens(embedder: VectorPredictor, texts: Iterable[str], progress: bool | None) -> Iterator[TokenVectors]:
    """Yield the token vectors of each text, see ``Embedder.tokens``."""
    loaded, longest = embedder.loaded, embedder.max_tokens - 2

    def rows() -> Iterator[Rows[tuple[np.ndarray, np.ndarray]]]:
        for number, text, ids, spans in tokenised(loaded, texts, ahead=_AHEAD):
            # Token vectors are not windowed: text beyond what the model reads is cut.
            ids, spans = ids[:longest], spans[:longest]
            yield Rows([with_ends(loaded, ids)], (ids, spans), number=number, text=text)

    def states(packed: Packed, places: Sequence[Place]) -> Sequence[np.ndarray]:
        return [rows[1:-1] for rows in packed.unpack(embedder.states(packed).float().cpu().numpy())]

    for found in run_rows(loaded, rows(), states, ahead=_AHEAD, progress=progress, what="embedding tokens"):
        yield TokenVectors(found.text, *found.metadata, found.results[0])
