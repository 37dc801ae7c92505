"""The base of all predictors: loading, one text or many, and warnings that are logged once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch

from mmbert.errors import ConfigError, WeightsError
from mmbert.inference.checks import is_pair, many_texts, one_text, whole
from mmbert.inference.load import KINDS, Kind, Loaded, load

log = logging.getLogger(__name__)

R = TypeVar("R")

_CLASSES: dict[Kind, str] = {kind: name for name, kind in KINDS.items()} | {"sentence": "sentence-transformers model"}

READERS: dict[Kind, str] = {
    "encoder": "mmbert.Embedder",
    "sentence": "mmbert.Embedder",
    "masked_lm": "mmbert.FillMask (or Embedder)",
    "sequence": "mmbert.Classifier or mmbert.Reranker",
    "tokens": "mmbert.Tagger",
    "span": "mmbert.Answerer",
    "choice": "mmbert.MultipleChoice",
}
"""The predictor for each kind of folder."""


def tuning(recipe: str, folder: str | Path) -> str:
    """Return the command that tunes the model of a folder."""
    return f"mmbert finetune {recipe} model={folder}"


class Predictor:
    """A loaded model that does one task; made by :meth:`load`."""

    kinds: ClassVar[tuple[Kind, ...]] = tuple(READERS)
    """Kinds of models that it can use."""
    recipe: ClassVar[str | None] = None
    """The recipe of ``mmbert finetune`` that tunes a model for it."""

    def __init__(self, loaded: Loaded) -> None:
        if loaded.kind not in self.kinds:
            needed = " or ".join(_CLASSES[kind] for kind in self.kinds)
            made = f", or tune it: {tuning(self.recipe, loaded.folder)}" if self.recipe else ""
            raise WeightsError(
                f"{loaded.folder} is a {_CLASSES[loaded.kind]}, {type(self).__name__} needs a {needed}: "
                f"use {READERS[loaded.kind]}{made}"
            )
        self.loaded = loaded
        self._warned: set[str] = set()

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
    ) -> Self:
        """Load a folder or hub name of transformers, sentence-transformers, peft (an adapter) or this package.

        device      auto, cpu, cuda, cuda:1
        precision   auto, fp32, bf16, fp16 or int8: of the encoder's matrices
        base        of an adapter: folder or hub name of its base. Default: what the adapter says
        num_layers  read and compute only the first layers, then the final norm (2D Matryoshka). Default: all
        Raises WeightsError (which names the right predictor, if the folder has another head), TokenizerError or
        ConfigError.
        """
        options: dict[str, Any] = {"device": device, "precision": precision, "base": base, "num_layers": num_layers}
        return cls(load(name, revision=revision, **options))

    def warn_once(self, key: str, message: str) -> None:
        """Log a warning the first time that it comes with this key."""
        if key not in self._warned:
            self._warned.add(key)
            log.warning("%s", message)

    def note_length(self, number: int, tokens: int, ends: int) -> None:
        """Warn of a text without tokens, or with more than the model reads. ``ends``: special tokens around it."""
        if not tokens:
            self.warn_once("empty", f"text {number} is empty: its result means nothing")
        elif tokens + ends > self.loaded.max_tokens:
            read = f"the first {self.loaded.max_tokens:,} are read"
            self.warn_once("cut", f"text {number} has {tokens + ends:,} tokens, of which {read} (and so for others)")

    def check_unused(self, batch_size: int, device: str | None, pool: Any, chunk_size: int | None) -> None:
        """Raise ConfigError for options of sentence-transformers' calls that cannot be followed here."""
        whole("batch_size", batch_size)
        name, here = type(self).__name__, self.loaded.device
        if pool is not None or chunk_size is not None:
            raise ConfigError(f"pool and chunk_size are not supported: start one {name} a process, or a server")
        if isinstance(device, list | tuple):
            raise ConfigError(f"several devices are not supported: start one {name} a device")
        wanted = here if device is None else torch.device(device)
        if wanted.type != here.type or (wanted.index or 0) != (here.index or 0):
            raise ConfigError(f"the model is on {here}: load it with device={str(device)!r}")


def respond(
    asked: Any, stream: Callable[[Iterable[Any]], Iterator[R]], *, pairs: bool = False, what: str = "texts"
) -> Any:
    """Return the result of one text (or pair), a list for a list, tuple, array or column, an iterator for an iterator.

    Raises ConfigError for what holds no texts.
    """
    text = one_text(asked)
    if text is not None:
        return next(stream([text]))
    if pairs and is_pair(asked):
        return next(stream([asked]))
    items = many_texts(asked, what, pairs=pairs)
    return stream(items) if isinstance(items, Iterator) else list(stream(items))
