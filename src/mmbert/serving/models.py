"""The models of a server: the handlers of each, by its head, and the model that answers a request."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mmbert.errors import ConfigError, MMBertError, WeightsError
from mmbert.inference.adapters import load_adapters
from mmbert.inference.embedder import Embedder
from mmbert.inference.load import Kind, Loaded, load
from mmbert.model.encoder import Encoder
from mmbert.serving.engine import NO_ADAPTER, AdapterEngine, Engine, Limits, NotFiniteAnswer
from mmbert.serving.handlers.classification import classification_handler
from mmbert.serving.handlers.embedding import EmbeddingHandler
from mmbert.serving.handlers.token_tasks import AnswerHandler, FillMaskHandler, TaggingHandler
from mmbert.serving.metrics import ServerMetrics
from mmbert.serving.model_spec import ModelSpec
from mmbert.serving.threads import Threads
from mmbert.serving.worker import Worker

log = logging.getLogger(__name__)

A = TypeVar("A")


class UnknownModel(MMBertError):
    """The server has no model of this name."""


class WrongModel(MMBertError):
    """The model has no head for the request."""


@dataclass(frozen=True)
class Served:
    """A model on its engine. ``handlers``: each makes tasks for some routes."""

    name: str
    loaded: Loaded
    engine: Engine | AdapterEngine
    handlers: tuple[Any, ...]
    created: int = field(default_factory=lambda: int(time.time()))

    def handler_for(self, handler: type[A]) -> A | None:
        """Return its handler of this class, or None."""
        return next((pairs for pairs in self.handlers if isinstance(pairs, handler)), None)

    @cached_property
    def routes(self) -> str:
        """The routes that it answers, separated by spaces."""
        return " ".join(handler.routes for handler in self.handlers)

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """(V,) bytes of the text of each token."""
        return self.loaded.tokenizer.token_bytes()

    @property
    def max_tokens(self) -> int:
        """Longest text that is read whole, <bos> and <eos> included."""
        embedding = self.handler_for(EmbeddingHandler)
        return embedding.embedder.max_tokens if embedding else self.loaded.max_tokens

    def describe(self) -> str:
        """Return name, tasks, precision and device, for the log."""
        kinds = " and ".join(handler.name for handler in self.handlers)
        return f"{self.name} ({kinds}, {self.loaded.precision} on {self.loaded.device.type})"


_HANDLERS: dict[Kind, tuple[Callable[[Loaded], Any], ...]] = {
    "encoder": (lambda loaded: EmbeddingHandler(Embedder(loaded)),),
    "sentence": (lambda loaded: EmbeddingHandler(Embedder(loaded)),),
    "masked_lm": (FillMaskHandler, lambda loaded: EmbeddingHandler(Embedder(loaded))),
    "sequence": (classification_handler,),
    "tokens": (TaggingHandler,),
    "span": (AnswerHandler,),
}


_VECTORS: tuple[Kind, ...] = ("encoder", "sentence", "masked_lm")
"""Kinds that an embedding handler serves."""


@dataclass(frozen=True)
class Shared:
    """What all models of a server share. ``budgets``: tokens of a batch and of a queue, None for the defaults."""

    worker: Worker
    pool: Threads
    budgets: tuple[int | None, int | None]
    metrics: ServerMetrics

    def engine(self, name: str, loaded: Loaded, encoder: Encoder | None = None) -> Engine:
        """Return a new engine for a model; ``encoder`` as of :class:`Engine`."""
        limits = Limits.fit(loaded.device, *self.budgets)
        return Engine(self.worker, self.pool, loaded.device, limits, self.metrics.engine(name), encoder)


def load_served(
    name: str,
    spec: ModelSpec,
    adapters: Mapping[str, str | Path],
    shared: Shared,
    device: str = "auto",
    precision: str = "auto",
) -> Iterator[Served]:
    """Load a model and yield it on an engine of its own; with ``adapters`` yield those, then their base.

    Adapters and base share one engine, which computes their texts together. A base with a masked-language-model head
    alone is left out: its adapters are what it is for. Raises WeightsError for a kind that has no route, ConfigError
    for layers and dimensions that the model has not, and the errors of loading.
    """
    if not adapters:
        loaded = _truncated(load(spec.model, device=device, precision=precision, num_layers=spec.layers), spec)
        yield Served(name, loaded, shared.engine(name, loaded), _handlers(loaded))
        return
    if spec.options:
        raise ConfigError(f"{spec.model}{spec.options}: adapters are trained for all layers of a base: leave it out")
    loaded, own = load_adapters(spec.model, adapters, device=device, precision=precision)
    engine = shared.engine(name, loaded, loaded.encoder)
    for number, (own_name, adapted) in enumerate(own.items()):
        yield Served(own_name, adapted, AdapterEngine(engine, number), _handlers(adapted))
    if loaded.kind not in ("masked_lm", "choice"):
        yield Served(name, loaded, AdapterEngine(engine, NO_ADAPTER), _handlers(loaded))


def _truncated(loaded: Loaded, spec: ModelSpec) -> Loaded:
    """Return the model with the dimensions that its vectors keep by default."""
    if spec.dimensions is None:
        return loaded
    if loaded.kind not in _VECTORS:
        raise ConfigError(f"{spec.model}{spec.options}: the model has the head of a task and gives no vectors of texts")
    return replace(loaded, truncate_dim=Embedder(loaded, dimensions=spec.dimensions).dimensions)


def _handlers(loaded: Loaded) -> tuple[Any, ...]:
    # Refused when the server starts, not at the first request.
    if loaded.kind not in _HANDLERS:
        raise WeightsError(f"{loaded.folder} is a multiple-choice model, which has no route: use mmbert.MultipleChoice")
    makers = [make for make in _HANDLERS[loaded.kind] if make is not FillMaskHandler or loaded.tokenizer.has_mask]
    return tuple(make(loaded) for make in makers)


def warm_up(served: Served) -> None:
    """Compute a short and a full batch for each handler, so that no client waits for kernels to be prepared."""
    limits = served.engine.limits
    # A full batch too: kernels are chosen and scratch memory is allocated by shape.
    full = "to be or not to be " * (min(served.max_tokens, limits.batch_tokens, limits.largest) // 16)
    texts = ["warm", full]
    for handler in served.handlers:
        try:
            served.engine.submit(handler.warm_up(texts)).result()
        except NotFiniteAnswer as error:  # others may have finite results; each request is checked by itself
            log.error("%s: %s: take another checkpoint", served.name, error)


def served_names(models: Sequence[ModelSpec], names: Sequence[str] = ()) -> list[str]:
    """Return what clients call each model: as given, else the hub name or last part of the folder, with its options.

    Raises ConfigError for another number of names than models, or for one that comes twice.
    """
    if names and len(names) != len(models):
        raise ConfigError(f"{len(names)} served names for {len(models)} models: give --served-model-name for each")
    chosen = list(names) or [spec.served_name for spec in models]
    double = next((name for name in chosen if chosen.count(name) > 1), None)
    if double is not None:
        raise ConfigError(f"two models are called {double!r}: give each a --served-model-name")
    return chosen


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
        """Return the model of this name, or the first for None. Raises UnknownModel."""
        if name is None:
            return next(iter(self._models.values()))
        if name not in self._models:
            raise UnknownModel(f"no model {name!r} is served here: {', '.join(self._models)}")
        return self._models[name]

    def handler_for(self, handler: type[A], name: str | None) -> tuple[Served, A]:
        """Return the model of this name, or the first with such a handler. Raises UnknownModel or WrongModel."""
        # Clients of other servers name no model, or any: without a name the head decides.
        candidates = [self.find(name)] if name is not None else list(self)
        pairs = [(served, own) for served in candidates if (own := served.handler_for(handler)) is not None]
        if pairs:  # prefer a classifier to a reranker, which can classify too
            return next((pair for pair in pairs if type(pair[1]) is handler), pairs[0])
        what = "; ".join(f"{served.name}: {served.routes}" for served in candidates)
        raise WrongModel(f"no model here can do this, what they can do is {what}")
