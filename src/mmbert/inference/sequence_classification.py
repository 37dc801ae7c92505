"""Logits of texts and pairs from a head on a pooled encoder: the base of Classifier, Reranker and MultipleChoice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from mmbert.inference.batching import Batch, run
from mmbert.inference.load import Loaded
from mmbert.inference.pairs import pair_encoder
from mmbert.inference.predictor import Predictor
from mmbert.inference.windows import Place
from mmbert.model.tasks import SequenceClassifier, TaskHead
from mmbert.packed import Packed


class SequencePredictor(Predictor):
    """Computes logits of texts and of pairs of texts."""

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(loaded)
        assert isinstance(loaded.head, TaskHead)
        self._model = SequenceClassifier.around(loaded.encoder, loaded.head, loaded.classifier_pooling).eval()
        self._encoders: dict[str, Any] = {}

    @property
    def labels(self) -> list[str]:
        """Names of the classes, in the order of their logits."""
        return list((self.loaded.labels or {}).values())

    def stream_logits(
        self,
        items: Iterable[Any],
        *,
        prompt: str | None = None,
        progress: bool | None = None,
        what: str = "classifying",
    ) -> Iterator[np.ndarray]:
        """Yield (labels,) fp32 for each text or pair, in order; ``items`` may be endless."""
        text = self.loaded.prompt_text(prompt)
        if text not in self._encoders:
            self._encoders[text] = pair_encoder(self.loaded, text, noted=self.note_length)

        def logits(packed: Packed, batch: Batch) -> list[np.ndarray]:
            return list(batch.finite(np.stack(self.logits_of(packed))))

        return run(self.loaded, items, logits, encode=self._encoders[text], progress=progress, what=what)

    def logits_of(self, packed: Packed, places: Sequence[Place] = (), states: Tensor | None = None) -> list[np.ndarray]:
        """Return (labels,) fp32 for each text or pair of a batch on the model's device, on the host."""
        return list(self._model(packed, states).float().cpu().numpy())
