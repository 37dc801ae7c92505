"""From texts to pooled vectors: the core of the Embedder, which passages and sentence-transformers' calls build on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from mmbert.errors import ConfigError
from mmbert.inference.batching import WINDOW, Batch, run, text_encoder
from mmbert.inference.checks import kind_of, whole
from mmbert.inference.load import Loaded
from mmbert.inference.pooling import MODES, Pooling, pool
from mmbert.inference.predictor import Predictor, tuning
from mmbert.inference.sentence_transformers_folder import Dense
from mmbert.inference.vectors import Output, check_output, quantize
from mmbert.packed import Packed

_NAMES = {"first": "cls", "last": "lasttoken"}


class VectorPredictor(Predictor):
    """A model of any kind, its pooling and the modules behind it. Shapes: T tokens, S texts, h hidden size, d width."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        pooling: str | Sequence[str] | None = None,
        layers: Sequence[float] | None = None,
        dimensions: int | None = None,
        max_tokens: int | None = None,
    ) -> None:
        """Options as in ``Embedder.load``."""
        super().__init__(loaded)
        self.pooling = _pooling(loaded, pooling, layers)
        self.ranges: np.ndarray | None = None
        """(2, d) of the last ``calibrate``: the value range of each dimension, for int8 and uint8."""
        dense = [module for module in loaded.after if isinstance(module, Dense)]
        wide = loaded.config.hidden_size * len(self.pooling.modes)
        if dense and dense[0].linear.in_features != wide:
            raise ConfigError(
                f"the model's Dense module takes {dense[0].linear.in_features} values, pooling gives {wide}"
            )
        self.widest = dense[-1].linear.out_features if dense else wide
        """Width of a vector that is not truncated."""
        self.dimensions = min(self.widest, loaded.truncate_dim or self.widest)
        """Width of a vector, unless a call asks for another."""
        self.dimensions = self.width(dimensions)
        self.max_seq_length = loaded.max_tokens if max_tokens is None else max_tokens

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens, <bos> and <eos> included; longer ones are cut, with a warning, or chunked."""
        return self._max_tokens

    @property
    def max_seq_length(self) -> int:
        """``max_tokens`` under sentence-transformers' name, which may be set."""
        return self._max_tokens

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        most = max(self.loaded.config.longest_text, self.loaded.max_tokens)
        self._max_tokens = whole("max_tokens", value, 3, most, "<bos> and <eos> included")

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
        """Yield one vector (d,) for each text, in order; ``texts`` may be endless.

        window  texts read ahead and sorted together
        first   number of the first text, for messages
        Other options as in ``Embedder.__call__``. Raises NotFiniteOutput, which names the text, where a vector holds
        NaN or infinite values.
        """
        check_output(output)
        if output in ("int8", "uint8") and self.ranges is None:
            quantize(np.zeros((1, 1)), output)  # raises before anything is computed
        width = self.width(dimensions)
        prefix = self.prompt_text(prompt)
        skip = self.skipped(prefix)
        self.warn_untuned()

        def embed(packed: Packed, batch: Batch) -> list[np.ndarray]:
            pooled = pool(self.states(packed), packed, self.pooling.modes, skip)
            return list(quantize(batch.finite(self.finish(pooled, width, normalize)), output, self.ranges))

        encode = text_encoder(self.loaded, prefix, max_tokens=self.max_tokens, noted=self.note_length)
        return run(
            self.loaded, texts, embed, encode=encode, window=window, first=first, progress=progress, what="embedding"
        )

    def states(self, packed: Packed) -> Tensor:
        """Return token vectors (T, h) of a batch on the model's device: the last layer's or the mix's, fp32."""
        x: Tensor = self.loaded.encoder(packed, self.pooling.shares)
        return x

    def finish(self, pooled: Tensor, width: int | None, normalize: bool) -> np.ndarray:
        """Apply Dense and Normalize, cut, and scale to unit length: (S, h * modes) -> (S, d) fp32, on the host."""
        for module in self.loaded.after:
            pooled = module(pooled)
        pooled = pooled[:, :width]
        return (F.normalize(pooled, dim=-1) if normalize else pooled).cpu().numpy()

    def prompt_text(self, prompt: str | None) -> str:
        """Return the text that ``prompt`` stands for, see ``Embedder.__call__``. Raises ConfigError for no string."""
        if prompt is not None and not isinstance(prompt, str):
            raise ConfigError(f"prompt is {kind_of(prompt)}: expected the name of a prompt, or its text")
        text = self.loaded.prompt_text(prompt)
        # "query" and "document" are roles that any caller may ask for, not texts to put before others
        return "" if prompt in ("query", "document") and prompt not in self.loaded.prompts else text

    def skipped(self, prefix: str) -> int:
        """Return how many first tokens pooling leaves out: <bos> and the prompt, if the folder excludes prompts."""
        if self.pooling.include_prompt or not prefix:
            return 0
        return 1 + len(self.loaded.tokenizer.encode_batch([prefix], specials=True)[0])

    def width(self, dimensions: int | None) -> int:
        """Return how many dimensions vectors keep. Raises ConfigError for more than there are."""
        if dimensions is None:
            return self.dimensions
        return whole("dimensions", dimensions, 1, self.widest, "the width of the model's vectors")

    def note_length(self, number: int, tokens: int, ends: int) -> None:
        """Warn of an empty text, or of one that is cut."""
        if not tokens:
            self.warn_once("empty", f"text {number} is empty: its vector is that of <bos> <eos>")
        else:
            self.warn_once(
                "cut",
                f"text {number} is longer than the {self.max_tokens:,} tokens that are read, the rest is left out (and "
                "so for others): passages() or chunking='windows' reads all",
            )

    def warn_untuned(self) -> None:
        """Warn once that vectors of a model that was only pretrained may disappoint."""
        if not self.loaded.tuned:
            self.warn_once(
                "untuned",
                f"{self.loaded.folder} was never tuned for embeddings: similar texts may get dissimilar vectors; "
                f"tune it: {tuning('embed', self.loaded.folder)}",
            )


def _pooling(loaded: Loaded, pooling: str | Sequence[str] | None, layers: Sequence[float] | None) -> Pooling:
    """Return the folder's pooling with the caller's changes."""
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
