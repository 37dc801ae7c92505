"""Texts to vectors."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from mmbert.errors import ConfigError
from mmbert.inference import passages
from mmbert.inference.batching import WINDOW, Batch, run, text_encoder
from mmbert.inference.checks import kind_of, many_texts, one_text, whole
from mmbert.inference.chunking import Passages, Span
from mmbert.inference.load import Loaded, load
from mmbert.inference.pooling import MODES, Pooling, pool
from mmbert.inference.predictor import tuning
from mmbert.inference.sentence_transformers_api import DropIn
from mmbert.inference.sentence_transformers_folder import Dense
from mmbert.inference.vectors import Output, check_output, measure_ranges, quantize, similarity
from mmbert.packed import Packed

log = logging.getLogger(__name__)

_NAMES = {"first": "cls", "last": "lasttoken"}


@dataclass(frozen=True)
class TokenVectors:
    """The tokens of one text, <bos> and <eos> apart: ``ids`` (n,), ``spans`` (n, 2) of characters, ``vectors`` (n, h).

    A space before a word is part of its token's span.
    """

    text: str
    ids: np.ndarray
    spans: np.ndarray
    vectors: np.ndarray


class Embedder(DropIn):
    """Vectors of texts, of unit length unless told otherwise.

    Made by :meth:`load`; called with a text, a list or an iterator. A text's vector is the same whatever texts it is
    embedded with: to 1e-6 in fp32.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        pooling: str | Sequence[str] | None = None,
        layers: Sequence[float] | None = None,
        max_tokens: int | None = None,
    ) -> None:
        """Options as in :meth:`load`."""
        self.loaded = loaded
        self.pooling = _pooling(loaded, pooling, layers)
        self.ranges: np.ndarray | None = None
        """(2, d) of the last :meth:`calibrate`: what int8 and uint8 are counted from."""
        self._after = loaded.after
        dense = [module for module in self._after if isinstance(module, Dense)]
        wide = loaded.config.hidden_size * len(self.pooling.modes)
        if dense and dense[0].linear.in_features != wide:
            raise ConfigError(
                f"the model's Dense module takes {dense[0].linear.in_features} values, pooling gives {wide}"
            )
        self._dimensions = dense[-1].linear.out_features if dense else wide
        self._max_tokens = loaded.max_tokens
        self.max_seq_length = loaded.max_tokens if max_tokens is None else max_tokens
        self._said: set[str] = set()

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        pooling: str | Sequence[str] | None = None,
        layers: Sequence[float] | None = None,
        max_tokens: int | None = None,
    ) -> Embedder:
        """A folder or hub name, of sentence-transformers, transformers or this package.

        device      auto, cpu, cuda, cuda:1
        precision   auto, fp32, bf16 or int8: of the model's matrices
        pooling     mean, first, last, max, weightedmean; several side by side. Default: the folder's, or mean
        layers      weights of a mix of all layers: embeddings, each layer, the last; or all of the last few
        max_tokens  longest text, <bos> and <eos> included. Default: as the folder says
        Raises WeightsError, TokenizerError or ConfigError.
        """
        loaded = load(name, revision=revision, device=device, precision=precision)
        return cls(loaded, pooling=pooling, layers=layers, max_tokens=max_tokens)

    @property
    def dimensions(self) -> int:
        """Width of a vector."""
        return self._dimensions

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens, <bos> and <eos> included; longer ones are cut, with a warning, or chunked."""
        return self._max_tokens

    @property
    def max_seq_length(self) -> int:
        """``max_tokens``, by sentence-transformers' name, which may be set."""
        return self._max_tokens

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        most = max(self.loaded.config.max_context, self.loaded.max_tokens)
        self._max_tokens = whole("max_tokens", value, 3, most, "<bos> and <eos> included")

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
        """A text -> (d,); a list -> (n, d); an iterator -> an iterator of (d,), in bounded memory.

        prompt      "query" or "document": the folder's text for it, none if it has none; another name of the folder's
                    prompts; or the text itself. Default: the folder's default prompt
        dimensions  keep the first so many (Matryoshka)
        normalize   unit length, after the cut
        output      float32, float16, int8, uint8 (both after :meth:`calibrate`), binary, ubinary
        chunking    windows or late: :class:`Passages` of each text instead, see :meth:`passages`
        progress    a bar on stderr; default: where there are thousands of texts
        """
        if chunking is not None:
            return self.passages(
                texts, chunking=chunking, prompt=prompt, dimensions=dimensions, normalize=normalize, output=output,
                progress=progress,
            )  # fmt: skip
        rows = self.stream(
            _stream(texts), prompt=prompt, dimensions=dimensions, normalize=normalize, output=output, progress=progress,
        )  # fmt: skip
        if one_text(texts) is not None:
            return next(rows)
        if isinstance(texts, Iterator):
            return rows
        found = list(rows)
        return np.stack(found) if found else quantize(np.zeros((0, self.width(dimensions))), output, self.ranges)

    def stream(
        self,
        texts: Iterable[str],
        *,
        prompt: str | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        output: Output = "float32",
        progress: bool | None = None,
        window: int = WINDOW,
        first: int = 0,
    ) -> Iterator[np.ndarray]:
        """One vector (d,) a text, in order, without end.

        window  texts read ahead and sorted together
        first   number of the first text, for messages
        Raises NotFiniteOutput, naming the text, where a vector holds NaN or infinite values.
        """
        check_output(output)
        if output in ("int8", "uint8") and self.ranges is None:
            quantize(np.zeros((1, 1)), output)  # raises, before anything is computed
        width = self.width(dimensions)
        prefix = self.prompt_text(prompt)
        skip = self.skipped(prefix)
        self.warn_untuned()

        def embed(packed: Packed, batch: Batch) -> list[np.ndarray]:
            pooled = pool(self.states(packed), packed, self.pooling.modes, skip)
            return list(quantize(batch.finite(self.finish(pooled, width, normalize)), output, self.ranges))

        encode = text_encoder(self.loaded, prefix, max_tokens=self.max_tokens, noted=self._note_length)
        return run(
            self.loaded, texts, embed, encode=encode, window=window, first=first, progress=progress, what="embedding"
        )

    def states(self, packed: Packed) -> Tensor:
        """Token vectors (T, h) of a batch on the model's device: of the last layer, or the mix of layers, fp32."""
        x: Tensor = self.loaded.encoder(packed, self.pooling.shares)
        return x

    def finish(self, pooled: Tensor, width: int | None, normalize: bool) -> np.ndarray:
        """Dense, Normalize, the cut and unit length: (S, h * modes) -> (S, d) fp32, on the host."""
        for module in self._after:
            pooled = module(pooled)
        pooled = pooled[:, :width]
        return (F.normalize(pooled, dim=-1) if normalize else pooled).cpu().numpy()

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
        """Vectors of the passages of each text: a text -> Passages; a list -> a list; an iterator -> an iterator.

        chunking  windows: parts of ``size`` tokens (default: as many as the model reads) that share ``overlap`` (an
                  eighth), each a text of its own. late: one pass over the whole text, then the mean of each passage's
                  tokens; texts longer than one pass go in windows
        by        passages for late: sentence (default), paragraph, size (of ``size`` tokens, 256), or for every text a
                  list of (start, end) in characters
        Other options as for a call. Raises ConfigError for options that do not go together.
        """
        found = passages.stream_passages(
            self, _stream(texts), chunking=chunking, by=by, size=size, overlap=overlap,
            prompt=prompt, dimensions=self.width(dimensions), normalize=normalize, output=output, progress=progress,
        )  # fmt: skip
        self.warn_untuned()
        if one_text(texts) is not None:
            return next(found)
        return found if isinstance(texts, Iterator) else list(found)

    def tokens(self, texts: str | Iterable[str], *, progress: bool | None = None) -> Any:
        """Vectors of tokens with their places in the text: a text -> TokenVectors; a list -> a list; or an iterator.

        Texts longer than ``max_tokens`` are cut.
        """
        found = passages.stream_tokens(self, _stream(texts), progress)
        if one_text(texts) is not None:
            return next(found)
        return found if isinstance(texts, Iterator) else list(found)

    def calibrate(
        self, texts: Iterable[str], *, prompt: str | None = None, dimensions: int | None = None, normalize: bool = True
    ) -> np.ndarray:
        """Measure and keep (``ranges``) the range of each dimension over some thousand texts, for int8 and uint8.

        Keep them with an index: vectors that are compared must be counted from the same ranges.
        """
        vectors = self(list(many_texts(texts)), prompt=prompt, dimensions=dimensions, normalize=normalize)
        self.ranges = measure_ranges(vectors)
        return self.ranges

    def similarity(self, first: Any, second: Any) -> np.ndarray:
        """(n, m) by the folder's measure, cosine unless it says another; larger is more similar."""
        return similarity(first, second, self.loaded.similarity)

    def prompt_text(self, prompt: str | None) -> str:
        """The text that ``prompt`` stands for, see :meth:`__call__`. Raises ConfigError for what is no text."""
        if prompt is not None and not isinstance(prompt, str):
            raise ConfigError(f"prompt is {kind_of(prompt)}: expected the name of a prompt, or its text")
        prompts = self.loaded.prompts
        if prompt is None:
            return prompts[self.loaded.default_prompt] if self.loaded.default_prompt is not None else ""
        if prompt in prompts:
            return prompts[prompt]
        return "" if prompt in ("query", "document") else prompt

    def skipped(self, prefix: str) -> int:
        """Tokens at the beginning that pooling leaves out: <bos> and the prompt, where the folder wants it so."""
        if self.pooling.include_prompt or not prefix:
            return 0
        return 1 + len(self.loaded.tokenizer.encode_batch([prefix], specials=True)[0])

    def width(self, dimensions: int | None) -> int:
        """Return how many dimensions vectors keep. Raises ConfigError for more than there are."""
        if dimensions is None:
            return self.dimensions
        return whole("dimensions", dimensions, 1, self.dimensions, "the width of the model's vectors")

    def _note_length(self, number: int, length: int) -> None:
        if length <= 2:
            self.say_once("empty", f"text {number} is empty: its vector is that of <bos> <eos>")
        else:
            self.say_once(
                "cut",
                f"text {number} is longer than the {self.max_tokens:,} tokens that are read, the rest is left out (and "
                "so for others): passages() or chunking='windows' reads all",
            )

    def warn_untuned(self) -> None:
        """Say, once, that vectors of a model that was only pretrained may disappoint."""
        if not self.loaded.tuned:
            self.say_once(
                "untuned",
                f"{self.loaded.folder} was never tuned for embeddings: similar texts may get dissimilar vectors; "
                f"tune it: {tuning('embed.yaml', self.loaded.folder)}",
            )

    def say_once(self, what: str, message: str) -> None:
        """Warn, the first time only."""
        if what not in self._said:
            self._said.add(what)
            log.warning("%s", message)


