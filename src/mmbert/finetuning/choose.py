"""``choose``: which of several choices answers or continues a question best.

Each choice is a sequence ``<bos> question <eos> choice <eos>`` of the packed batch, and a softmax runs over those of an
example, however many it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from mmbert.finetuning.collate import Feature, choices_as_rows
from mmbert.finetuning.encode import encode_texts, log_truncation
from mmbert.finetuning.finetune import FinetuneResult
from mmbert.finetuning.init_model import Start, load_start
from mmbert.finetuning.losses import NONE, Items, choice_loss
from mmbert.finetuning.packed_model import PackedModel
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.scores import SplitScores
from mmbert.finetuning.start_folder import start_folder
from mmbert.finetuning.task_rows import METRICS, read_task
from mmbert.finetuning.trainer import fit
from mmbert.metrics.classes import accuracy
from mmbert.model.tasks import ChoiceClassifier
from mmbert.packed import Packed

NAMES = ("score",)


def train(recipe: FinetuneRecipe, folder: Path, callbacks: Sequence[Any] = ()) -> FinetuneResult:
    """Train as :mod:`mmbert.finetuning.finetune` describes."""
    own = recipe.choose
    rows = read_task(recipe)
    texts = (text for question, choices, _ in rows.items["train"] for text in (question, *choices))
    start = load_start(recipe, ChoiceClassifier, NAMES, own.pooling, start_folder(recipe, folder, texts))
    data = {role: make_features(items, role, start) for role, items in rows.items.items()}
    gold = {role: [feature["labels"] for feature in features] for role, features in data.items()}
    model = PackedModel(start, _loss, partial(choices_as_rows, nothing=NONE), choices=True)
    return fit(recipe, folder, model, data, rows.languages["train"], Scores(gold, rows.languages), callbacks)


def make_features(items: Sequence[tuple[str, list[str], int]], role: str, start: Start) -> list[Feature]:
    """Return the ids of each choice, and the number of the right one.

    items  question, choices, number of the right one
    """
    firsts = [question for question, choices, _ in items for _ in choices]
    seconds = [choice for _, choices, _ in items for choice in choices]
    ids, cut = encode_texts(start.tokenizer, firsts, seconds, start.max_tokens)
    log_truncation(role, cut, len(ids), start.max_tokens)
    encoded = iter(ids)
    return [{"ids": [next(encoded) for _ in choices], "labels": label} for _, choices, label in items]


def _loss(scores: Tensor, packed: Packed, labels: Tensor, items: Items) -> Tensor:
    return choice_loss(scores, labels, items)


class Scores(SplitScores):
    """Part of the examples whose choice is right."""

    names = METRICS["choose"]

    def __init__(self, gold: dict[str, list[int]], languages: Mapping[str, Sequence[str]]) -> None:
        self._gold, self.languages = gold, languages

    def read(self, role: str, predictions: Any) -> list[int]:
        said: list[int] = predictions.argmax(axis=1).tolist()
        return said

    def figures(self, role: str, said: Sequence[int], chosen: Sequence[int]) -> dict[str, float]:
        gold = self._gold[role]
        return {"accuracy": accuracy([said[at] for at in chosen], [gold[at] for at in chosen])}
