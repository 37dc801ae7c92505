"""What an embedder is asked over the wire: vectors of texts, of their tokens, of their passages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch

from mmbert.cancellation import check_cancelled
from mmbert.errors import ConfigError, DataError, TooLong
from mmbert.inference.batching import text_encoder
from mmbert.inference.chunking import Passages, Span
from mmbert.inference.embedder import Embedder
from mmbert.inference.passages import Parts, Reader, sum_parts
from mmbert.inference.pooling import pool
from mmbert.inference.windows import Rows
from mmbert.packed import Packed
from mmbert.serving.engine import Failed
from mmbert.serving.handlers.texts import Cut, characters, refuse_long
from mmbert.serving.task import Place, Task


@dataclass(frozen=True)
class _Pooled:
    """A row of which the pooled vector is wanted: tokens at its beginning that do not count."""

    skip: int


@dataclass(frozen=True)
class _Tokens:
    """A row of which all token vectors are wanted."""


class EmbeddingHandler:
    """Tasks for an embedder. All of them share batches."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder
        embedder.warn_untuned()
        self._prefix = lru_cache(256)(self._prefix_of)

    def embed(
        self,
        texts: Sequence[str],
        *,
        prompt: str | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        cut: Cut = None,
    ) -> Task[np.ndarray]:
        """(n, d) fp32: the vectors of ``Embedder.__call__``. ``prompt``: a name of the folder's, or None: its default.

        cut  what is kept of a text that is too long; None: TooLong
        """
        width = self._width(dimensions)
        prefix, skip = self._prefix(prompt)

        def prepare() -> list[Rows[Any]]:
            rows = self._encoder(prefix, cut)(texts, 0)
            return [Rows([row], _Pooled(skip)) for row in rows]

        def finish(found: list[Rows[Any]]) -> np.ndarray:
            if not found:
                return np.zeros((0, width or self.embedder.dimensions), np.float32)
            pooled = torch.from_numpy(np.stack([text.results[0] for text in found]))
            return self._finish(pooled, width, normalize)

        return Task(texts, characters(texts), prepare, self.compute, finish, self.embedder.max_tokens)

    def tokens(
        self, texts: Sequence[str], *, prompt: str | None = None, cut: Cut = None, most: int | None = None
    ) -> Task[list[np.ndarray]]:
        """Of each text (n, h) fp32: the vectors of all its tokens, <bos> and <eos> included.

        most  tokens in all; for more: TooLong
        """
        prefix, _ = self._prefix(prompt)

        def prepare() -> list[Rows[Any]]:
            rows = self._encoder(prefix, cut)(texts, 0)
            tokens = sum(map(len, rows))
            if most is not None and tokens > most:
                raise TooLong(f"the inputs have {tokens:,} tokens, a request for their vectors may have {most:,}")
            return [Rows([row], _Tokens()) for row in rows]

        def finish(found: list[Rows[Any]]) -> list[np.ndarray]:
            return [text.results[0] for text in found]

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
        most: int | None = None,
    ) -> Task[list[Passages]]:
        """Passages of each text with their vectors, by late chunking: those of ``Embedder.passages``.

        most  numbers in all vectors; for more: TooLong
        """
        width = self._width(dimensions)
        name = self._known(prompt)
        reader = Reader(self.embedder, chunking="late", by=by, size=size, overlap=None, prompt=name)

        def prepare() -> list[Rows[Any]]:
            return list(reader.rows(texts, None if most is None else most // (width or self.embedder.dimensions)))

        def finish(found: list[Rows[Any]]) -> list[Passages]:
            return [self._passages(reader, text, width, normalize) for text in found]

        return Task(texts, characters(texts), prepare, self.compute, finish)

    def chunks(
        self, texts: Sequence[str], *, prompt: str | None = None, dimensions: int | None = None, normalize: bool = True
    ) -> Task[np.ndarray]:
        """(n, d) fp32: the texts are chunks of one document, which is read whole (Jina's ``late_chunking``).

        They are joined by a space where neither side has white space. Raises DataError for an empty one.
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

    def compute(self, packed: Packed, places: Sequence[Place]) -> list[Any]:
        """Of each row of a batch what its note asks for."""
        embedder = self.embedder
        states = embedder.states(packed)
        wanted = [text.metadata for text, _ in places]
        skips = [metadata.skip if isinstance(metadata, _Pooled) else 0 for metadata in wanted]
        pooled: list[Any] = []
        if any(isinstance(metadata, _Pooled) for metadata in wanted):
            pooled = list(pool(states, packed, embedder.pooling.modes, skips).cpu().numpy())
            if all(isinstance(metadata, _Pooled) for metadata in wanted):
                return pooled
        found: list[Any] = []
        for number, (rows, metadata, (_, index)) in enumerate(zip(packed.unpack(states), wanted, places, strict=True)):
            if isinstance(metadata, _Pooled):
                found.append(pooled[number])
            elif isinstance(metadata, _Tokens):
                found.append(rows.float().cpu().numpy())
            else:
                parts: Parts = metadata.parts[index]
                found.append(sum_parts(rows, parts))
        return found

    def _passages(self, reader: Reader, text: Rows[Any], width: int | None, normalize: bool) -> Passages:
        check_cancelled()
        cut = text.metadata.cut
        return Passages(cut.text, cut.spans, self._finish(reader.pooled(text), width, normalize))

    def _finish(self, pooled: torch.Tensor, width: int | None, normalize: bool) -> np.ndarray:
        with torch.inference_mode():
            return _finite(self.embedder.finish(pooled.to(self.embedder.loaded.device), width, normalize))

    def _encoder(self, prefix: str, cut: Cut) -> Callable[[Sequence[str], int], Sequence[np.ndarray]]:
        longest = self.embedder.max_tokens
        noted = None if cut else refuse_long(longest)
        return text_encoder(self.embedder.loaded, prefix, max_tokens=longest, noted=noted, end=cut == "end")

    def _known(self, prompt: str | None) -> str | None:
        prompts = self.embedder.loaded.prompts
        if prompt is not None and prompt not in prompts:
            raise ConfigError(f"prompt_name {prompt!r} is none of the model's: {', '.join(prompts) or 'it has none'}")
        return prompt

    def _prefix_of(self, prompt: str | None) -> tuple[str, int]:
        prefix = self.embedder.prompt_text(self._known(prompt))
        return prefix, self.embedder.skipped(prefix)

    def _width(self, dimensions: int | None) -> int | None:
        if dimensions is not None and not 1 <= dimensions <= self.embedder.dimensions:
            raise ConfigError(f"dimensions is {dimensions}: the model's vectors have 1 to {self.embedder.dimensions}")
        return dimensions


def _finite(vectors: np.ndarray) -> np.ndarray:
    if not np.isfinite(vectors).all():
        raise Failed("the model's vector holds NaN or infinite values: load it with --precision fp32")
    return vectors
