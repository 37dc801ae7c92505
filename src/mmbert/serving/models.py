"""The models of a server: what each can do, by its head, and which of them answers a request."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mmbert.errors import ConfigError, MMBertError, WeightsError
from mmbert.inference.embedder import Embedder
from mmbert.inference.load import Kind, Loaded
from mmbert.serving.abilities.embedding import Embedding
from mmbert.serving.abilities.judging import Judging, Ranking, judging
from mmbert.serving.abilities.reading import Answering, Filling, Tagging
from mmbert.serving.engine import Engine, Limits, NotFiniteAnswer
from mmbert.serving.meters import Meters
from mmbert.serving.threads import Threads
from mmbert.serving.worker import Worker

log = logging.getLogger(__name__)

A = TypeVar("A")

ROUTES: dict[type[Any], str] = {
    Embedding: "/embed /embed_all /passages /similarity /v1/embeddings",
    Judging: "/predict /classify",
    Ranking: "/rerank /v1/rerank /predict /classify",
    Tagging: "/token_classify",
    Filling: "/fill_mask",
    Answering: "/answer",
}
"""What is asked of models of each ability."""


class UnknownModel(MMBertError):
    """No model of this name is served."""


class WrongModel(MMBertError):
    """The model has no head for what is asked of it."""


@dataclass(frozen=True)
class Served:
    """A model on its engine. ``abilities``: what it can be asked."""

    name: str
    loaded: Loaded
    engine: Engine
    abilities: tuple[Any, ...]
    created: int = field(default_factory=lambda: int(time.time()))

    def able(self, ability: type[A]) -> A | None:
        """What it can be asked of this kind."""
        return next((found for found in self.abilities if isinstance(found, ability)), None)

    @cached_property
    def routes(self) -> str:
        return " ".join(ROUTES[type(ability)] for ability in self.abilities)

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """(V,) bytes of the text that each token stands for."""
        return self.loaded.tokenizer.token_bytes()

    @property
    def max_tokens(self) -> int:
        """Longest text that is read whole, <bos> and <eos> included."""
        embedding = self.able(Embedding)
        return embedding.embedder.max_tokens if embedding else self.loaded.max_tokens

    def describe(self) -> str:
        """In a few words."""
        kinds = " and ".join(type(ability).__name__.lower() for ability in self.abilities)
        return f"{self.name} ({kinds}, {self.loaded.precision} on {self.loaded.device.type})"


_ABILITIES: dict[Kind, tuple[Callable[[Loaded], Any], ...]] = {
    "encoder": (lambda loaded: Embedding(Embedder(loaded)),),
    "sentence": (lambda loaded: Embedding(Embedder(loaded)),),
    "masked_lm": (Filling, lambda loaded: Embedding(Embedder(loaded))),
    "sequence": (judging,),
    "tokens": (Tagging,),
    "span": (Answering,),
}


def open_model(name: str, loaded: Loaded, worker: Worker, pool: Threads, limits: Limits, meters: Meters) -> Served:
    """A loaded model on an engine of its own. Raises WeightsError for a kind that has no route."""
    if loaded.kind not in _ABILITIES:
        raise WeightsError(f"{loaded.folder} is a model of multiple choice, which has no route: use mmbert.Chooser")
    abilities = tuple(make(loaded) for make in _ABILITIES[loaded.kind])
    return Served(name, loaded, Engine(worker, pool, loaded.device, limits, meters.engine(name)), abilities)


def warm_up(served: Served) -> None:
    """One short and one full batch of what the model does, so that the first client waits for neither."""
    limits = served.engine.limits
    full = "to be or not to be " * (min(served.max_tokens, limits.batch_tokens, limits.largest) // 16)
    texts = ["warm", full]
    for ability in served.abilities:
        if isinstance(ability, Embedding):
            task: Any = ability.embed(texts, cut="beginning")
        elif isinstance(ability, Judging):
            task = ability.classify(texts, cut="beginning")
        elif isinstance(ability, Tagging):
            task = ability.tag(texts)
        elif isinstance(ability, Filling):
            task = ability.fill([f"{text}<mask>" for text in texts])
        else:
            task = ability.answer([("warm?", text or "warm") for text in texts])
        try:
            served.engine.submit(task).result()
        except NotFiniteAnswer as error:  # other inputs may be well; each that is not is refused
            log.error("%s: %s: take another checkpoint", served.name, error)


def served_names(models: Sequence[str | Path], names: Sequence[str] = ()) -> list[str]:
    """What clients call each model: as given, else a hub name as it is and a folder's last part.

    Raises ConfigError for another number of names than models, or for one that comes twice.
    """
    if names and len(names) != len(models):
        raise ConfigError(f"{len(names)} served names for {len(models)} models: give --served-model-name for each")
    found = list(names) or [Path(model).resolve().name if Path(model).is_dir() else str(model) for model in models]
    double = next((name for name in found if found.count(name) > 1), None)
    if double is not None:
        raise ConfigError(f"two models are called {double!r}: give each a --served-model-name")
    return found


class Models:
    """All models of a server."""

    def __init__(self) -> None:
        self._models: dict[str, Served] = {}

    def add(self, served: Served) -> None:
        self._models[served.name] = served

    def __iter__(self) -> Iterator[Served]:
        return iter(list(self._models.values()))  # one may be added meanwhile

    def __len__(self) -> int:
        return len(self._models)

    def find(self, name: str | None) -> Served:
        """By its name; None: the first. Raises UnknownModel."""
        if name is None:
            return next(iter(self._models.values()))
        if name not in self._models:
            raise UnknownModel(f"no model {name!r} is served here: {', '.join(self._models)}")
        return self._models[name]

    def able(self, ability: type[A], name: str | None) -> tuple[Served, A]:
        """The model of this name, or the first that can do it. Raises UnknownModel or WrongModel."""
        candidates = [self.find(name)] if name is not None else list(self)
        found = [(served, able) for served in candidates if (able := served.able(ability)) is not None]
        if found:  # a classifier rather than a reranker, which can classify too
            return next((pair for pair in found if type(pair[1]) is ability), found[0])
        what = "; ".join(f"{served.name}: {served.routes}" for served in candidates)
        raise WrongModel(f"no model here can do this, what they can do is {what}")
