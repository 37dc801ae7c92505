"""``choose``: which of several choices answers a question or goes on with it best.

Each choice is a sequence ``<bos> question <eos> choice <eos>`` of the packed batch, and a softmax runs over those of an
example, however many it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from mmbert.finetuning.collate import Feature, choices_as_rows
from mmbert.finetuning.encode import encode_texts, log_truncation
from mmbert.finetuning.examples import Examples, read_splits, want_text
from mmbert.finetuning.finetune import Trained
from mmbert.finetuning.init_model import Start, load_start
from mmbert.finetuning.losses import NONE, Items, choice_loss
from mmbert.finetuning.packed_model import PackedModel
from mmbert.finetuning.recipe import Choose, FinetuneRecipe
from mmbert.finetuning.task_rows import METRICS, choices_of, right_choice, task_fields
from mmbert.finetuning.trainer import fit
from mmbert.metrics.classes import accuracy
from mmbert.model.tasks import ChoiceClassifier
from mmbert.packed import Packed

NAMES = ("score",)


def train(recipe: FinetuneRecipe, folder: Path, callbacks: Sequence[Any] = ()) -> Trained:
    """The contract of ``mmbert.finetuning.finetune``."""
    own = recipe.choose
    splits = read_splits(recipe, task_fields(recipe))
    start = load_start(recipe, ChoiceClassifier, NAMES, own.pooling)
    data = {role: make_features(examples, role, own, start) for role, examples in splits.items()}
    gold = {role: [feature["labels"] for feature in features] for role, features in data.items()}
    model = PackedModel(
        start.task,
        _loss,
        partial(choices_as_rows, nothing=NONE),
        NAMES,
        start.tokenizer,
        max_tokens=start.task.config.max_context,
        choices=True,
    )
    return fit(recipe, folder, model, data, splits["train"].languages, Scores(gold), "accuracy", callbacks)


def make_features(examples: Examples, role: str, own: Choose, start: Start) -> list[Feature]:
    """Ids of each choice, and the number of the right one. Raises DataError with the place of what is wrong."""
    firsts: list[str] = []
    seconds: list[str | None] = []
    labels = []
    for row in examples.rows:
        question, choices = want_text(row, "question"), choices_of(row)
        firsts += [question] * len(choices)
        seconds += choices
        labels.append(right_choice(row, len(choices), own.first_label, examples.names.get("label", ())))
    ids, cut = encode_texts(start.tokenizer, firsts, seconds, start.max_tokens)
    log_truncation(role, cut, len(ids), start.max_tokens)
    features, at = [], 0
    for row, label in zip(examples.rows, labels, strict=True):
        features.append({"ids": ids[at : at + len(row["choices"])], "labels": label})
        at += len(row["choices"])
    return features


def _loss(scores: Tensor, packed: Packed, labels: Tensor, items: Items) -> Tensor:
    return choice_loss(scores, labels, items)


class Scores:
    """Part of the examples whose choice is right."""

    names = METRICS["choose"]

    def __init__(self, gold: dict[str, list[int]]) -> None:
        self._gold = gold

    def __call__(self, role: str, scores: Any) -> dict[str, float]:
        return {"accuracy": accuracy(scores.argmax(axis=1).tolist(), self._gold[role])}
