"""What a model with a head on texts is asked: classes of texts and pairs, and how well documents answer a query."""

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
from mmbert.packed import Packed
from mmbert.serving.handlers.texts import Cut, characters, refuse_long
from mmbert.serving.task import Place, Task

Item = str | tuple[str, str]
"""A text, or a pair of texts."""


class ClassificationHandler:
    """Tasks for a sequence classifier. All of them share batches."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self._classifier = Classifier(loaded)
        self.labels = self._classifier.labels
        self.function = self._classifier.function()
        self._longest = loaded.max_tokens
        self._encoder = lru_cache(2)(self._encoder_of)

    def classify(self, items: Sequence[Item], *, raw: bool = False, cut: Cut = None) -> Task[np.ndarray]:
        """(n, labels) fp32: probabilities as ``Classifier`` has them, or logits if ``raw``."""
        function = "none" if raw else self.function

        def finish(found: list[Rows[Any]]) -> np.ndarray:
            return apply(function, _stack(found, len(self.labels)))

        return Task(items, characters(items), lambda: self._rows(items, cut), self.compute, finish, self._longest)

    def compute(self, packed: Packed, places: Sequence[Place]) -> list[np.ndarray]:
        """Logits of each row of a batch."""
        return self._classifier.logits_of(packed)

    def _rows(self, items: Sequence[Item], cut: Cut) -> list[Rows[Any]]:
        if cut == "end":
            raise ConfigError("truncation_direction Left is for embeddings: pairs are cut at their ends")
        return [Rows([row], None) for row in self._encoder(cut is None)(items, 0)]

    def _encoder_of(self, strict: bool) -> Any:
        noted = refuse_long(self.loaded.max_tokens) if strict else None
        return pair_encoder(self.loaded, self.loaded.prompt_text(None), noted=noted)


class RerankHandler(ClassificationHandler):
    """Tasks for a sequence classifier of one score, which can rank documents."""

    def rank(self, query: str, documents: Sequence[str], *, raw: bool = False, cut: Cut = None) -> Task[np.ndarray]:
        """(n,) fp32: scores of the documents as they came, of ``Reranker`` or, if ``raw``, before its activation.

        Raises ConfigError for an empty query.
        """
        if not query.strip():
            raise ConfigError("the query is empty")
        items = [(query, document) for document in documents]

        def finish(found: list[Rows[Any]]) -> np.ndarray:
            scores = _stack(found, 1)[:, 0]
            activation = torch.nn.Identity() if raw else Reranker(self.loaded).activation
            return np.asarray(activation(torch.from_numpy(scores)).numpy())

        size = len(query) + characters(documents)
        return Task(documents, size, lambda: self._rows(items, cut), self.compute, finish, self._longest)


def _stack(found: list[Rows[Any]], labels: int) -> np.ndarray:
    return np.stack([text.results[0] for text in found]) if found else np.zeros((0, labels), np.float32)


def judging(loaded: Loaded) -> ClassificationHandler:
    """What a sequence classifier can be asked."""
    return RerankHandler(loaded) if len(loaded.labels or ()) == 1 else ClassificationHandler(loaded)
