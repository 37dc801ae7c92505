"""What all predictors share: loading, one text or many, and warnings that are logged once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from mmbert.errors import WeightsError
from mmbert.inference.checks import is_pair, many_texts, one_text
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
"""Which facade uses a folder."""


def tuning(recipe: str, folder: str | Path) -> str:
    """Return the command that tunes the model of a folder."""
    return f"mmbert finetune recipes/finetune/{recipe} model={folder}"


class Facade:
    """A loaded model that does one thing. Made by :meth:`load`."""

    kinds: ClassVar[tuple[Kind, ...]]
    """Heads it can use."""
    recipe: ClassVar[str | None] = None
    """What tunes a model to have one: a file in ``recipes/finetune``."""

    def __init__(self, loaded: Loaded) -> None:
        if loaded.kind not in self.kinds:
            needed = " or ".join(_CLASSES[kind] for kind in self.kinds)
            made = f", or tune it: {tuning(self.recipe, loaded.folder)}" if self.recipe else ""
            raise WeightsError(
                f"{loaded.folder} is a {_CLASSES[loaded.kind]}, {type(self).__name__} needs a {needed}: "
                f"use {READERS[loaded.kind]}{made}"
            )
        self.loaded = loaded
        self._said: set[str] = set()

    @classmethod
    def load(
        cls, name: str | Path, *, revision: str | None = None, device: str = "auto", precision: str = "auto"
    ) -> Self:
        """A folder or hub name, of transformers, sentence-transformers or this package.

        device     auto, cpu, cuda, cuda:1
        precision  auto, fp32, bf16 or int8: of the encoder's matrices
        Raises WeightsError (naming the facade that fits, if the folder has another head), TokenizerError or
        ConfigError.
        """
        return cls(load(name, revision=revision, device=device, precision=precision))

    def say_once(self, what: str, message: str) -> None:
        """Warn, the first time only."""
        if what not in self._said:
            self._said.add(what)
            log.warning("%s", message)

    def _note_length(self, number: int, tokens: int, ends: int) -> None:
        """Warn of a text of no tokens, or of more than the model reads. ``ends``: special tokens around it."""
        if not tokens:
            self.say_once("empty", f"text {number} is empty: what is said of it means nothing")
        elif tokens + ends > self.loaded.max_tokens:
            read = f"the first {self.loaded.max_tokens:,} are read"
            self.say_once("cut", f"text {number} has {tokens + ends:,} tokens, of which {read} (and so for others)")


def respond(
    asked: Any, stream: Callable[[Iterable[Any]], Iterator[R]], *, pairs: bool = False, what: str = "texts"
) -> Any:
    """Return the answer to one text (or pair), a list for a list, tuple, array or column, an iterator for an iterator.

    Raises ConfigError for what holds no texts.
    """
    text = one_text(asked)
    if text is not None:
        return next(stream([text]))
    if pairs and is_pair(asked):
        return next(stream([asked]))
    items = many_texts(asked, what, pairs=pairs)
    return stream(items) if isinstance(items, Iterator) else list(stream(items))
