"""``classify``: classes, several classes at once, or a number, of a text or of a pair of texts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from mmbert.errors import ConfigError
from mmbert.finetuning.collate import Feature, texts_as_rows
from mmbert.finetuning.encode import encode_texts, log_truncation
from mmbert.finetuning.examples import want_text
from mmbert.finetuning.finetune import FinetuneResult
from mmbert.finetuning.init_model import Start, load_start
from mmbert.finetuning.labels import Examples, label_number, number_in
from mmbert.finetuning.losses import ClassLoss, MultiLabelLoss, balanced_weights, number_loss
from mmbert.finetuning.packed_model import Loss, PackedModel
from mmbert.finetuning.recipe import Classify, FinetuneRecipe
from mmbert.finetuning.task_rows import labels_of, metric_names, read_task
from mmbert.finetuning.trainer import fit
from mmbert.io.row_errors import Row
from mmbert.metrics.classes import accuracy, binary_f1, defined, macro_f1, matthews, multilabel_f1, pearson, spearman
from mmbert.model.tasks import SequenceClassifier

log = logging.getLogger(__name__)

PROBLEMS = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
"""Ours -> transformers' ``problem_type``."""


def train(recipe: FinetuneRecipe, folder: Path, callbacks: Sequence[Any] = ()) -> FinetuneResult:
    """Train as :mod:`mmbert.finetuning.finetune` describes."""
    own = recipe.classify
    rows = read_task(recipe)
    start = load_start(recipe, SequenceClassifier, rows.names, own.pooling)
    numbers = {name: number for number, name in enumerate(start.names)}
    data = {role: make_features(examples, role, own, numbers, start) for role, examples in rows.splits.items()}
    gold = {role: [feature["labels"] for feature in features] for role, features in data.items()}
    loss = _loss(own, start.names, gold["train"])
    model = PackedModel(start, loss, texts_as_rows, problem_type=PROBLEMS[own.problem])
    score = Scores(own, gold, metric_names(recipe, len(rows.names)))
    return fit(recipe, folder, model, data, rows.splits["train"].languages, score, callbacks)


def make_features(examples: Examples, role: str, own: Classify, numbers: dict[str, int], start: Start) -> list[Feature]:
    """Return ids and labels of each example. Raises DataError with the place of what is wrong."""
    texts = [want_text(row, "text") for row in examples.rows]
    pairs = [want_text(row, "text_pair") if "text_pair" in row else None for row in examples.rows]
    rows, cut = encode_texts(start.tokenizer, texts, pairs, start.max_tokens)
    log_truncation(role, cut, len(rows), start.max_tokens)
    labels = [_label(row, own, numbers) for row in examples.rows]
    return [{"ids": ids, "labels": label} for ids, label in zip(rows, labels, strict=True)]


def _label(row: Row, own: Classify, numbers: dict[str, int]) -> Any:
    if own.problem == "regression":
        return number_in(row, "label", row["label"])
    if own.problem == "single_label":
        return label_number(numbers, row, "label", row["label"], "classify.labels")
    marks = [0.0] * len(numbers)
    for label in labels_of(row, own):
        marks[label_number(numbers, row, "label", label, "classify.labels")] = 1.0
    return marks


def _loss(own: Classify, names: tuple[str, ...], labels: list[Any]) -> Loss:
    if own.problem == "regression":
        return number_loss
    if own.problem == "multi_label":
        counts = np.sum(labels, axis=0).astype(int).tolist()
        return MultiLabelLoss(class_weights(own.class_weights, names, counts, "classify"), own.focal_gamma)
    found = Counter(labels)
    counts = [found[number] for number in range(len(names))]
    return ClassLoss(class_weights(own.class_weights, names, counts, "classify"), own.focal_gamma)


def class_weights(wanted: Any, names: tuple[str, ...], counts: list[int], block: str) -> list[float] | None:
    """Return the weight of each class: none, balanced by these counts, or as stated (1 for what is not named)."""
    if wanted is None:
        return None
    if wanted == "balanced":
        return balanced_weights(counts)
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ConfigError(f"{block}.class_weights names no label: {unknown[0]} (there are: {', '.join(names)})")
    return [float(wanted.get(name, 1.0)) for name in names]


class Scores:
    """Numbers of a split's predictions; the first of ``names`` decides unless the recipe says otherwise."""

    def __init__(self, own: Classify, gold: dict[str, list[Any]], names: tuple[str, ...]) -> None:
        self._problem, self._gold, self.names = own.problem, gold, names

    def __call__(self, role: str, logits: Any) -> dict[str, float]:
        gold = self._gold[role]
        if self._problem == "regression":
            said = logits[:, 0].tolist()
            return defined({"spearman": lambda: spearman(said, gold), "pearson": lambda: pearson(said, gold)})
        if self._problem == "multi_label":
            sets = [np.flatnonzero(row >= 0.5).tolist() for row in expit(logits)]
            wanted = [np.flatnonzero(row).tolist() for row in np.array(gold)]
            return {f"{kind}_f1": multilabel_f1(sets, wanted, kind) for kind in ("micro", "macro")}
        best = logits.argmax(axis=1).tolist()
        metrics: dict[str, Callable[[], float]] = {
            "accuracy": lambda: accuracy(best, gold),
            "macro_f1": lambda: macro_f1(best, gold),
            "matthews": lambda: matthews(best, gold),
        }
        return defined(metrics | ({"f1": lambda: binary_f1(best, gold, 1)} if logits.shape[1] == 2 else {}))
