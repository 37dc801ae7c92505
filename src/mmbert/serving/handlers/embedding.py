"""The handler for vectors of texts, of their tokens and of their passages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch

from mmbert.cancellation import check_cancelled
from mmbert.errors import DataError, TooLong
from mmbert.inference.batching import text_encoder
from mmbert.inference.chunking import Passages, Span
from mmbert.inference.embedder import Embedder
from mmbert.inference.passages import Reader, sum_parts
from mmbert.inference.pooling import pool
from mmbert.inference.windows import Place, Rows
from mmbert.packed import Packed
from mmbert.serving.engine import Failed
from mmbert.serving.handlers.texts import Cut, characters, refuse_long
from mmbert.serving.task import Task


@dataclass(frozen=True)
class _Pooled:
    """Marks a row for its pooled vector. ``skip``: first tokens that pooling leaves out."""

    skip: int


@dataclass(frozen=True)
class _Tokens:
    """Marks a row for all its token vectors."""


class EmbeddingHandler:
    """Tasks for an embedder. All of them share batches."""

    name, routes = "embedding", "/embed /embed_all /passages /similarity /v1/embeddings"

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder
        embedder.warn_untuned()
        self._prefix = lru_cache(256)(self._prefix_of)

    def embed(
        self,
        texts: Sequence[str],
        *,
        prompt: str | None = None,
        prefix: str | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        cut: Cut = None,
    ) -> Task[np.ndarray]:
        """Return the task for (n, d) fp32, as ``Embedder.__call__``. ``prompt``: a name, or None for the default.

        prefix  the text of a prompt instead of its name
        cut     what is kept of a text that is too long; None: TooLong is raised
        """
        width = self.embedder.width(dimensions)
        before, skip = self._prefix(prompt) if prefix is None else (prefix, self.embedder.skipped(prefix))

        def prepare() -> list[Rows[Any]]:
            rows = self._encoder(before, cut)(texts, 0)
            return [Rows([row], _Pooled(skip)) for row in rows]

        def finish(rows: list[Rows[Any]]) -> np.ndarray:
            if not rows:
                return np.zeros((0, width), np.float32)
            pooled = torch.from_numpy(np.stack([text.results[0] for text in rows]))
            return self._finish(pooled, width, normalize)

        return Task(texts, characters(texts), prepare, self.compute, finish, self.embedder.max_tokens)

    def tokens(
        self, texts: Sequence[str], *, prompt: str | None = None, cut: Cut = None, limit: int | None = None
    ) -> Task[list[np.ndarray]]:
        """Return the task for the vectors of all tokens of each text, (n, h) fp32, of <bos> and <eos> too.

        limit  tokens of all texts; TooLong is raised for more
        """
        prefix, _ = self._prefix(prompt)

        def prepare() -> list[Rows[Any]]:
            rows = self._encoder(prefix, cut)(texts, 0)
            tokens = sum(map(len, rows))
            if limit is not None and tokens > limit:
                raise TooLong(f"the inputs have {tokens:,} tokens, a request for their vectors may have {limit:,}")
            return [Rows([row], _Tokens()) for row in rows]

        def finish(rows: list[Rows[Any]]) -> list[np.ndarray]:
            return [text.results[0] for text in rows]

        return Task(texts, characters(texts), prepare, self.compute, finish, self.embedder.max_tokens)

    def passages(
        self,
        texts: Sequence[str],
        *,
        by: Literal["sentence", "paragraph", "size"] | Sequence[Sequence[Span]] = "sentence",
        size: int | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        limit: int | None = None,
    ) -> Task[list[Passages]]:
        """Return the task for the passages of each text, by late chunking as in ``Embedder.passages``.

        limit  numbers of all vectors; TooLong is raised for more
        """
        width = self.embedder.width(dimensions)
        name = self.embedder.loaded.check_prompt(prompt)
        reader = Reader(self.embedder, chunking="late", by=by, size=size, overlap=None, prompt=name)

        def prepare() -> list[Rows[Any]]:
            return list(reader.rows(texts, None if limit is None else limit // width))

        def finish(rows: list[Rows[Any]]) -> list[Passages]:
            return [self._passages(reader, text, width, normalize) for text in rows]

        return Task(texts, characters(texts), prepare, self.compute, finish)

    def chunks(
        self, texts: Sequence[str], *, prompt: str | None = None, dimensions: int | None = None, normalize: bool = True
    ) -> Task[np.ndarray]:
        """Return the task for (n, d) fp32 vectors of the chunks of one document (Jina's ``late_chunking``).

        Chunks are joined by a space where neither side has white space. Raises DataError for an empty one.
        """
        parts: list[str] = []
        spans, end = [], 0
        for number, text in enumerate(texts):
            if not text.strip():
                raise DataError(f"input {number} is empty: a chunk of a document has text")
            if parts and not parts[-1][-1].isspace() and not text[0].isspace():
                parts.append(" ")
                end += 1
            spans.append((end, end + len(text)))
            end += len(text)
            parts.append(text)
        document = "".join(parts)
        task = self.passages([document], by=[spans], prompt=prompt, dimensions=dimensions, normalize=normalize)
        return Task(texts, len(document), task.prepare, task.compute, lambda found: task.finish(found)[0].vectors)

    def warm_up(self, texts: Sequence[str]) -> Task[Any]:
        """Return a task that runs all of the model's code."""
        return self.embed(texts, cut="beginning")

    def compute(self, packed: Packed, places: Sequence[Place], states: torch.Tensor | None = None) -> list[Any]:
        """Return for each row of a batch what its metadata asks for. ``states``: of the encoder, computed elsewhere."""
        embedder = self.embedder
        states = embedder.states(packed) if states is None else states
        skips = [text.metadata.skip if isinstance(text.metadata, _Pooled) else None for text, _ in places]
        results: list[Any] = [None] * len(places)
        if any(skip is not None for skip in skips):  # pooled together, the vectors of other rows are not used
            modes = embedder.pooling.modes
            results = list(pool(states, packed, modes, [skip or 0 for skip in skips]).cpu().numpy())
            if None not in skips:
                return results
        for number, (rows, (text, index)) in enumerate(zip(packed.unpack(states), places, strict=True)):
            if isinstance(text.metadata, _Tokens):
                results[number] = rows.float().cpu().numpy()
            elif skips[number] is None:
                results[number] = sum_parts(rows, text.metadata.parts[index])
        return results

    def _passages(self, reader: Reader, text: Rows[Any], width: int, normalize: bool) -> Passages:
        check_cancelled()
        cut = text.metadata.cut
        return Passages(cut.text, cut.spans, self._finish(reader.pooled(text), width, normalize))

    def _finish(self, pooled: torch.Tensor, width: int, normalize: bool) -> np.ndarray:
        with torch.inference_mode():
            return _finite(self.embedder.finish(pooled.to(self.embedder.loaded.device), width, normalize))

    def _encoder(self, prefix: str, cut: Cut) -> Callable[[Sequence[str], int], Sequence[np.ndarray]]:
        longest = self.embedder.max_tokens
        noted = None if cut else refuse_long(longest)
        return text_encoder(self.embedder.loaded, prefix, max_tokens=longest, noted=noted, end=cut == "end")

    def _prefix_of(self, prompt: str | None) -> tuple[str, int]:
        prefix = self.embedder.prompt_text(self.embedder.loaded.check_prompt(prompt))
        return prefix, self.embedder.skipped(prefix)


def _finite(vectors: np.ndarray) -> np.ndarray:
    if not np.isfinite(vectors).all():
        raise Failed("the model's vector holds NaN or infinite values: load it with --precision fp32")
    return vectors
