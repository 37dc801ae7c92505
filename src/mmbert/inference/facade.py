"""What the facades of this room share: how they are loaded, one text or many, and warnings that are said once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from mmbert.errors import ConfigError, WeightsError
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
    "choice": "mmbert.Chooser",
}
"""Which facade uses a folder."""


class Facade:
    """A loaded model that does one thing. Made by :meth:`load`."""

    kinds: ClassVar[tuple[Kind, ...]]
    """Heads it can use."""

    def __init__(self, loaded: Loaded) -> None:
        if loaded.kind not in self.kinds:
            needed = " or ".join(_CLASSES[kind] for kind in self.kinds)
            raise WeightsError(
                f"{loaded.folder} is a {_CLASSES[loaded.kind]}, {type(self).__name__} needs a {needed}: "
                f"use {READERS[loaded.kind]}"
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
        ConfigError, in one line.
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


def respond(asked: Any, single: Callable[[Any], bool], stream: Callable[[Iterable[Any]], Iterator[R]]) -> Any:
    """One thing asked -> its answer; a list, tuple or column -> a list; an iterator -> an iterator.

    Raises ConfigError for what holds no texts.
    """
    if single(asked):
        return next(stream([asked]))
    check_many(asked)
    if isinstance(asked, Iterator):
        return stream(asked)
    return list(stream(asked if isinstance(asked, list) else list(asked)))


def check_many(asked: Any, what: str = "texts", expected: str = "a str, a list of str or an iterator of str") -> None:
    """Raises ConfigError for what holds no texts, or holds them in no order."""
    if isinstance(asked, str | bytes | dict | set | frozenset) or not isinstance(asked, Iterable):
        raise ConfigError(f"{what} are {type(asked).__name__}: expected {expected}")


def is_text(asked: Any) -> bool:
    return isinstance(asked, str)


def is_pair(asked: Any) -> bool:
    """Two texts in a tuple (a list of two is two texts)."""
    return isinstance(asked, tuple) and len(asked) == 2 and all(isinstance(text, str) for text in asked)
