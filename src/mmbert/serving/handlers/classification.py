"""Handlers for models with a head on texts: classes of texts and pairs, and scores of documents for a query."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from mmbert.errors import ConfigError
from mmbert.inference.classifier import Classifier, apply
from mmbert.inference.load import Loaded
from mmbert.inference.pairs import pair_encoder
from mmbert.inference.reranker import Reranker
from mmbert.inference.windows import Rows
from mmbert.serving.handlers.texts import Cut, characters, refuse_long
from mmbert.serving.task import Task

Item = str | tuple[str, str]
"""A text, or a pair of texts."""


class ClassificationHandler:
    """Tasks for a sequence classifier. All of them share batches."""

    name, routes = "classification", "/predict /classify"

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self._classifier = Classifier(loaded)
        self.labels = self._classifier.labels
        self.function = self._classifier.function()
        self._longest = loaded.max_tokens
        self._encoder = lru_cache(2)(self._encoder_of)

    def classify(self, items: Sequence[Item], *, raw: bool = False, cut: Cut = None) -> Task[np.ndarray]:
        """Return the task for (n, labels) fp32: the probabilities of ``Classifier``, or logits if ``raw``."""
        function = "none" if raw else self.function

        def finish(rows: list[Rows[Any]]) -> np.ndarray:
            return apply(function, _stack(rows, len(self.labels)))

        return self._task(items, characters(items), [*items], cut, finish)

    def warm_up(self, texts: Sequence[str]) -> Task[Any]:
        """Return a task that runs all of the model's code."""
        return self.classify(texts, cut="beginning")

    def _task(self, inputs: Sequence[Any], size: int, items: list[Item], cut: Cut, finish: Any) -> Task[np.ndarray]:
        compute = self._classifier.logits_of
        return Task(inputs, size, lambda: self._rows(items, cut), compute, finish, self._longest)

    def _rows(self, items: list[Item], cut: Cut) -> list[Rows[Any]]:
        if cut == "end":
            raise ConfigError("truncation_direction Left is for embeddings: pairs are cut at their ends")
        return [Rows([row], None) for row in self._encoder(cut is None)(items, 0)]

    def _encoder_of(self, strict: bool) -> Any:
        noted = refuse_long(self.loaded.max_tokens) if strict else None
        return pair_encoder(self.loaded, self.loaded.prompt_text(None), noted=noted)


class RerankHandler(ClassificationHandler):
    """Tasks for a sequence classifier with one score, which can rank documents."""

    name, routes = "reranking", "/rerank /v1/rerank /predict /classify"

    def rank(self, query: str, documents: Sequence[str], *, raw: bool = False, cut: Cut = None) -> Task[np.ndarray]:
        """Return the task for (n,) fp32: scores of documents in their order, before the activation if ``raw``.

        Raises ConfigError for an empty query.
        """
        if not query.strip():
            raise ConfigError("the query is empty")
        items: list[Item] = [(query, document) for document in documents]

        def finish(rows: list[Rows[Any]]) -> np.ndarray:
            scores = _stack(rows, 1)[:, 0]
            activation = torch.nn.Identity() if raw else Reranker(self.loaded).activation
            return np.asarray(activation(torch.from_numpy(scores)).numpy())

        return self._task(documents, len(query) + characters(documents), items, cut, finish)


def _stack(rows: list[Rows[Any]], labels: int) -> np.ndarray:
    return np.stack([text.results[0] for text in rows]) if rows else np.zeros((0, labels), np.float32)


def classification_handler(loaded: Loaded) -> ClassificationHandler:
    """Return the handler of a sequence classifier, by its number of labels."""
    return RerankHandler(loaded) if len(loaded.labels or ()) == 1 else ClassificationHandler(loaded)