def _stream(texts: Any) -> Iterable[str]:
    """One text, a list or an iterator, to go through. Raises ConfigError for what holds no texts, or in no order."""
    text = one_text(texts)
    return many_texts(texts) if text is None else [text]


def _pooling(loaded: Loaded, pooling: str | Sequence[str] | None, layers: Sequence[float] | None) -> Pooling:
    """What the folder says, with the caller's changes."""
    here = loaded.pooling or Pooling()
    modes = here.modes
    if pooling is not None:
        named = [pooling] if isinstance(pooling, str) else list(pooling)
        modes = tuple(_NAMES.get(mode, mode) for mode in named)
        unknown = [mode for mode in modes if mode not in MODES]
        if unknown or not modes:
            raise ConfigError(f"pooling {unknown or named} is none of {', '.join((*_NAMES, *MODES))}")
    weights = here.layers
    if layers is not None:
        count = loaded.config.num_layers + 1
        if not len(layers) or len(layers) > count or not np.isfinite(sum(layers)) or sum(layers) == 0:
            raise ConfigError(f"layers has {len(layers)} weights: 1 to {count} that do not sum to 0 (last layer last)")
        weights = (0.0,) * (count - len(layers)) + tuple(float(weight) for weight in layers)
    return Pooling(modes, here.include_prompt, weights)


__all__ = ["Embedder", "Passages", "TokenVectors"]
