"""The Classifier: classes of texts or pairs of texts, or numbers for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mmbert.errors import ConfigError
from mmbert.inference.predictor import respond
from mmbert.inference.sequence_classification import SequencePredictor

Function = Literal["softmax", "sigmoid", "none"]


@dataclass(frozen=True)
class Prediction:
    """The classes of a text.

    label   the class with the highest score
    score   its score: a probability, or the value of a regression
    scores  of all classes
    labels  the classes that apply: for multi-label models those at or above the threshold, else the best one
    """

    label: str
    score: float
    scores: dict[str, float]
    labels: tuple[str, ...]


class Classifier(SequencePredictor):
    """Classes of texts, by a folder with a ModernBertForSequenceClassification.

    The folder decides what is applied to logits, as in transformers: nothing for a regression, a sigmoid for
    multi-label models and for a single label, a softmax for one label of several.
    """

    kinds = ("sequence",)
    recipe = "classify"

    def __call__(
        self, texts: Any, *, function: Function | None = None, threshold: float = 0.5, progress: bool | None = None
    ) -> Any:
        """Return a Prediction for a text, a list for a list, an iterator, in bounded memory, for an iterator.

        texts      a text is a str or, for pairs, a tuple of two; in a list, pairs may be lists
        function   softmax, sigmoid or none; default: as the folder says
        threshold  probability from which a label applies, for multi-label models
        progress   a bar on stderr; default: for thousands of texts
        A text longer than the model reads is cut, with a warning.
        """
        self.function(function)
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold is {threshold}: probabilities are between 0 and 1")
        return respond(texts, lambda items: self.stream(items, function, threshold, progress), pairs=True)

    def stream(
        self,
        texts: Iterable[Any],
        function: Function | None = None,
        threshold: float = 0.5,
        progress: bool | None = None,
    ) -> Iterator[Prediction]:
        """Yield one Prediction for each text, in order."""
        chosen, labels = self.function(function), self.labels
        for logits in self.stream_logits(texts, progress=progress, what="classifying"):
            values = apply(chosen, logits)
            scores = dict(zip(labels, values.tolist(), strict=True))
            best = labels[int(values.argmax())]
            several = chosen == "sigmoid"
            held = tuple(label for label, score in scores.items() if score >= threshold) if several else (best,)
            yield Prediction(best, scores[best], scores, held)

    def logits(self, texts: Any, *, progress: bool | None = None) -> np.ndarray:
        """Return the logits: (labels,) for a text, (n, labels) fp32 for a list."""
        found = respond(texts, lambda items: self.stream_logits(items, progress=progress), pairs=True)
        if isinstance(found, np.ndarray):
            return found
        rows = list(found)
        return np.stack(rows) if rows else np.zeros((0, len(self.labels)), np.float32)

    def function(self, stated: str | None = None) -> str:
        """Return the function for logits, as transformers' pipeline chooses. Raises ConfigError for an unknown name."""
        if stated is not None:
            if stated not in ("softmax", "sigmoid", "none"):
                raise ConfigError(f"function {stated!r} is none of softmax, sigmoid, none")
            return stated
        if self.loaded.problem_type == "regression":
            return "none"
        several = self.loaded.problem_type == "multi_label_classification" or len(self.labels) == 1
        return "sigmoid" if several else "softmax"


def apply(function: str, logits: np.ndarray) -> np.ndarray:
    """Return scores (..., labels) of logits, fp32."""
    if function == "none":
        return logits
    if function == "sigmoid":
        small = np.exp(-np.abs(logits))  # never overflows, whatever the sign of the logit
        return np.asarray(np.where(logits >= 0, 1, small) / (1 + small))
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
