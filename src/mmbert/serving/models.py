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
from mmbert.serving.engine import Engine, Limits, NotFiniteAnswer
from mmbert.serving.handlers.classification import ClassificationHandler, RerankHandler, judging
from mmbert.serving.handlers.embedding import EmbeddingHandler
from mmbert.serving.handlers.token_tasks import AnswerHandler, FillMaskHandler, TaggingHandler
from mmbert.serving.metrics import Meters
from mmbert.serving.threads import Threads
from mmbert.serving.worker import Worker

log = logging.getLogger(__name__)

A = TypeVar("A")

ROUTES: dict[type[Any], str] = {
    EmbeddingHandler: "/embed /embed_all /passages /similarity /v1/embeddings",
    ClassificationHandler: "/predict /classify",
    RerankHandler: "/rerank /v1/rerank /predict /classify",
    TaggingHandler: "/token_classify",
    FillMaskHandler: "/fill_mask",
    AnswerHandler: "/answer",
}
"""What is asked of models of each ability."""


class UnknownModel(MMBertError):
    """No model of this name is served."""


class WrongModel(MMBertError):
    """The model has no head for what is asked of it."""


@dataclass(frozen=True)
class Served:
    """A model on its engine. ``handlers``: what it can be asked."""

    name: str
    loaded: Loaded
    engine: Engine
    handlers: tuple[Any, ...]
    created: int = field(default_factory=lambda: int(time.time()))

    def handler_for(self, handler: type[A]) -> A | None:
        """What it can be asked of this kind."""
        return next((found for found in self.handlers if isinstance(found, handler)), None)

    @cached_property
    def routes(self) -> str:
        return " ".join(ROUTES[type(handler)] for handler in self.handlers)

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """(V,) bytes of the text that each token stands for."""
        return self.loaded.tokenizer.token_bytes()

    @property
    def max_tokens(self) -> int:
        """Longest text that is read whole, <bos> and <eos> included."""
        embedding = self.handler_for(EmbeddingHandler)
        return embedding.embedder.max_tokens if embedding else self.loaded.max_tokens

    def describe(self) -> str:
        """In a few words."""
        kinds = " and ".join(type(handler).__name__.lower() for handler in self.handlers)
        return f"{self.name} ({kinds}, {self.loaded.precision} on {self.loaded.device.type})"


_HANDLERS: dict[Kind, tuple[Callable[[Loaded], Any], ...]] = {
    "encoder": (lambda loaded: EmbeddingHandler(Embedder(loaded)),),
    "sentence": (lambda loaded: EmbeddingHandler(Embedder(loaded)),),
    "masked_lm": (FillMaskHandler, lambda loaded: EmbeddingHandler(Embedder(loaded))),
    "sequence": (judging,),
    "tokens": (TaggingHandler,),
    "span": (AnswerHandler,),
}


def open_model(name: str, loaded: Loaded, worker: Worker, pool: Threads, limits: Limits, meters: Meters) -> Served:
    """A loaded model on an engine of its own. Raises WeightsError for a kind that has no route."""
    if loaded.kind not in _HANDLERS:
        raise WeightsError(f"{loaded.folder} is a multiple-choice model, which has no route: use mmbert.MultipleChoice")
    handlers = tuple(make(loaded) for make in _HANDLERS[loaded.kind])
    return Served(name, loaded, Engine(worker, pool, loaded.device, limits, meters.engine(name)), handlers)


def warm_up(served: Served) -> None:
    """One short and one full batch of what the model does, so that the first client waits for neither."""
    limits = served.engine.limits
    full = "to be or not to be " * (min(served.max_tokens, limits.batch_tokens, limits.largest) // 16)
    texts = ["warm", full]
    for handler in served.handlers:
        if isinstance(handler, EmbeddingHandler):
            task: Any = handler.embed(texts, cut="beginning")
        elif isinstance(handler, ClassificationHandler):
            task = handler.classify(texts, cut="beginning")
        elif isinstance(handler, TaggingHandler):
            task = handler.tag(texts)
        elif isinstance(handler, FillMaskHandler):
            task = handler.fill([f"{text}<mask>" for text in texts])
        else:
            task = handler.answer([("warm?", text or "warm") for text in texts])
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

    def handler_for(self, handler: type[A], name: str | None) -> tuple[Served, A]:
        """The model of this name, or the first that can do it. Raises UnknownModel or WrongModel."""
        candidates = [self.find(name)] if name is not None else list(self)
        found = [
            (served, handler_for) for served in candidates if (handler_for := served.handler_for(handler)) is not None
        ]
        if found:  # a classifier rather than a reranker, which can classify too
            return next((pair for pair in found if type(pair[1]) is handler), found[0])
        what = "; ".join(f"{served.name}: {served.routes}" for served in candidates)
        raise WrongModel(f"no model here can do this, what they can do is {what}")
