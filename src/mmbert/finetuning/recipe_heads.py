"""The options of tasks with a head of their own: classes of texts and of words, answers in a text, choices."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from mmbert.recipe_file import Spec


class Classes(Spec):
    """What the tasks with classes share."""

    labels: tuple[str, ...] = ()
    """Names of the classes in their order; empty: the hub's order, or those of the training data, sorted (for ``tag``
    with ``O`` first)."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """Weight of each class in the loss; ``balanced``: examples / (classes * examples of the class)."""
    focal_gamma: float = Field(0.0, ge=0)
    """Focal loss (arXiv 1708.02002): (1 - p) ** gamma times the cross entropy. 0: plain."""


class Classify(Classes):
    """``classify``: classes or numbers of texts or pairs of texts. Fields: ``text``, ``text_pair``, ``label``."""

    pooling: Literal["cls", "mean"] = "mean"
    """The first token or the mean of all (the released config says mean; the README's example takes the first)."""
    problem: Literal["single_label", "multi_label", "regression"] = "single_label"

    @model_validator(mode="after")
    def _no_classes(self) -> Self:
        if self.problem == "regression" and (self.labels or self.class_weights or self.focal_gamma):
            raise ValueError("a regression has no labels, class_weights or focal_gamma")
        return self


class Tag(Classes):
    """``tag``: classes of words. Fields: ``tokens`` (words), ``tags``, and ``text``, the raw sentence, if there is
    one."""

    words: Literal["raw", "split"] = "raw"
    """``raw``: the raw sentence is encoded, and words are found in it by their characters. ``split``: each word is
    encoded by itself, as ``is_split_into_words`` does, which loses the space before it; for comparison."""
    join: Literal["auto", "space", "none"] = "auto"
    """How a sentence is made of its words where there is no ``text``: with spaces, without, or by its script (auto:
    no spaces in Han, Kana, Thai, Lao, Khmer and Burmese, and none before closing or after opening punctuation)."""


class AnswerOptions(Spec):
    """``answer``: the span of a text that answers a question. Fields: ``question``, ``context``, ``answers`` (``text``,
    ``answer_start``, as in SQuAD)."""

    doc_stride: int = Field(128, ge=1)
    """Tokens of a long context that two windows share (SQuAD's scripts and nlu-evals)."""
    max_answer: int = Field(30, ge=1)
    """Longest answer in tokens (nlu-evals). All spans up to it are compared; other libraries combine the 20 best starts
    and ends."""
    no_answer: bool = False
    """Whether a question may have none (SQuAD 2.0)."""


class Choose(Spec):
    """``choose``: which of several choices. Fields: ``question``, ``choices``, ``label`` (number of the right one)."""

    pooling: Literal["cls", "mean"] = "mean"
    """As for ``classify``."""
    first_label: int = Field(0, ge=0)
    """The number of the first choice (1 in SocialIQA)."""
