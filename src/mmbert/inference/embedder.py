"""The Embedder: vectors of texts, of their passages and of their tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self, overload

import numpy as np

from mmbert.inference.checks import many_texts
from mmbert.inference.chunking import Passages, Span
from mmbert.inference.load import load
from mmbert.inference.passages import TokenVectors, stream_passages, stream_tokens
from mmbert.inference.predictor import respond
from mmbert.inference.sentence_transformers_api import SentenceTransformersApi
from mmbert.inference.vectors import Output, measure_ranges, quantize, similarity


class Embedder(SentenceTransformersApi):
    """Vectors of texts, of unit length unless told otherwise.

    Made by :meth:`load`; called with a text, a list or an iterator. The vector of a text does not depend on the texts
    that it is embedded with: to 1e-6 in fp32.
    """

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        base: str | Path | None = None,
        num_layers: int | None = None,
        pooling: str | Sequence[str] | None = None,
        layers: Sequence[float] | None = None,
        dimensions: int | None = None,
        max_tokens: int | None = None,
    ) -> Self:
        """Load a folder or hub name of sentence-transformers, transformers, peft (an adapter) or this package.

        device      auto, cpu, cuda, cuda:1
        precision   auto, fp32, bf16, fp16 or int8: of the model's matrices
        base        of an adapter: folder or hub name of its base. Default: what the adapter says
        num_layers  read and compute only the first layers, then the final norm (2D Matryoshka). Default: all
        pooling     mean, first, last, max, weightedmean; several are concatenated. Default: the folder's, or mean
        layers      weights of a sum of layers: of the embeddings, each layer and the last, or of the last few
        dimensions  keep the first so many of every vector, unless a call asks for others. Default: the folder's, or all
        max_tokens  longest text, <bos> and <eos> included. Default: the folder's
        Raises WeightsError, TokenizerError or ConfigError.
        """
        options: dict[str, Any] = {"device": device, "precision": precision, "base": base, "num_layers": num_layers}
        loaded = load(name, revision=revision, **options)
        return cls(loaded, pooling=pooling, layers=layers, dimensions=dimensions, max_tokens=max_tokens)

    @overload
    def __call__(
        self, texts: str | Sequence[str], *, prompt: str | None = None, dimensions: int | None = None,
        normalize: bool = True, output: Output = "float32", chunking: None = None, progress: bool | None = None,
    ) -> np.ndarray: ...  # fmt: skip
    @overload
    def __call__(
        self, texts: Iterator[str], *, prompt: str | None = None, dimensions: int | None = None,
        normalize: bool = True, output: Output = "float32", chunking: None = None, progress: bool | None = None,
    ) -> Iterator[np.ndarray]: ...  # fmt: skip
    @overload
    def __call__(
        self, texts: Any, *, prompt: str | None = None, dimensions: int | None = None, normalize: bool = True,
        output: Output = "float32", chunking: Literal["windows", "late"], progress: bool | None = None,
    ) -> Any: ...  # fmt: skip
    def __call__(
        self,
        texts: Any,
        *,
        prompt: str | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        output: Output = "float32",
        chunking: Literal["windows", "late"] | None = None,
        progress: bool | None = None,
    ) -> Any:
        """Return (d,) for a text, (n, d) for a list; for an iterator an iterator of (d,), in bounded memory.

        prompt      "query" or "document": the folder's text for it, none if it has none; another name of the folder's
                    prompts; or the text itself. Default: the folder's default prompt
        dimensions  keep the first so many (Matryoshka). Default: as loaded
        normalize   scale to unit length, after ``dimensions``
        output      float32, float16, int8, uint8 (both after :meth:`calibrate`), binary, ubinary
        chunking    windows or late: return :class:`Passages` of each text instead, see :meth:`passages`
        progress    a bar on stderr; default: for thousands of texts
        """
        options: dict[str, Any] = {
            "prompt": prompt, "dimensions": dimensions, "normalize": normalize, "output": output, "progress": progress,
        }  # fmt: skip
        if chunking is not None:
            return self.passages(texts, chunking=chunking, **options)
        found = respond(texts, lambda items: self.stream(items, **options))
        if not isinstance(found, list):
            return found
        return np.stack(found) if found else quantize(np.zeros((0, self.width(dimensions))), output, self.ranges)

    def passages(
        self,
        texts: str | Iterable[str],
        *,
        chunking: Literal["windows", "late"] = "late",
        by: Literal["sentence", "paragraph", "size"] | Sequence[Sequence[Span]] | None = None,
        size: int | None = None,
        overlap: int | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        output: Output = "float32",
        progress: bool | None = None,
    ) -> Any:
        """Return the passages of each text with their vectors: Passages for a text, a list for a list, or an iterator.

        chunking  windows: parts of ``size`` tokens (default: as many as the model reads) that share ``overlap``
                  (default: an eighth), each embedded as a text of its own. late: one pass over the whole text, then
                  the mean of each passage's tokens; texts longer than one pass are read in windows
        by        passages for late: sentence (default), paragraph, size (of ``size`` tokens, 256), or for every text a
                  list of (start, end) in characters
        Other options as for a call. Raises ConfigError for options that do not go together.
        """
        return respond(
            texts,
            lambda items: stream_passages(
                self, items, chunking=chunking, by=by, size=size, overlap=overlap, prompt=prompt,
                dimensions=self.width(dimensions), normalize=normalize, output=output, progress=progress,
            ),
        )  # fmt: skip

    def tokens(self, texts: str | Iterable[str], *, progress: bool | None = None) -> Any:
        """Return the vectors of tokens with their spans: TokenVectors for a text, a list for a list, or an iterator.

        Texts longer than ``max_tokens`` are cut.
        """
        return respond(texts, lambda items: stream_tokens(self, items, progress))

    def calibrate(
        self, texts: Iterable[str], *, prompt: str | None = None, dimensions: int | None = None, normalize: bool = True
    ) -> np.ndarray:
        """Measure the range of each dimension over some thousand texts, and keep it in ``ranges`` for int8 and uint8.

        Keep the ranges with an index: vectors can only be compared if they were quantized by the same ranges.
        """
        vectors = self(list(many_texts(texts)), prompt=prompt, dimensions=dimensions, normalize=normalize)
        self.ranges = measure_ranges(vectors)
        return self.ranges

    def similarity(self, first: Any, second: Any) -> np.ndarray:
        """Return (n, m) by the folder's measure, cosine unless it names another; larger is more similar."""
        return similarity(first, second, self.loaded.similarity)


__all__ = ["Embedder", "Passages", "TokenVectors"]
