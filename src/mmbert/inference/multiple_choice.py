"""MultipleChoice: the best of several answers or continuations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmbert.errors import ConfigError
from mmbert.inference.checks import check_texts, kind_of, many_texts, one_text
from mmbert.inference.classifier import apply
from mmbert.inference.sequence_classification import SequencePredictor


@dataclass(frozen=True)
class Choice:
    """A choice: its index in the list, its text, and its probability among the choices."""

    index: int
    text: str
    score: float


class MultipleChoice(SequencePredictor):
    """Ranks choices by how well they answer or continue a text, by a folder with a ModernBertForMultipleChoice."""

    kinds = ("choice",)
    recipe = "choice"

    def __call__(self, question: str, choices: Sequence[str], *, progress: bool | None = None) -> list[Choice]:
        """Return the choices, most probable first. Raises ConfigError for fewer than two."""
        texts = _choices(choices)
        if len(texts) < 2:
            raise ConfigError("choices are a list of at least two texts")
        scores = apply("softmax", self.logits(question, texts, progress=progress))
        order = np.argsort(-scores, kind="stable").tolist()
        return [Choice(index, texts[index], float(scores[index])) for index in order]

    def logits(self, question: str, choices: Sequence[str], *, progress: bool | None = None) -> np.ndarray:
        """Return (choices,) fp32, equal to those of transformers."""
        asked = one_text(question)
        if asked is None:
            raise ConfigError(f"the question is {kind_of(question)}, not a str")
        rows = self.stream_logits([(asked, text) for text in _choices(choices)], progress=progress, what="choosing")
        return np.concatenate([np.zeros(0, np.float32), *rows])


def _choices(choices: Any) -> list[str]:
    texts = list(many_texts(choices, "choices", "a list of at least two texts"))
    check_texts(texts, what="choice")
    return texts
