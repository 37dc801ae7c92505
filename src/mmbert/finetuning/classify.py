"""``classify``: classes, several classes at once, or a number, of a text or of a pair of texts.

With a teacher (``recipe.teacher``), what the student reads of a text, or each window of it, is an example with the
teacher's logits for the same characters. On dev and test the windows of a text are one example, whose logits are their
mean; where the row says at which characters its label lies, each window is an example by itself.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from mmbert.finetuning.losses import UNLABELLED, ClassLoss, MultiLabelLoss, balanced_weights, number_loss
from mmbert.finetuning.packed_model import Loss, PackedModel
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_heads import Classify
from mmbert.finetuning.scores import AGREEMENT, SplitScores
from mmbert.finetuning.start_folder import start_folder
from mmbert.finetuning.task_rows import TaskRows, label_span, labels_of, metric_names, read_task
from mmbert.finetuning.teacher_config import TeacherConfig, read_teacher
from mmbert.finetuning.teacher_logits import TeacherLogits
from mmbert.finetuning.teacher_losses import class_teacher_loss, multi_label_teacher_loss, number_teacher_loss
from mmbert.finetuning.text_windows import Reading, read_texts, touches
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


@dataclass(frozen=True)
class Split:
    """The features of a split, and the examples that are scored.

    owners     of each feature, the number of its example: windows of one text share one
    gold       label of each example, as ``labels`` of a feature; None where it has none
    languages  of each example; ``of_features``: of each feature
    """

    features: list[Feature]
    owners: np.ndarray
    gold: list[Any]
    languages: list[str]

    @property
    def of_features(self) -> list[str]:
        return [self.languages[owner] for owner in self.owners.tolist()]


def train(recipe: FinetuneRecipe, folder: Path, callbacks: Sequence[Any] = ()) -> FinetuneResult:
    """Train as :mod:`mmbert.finetuning.finetune` describes."""
    own = recipe.classify
    teacher = None if recipe.teacher is None else read_teacher(recipe)
    rows = read_task(recipe, teacher)
    words = (text for texts in _texts(rows.splits["train"]) for text in texts if text)
    start = load_start(recipe, SequenceClassifier, rows.names, own.pooling, start_folder(recipe, folder, words))
    splits = _splits(recipe, folder, rows, start, teacher)
    loss = _loss(recipe, start.names, [label for label in splits["train"].gold if label is not None])
    model = PackedModel(start, loss, texts_as_rows, problem_type=PROBLEMS[own.problem])
    score = Scores(own, splits, metric_names(recipe, len(rows.names)))
    data = {role: split.features for role, split in splits.items()}
    return fit(recipe, folder, model, data, splits["train"].of_features, score, callbacks)


def _splits(
    recipe: FinetuneRecipe, folder: Path, rows: TaskRows, start: Start, teacher: TeacherConfig | None
) -> dict[str, Split]:
    """Return the features of all splits. The teacher's weights are free again when this returns."""
    if teacher is None:
        return {role: _split(examples, role, recipe.classify, start) for role, examples in rows.splits.items()}
    logits = TeacherLogits(recipe, folder, teacher)
    return {role: _taught_split(each, role, recipe, start, logits) for role, each in rows.splits.items()}


def make_features(examples: Examples, role: str, own: Classify, numbers: dict[str, int], start: Start) -> list[Feature]:
    """Return ids and labels of each example. Raises DataError with the place of what is wrong."""
    texts, pairs = _texts(examples)
    rows, cut = encode_texts(start.tokenizer, texts, pairs, start.max_tokens)
    log_truncation(role, cut, len(rows), start.max_tokens)
    labels = [_label(row, own, numbers) for row in examples.rows]
    return [{"ids": ids, "labels": label} for ids, label in zip(rows, labels, strict=True)]


def _texts(examples: Examples) -> tuple[list[str], list[str | None]]:
    texts = [want_text(row, "text") for row in examples.rows]
    return texts, [want_text(row, "text_pair") if "text_pair" in row else None for row in examples.rows]


def _split(examples: Examples, role: str, own: Classify, start: Start) -> Split:
    features = make_features(examples, role, own, {name: number for number, name in enumerate(start.names)}, start)
    gold = [feature["labels"] for feature in features]
    return Split(features, np.arange(len(features)), gold, examples.languages)


def _taught_split(examples: Examples, role: str, recipe: FinetuneRecipe, start: Start, teacher: TeacherLogits) -> Split:
    """Return a split whose features have the teacher's logits."""
    own, options = recipe.classify, recipe.teacher
    assert options is not None
    readings = read_texts(start.tokenizer, *_texts(examples), start.max_tokens, options.doc_stride)
    if options.doc_stride is None:
        log_truncation(role, sum(not reading.whole for reading in readings), len(readings), start.max_tokens)
    elif len(readings) > len(examples):
        log.info("%s: %s texts are read in %s windows of at most %d tokens", role, f"{len(examples):,}",
                 f"{len(readings):,}", start.max_tokens)  # fmt: skip
    places = [examples.rows[reading.row]["place"] for reading in readings]
    logits = teacher.texts(role, [reading.text for reading in readings], places)
    numbers = {name: number for number, name in enumerate(start.names)}
    outside = None if options.outside is None else {"label": _stated(options.outside, own)}
    labels = [_window_label(examples.rows[reading.row], reading, own, numbers, outside) for reading in readings]
    features = [
        {"ids": reading.ids, "labels": _unlabelled(own, len(numbers)) if label is None else label, "teacher": row}
        for reading, label, row in zip(readings, labels, logits, strict=True)
    ]
    # Windows of a row without a span are one example; those of a row with one have labels of their own.
    alone = [label_span(row) is not None for row in examples.rows]
    keys = [(reading.row, at if alone[reading.row] else -1) for at, reading in enumerate(readings)]
    examples_of = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    gold = dict(zip(keys, labels, strict=True))
    languages = examples.languages
    return Split(
        features, np.array([examples_of[key] for key in keys]), [gold[key] for key in examples_of],
        [languages[row] for row, _ in examples_of],
    )  # fmt: skip


def _stated(label: str, own: Classify) -> Any:
    return [label] if own.problem == "multi_label" else label


def _window_label(
    row: Row, reading: Reading, own: Classify, numbers: dict[str, int], outside: dict[str, Any] | None
) -> Any:
    """Return the label of what is read of a row; None without one."""
    if "label" not in row:
        return None
    span = label_span(row)
    if span is None or touches(reading, span):
        return _label(row, own, numbers)
    return None if outside is None else _label({**row, **outside}, own, numbers)


def _unlabelled(own: Classify, labels: int) -> Any:
    """Return what stands for a label where there is none."""
    if own.problem == "single_label":
        return UNLABELLED
    return np.nan if own.problem == "regression" else [np.nan] * labels


def _label(row: Row, own: Classify, numbers: dict[str, int]) -> Any:
    if own.problem == "regression":
        return number_in(row, "label", row["label"])
    if own.problem == "single_label":
        return label_number(numbers, row, "label", row["label"], "classify.labels")
    marks = [0.0] * len(numbers)
    for label in labels_of(row, own):
        marks[label_number(numbers, row, "label", label, "classify.labels")] = 1.0
    return marks


def _loss(recipe: FinetuneRecipe, names: tuple[str, ...], labels: list[Any]) -> Loss:
    own, teacher = recipe.classify, recipe.teacher
    if own.problem == "regression":
        return number_loss if teacher is None else number_teacher_loss(teacher.weight)
    if own.problem == "multi_label":
        counts = np.sum(labels, axis=0).astype(int).tolist() if labels else [0] * len(names)
        several = MultiLabelLoss(class_weights(own.class_weights, names, counts, "classify"), own.focal_gamma)
        return several if teacher is None else multi_label_teacher_loss(several, teacher.temperature, teacher.weight)
    found = Counter(labels)
    counts = [found[number] for number in range(len(names))]
    one = ClassLoss(class_weights(own.class_weights, names, counts, "classify"), own.focal_gamma)
    return one if teacher is None else class_teacher_loss(one, teacher.temperature, teacher.weight)


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


class Scores(SplitScores):
    """Numbers of a split's predictions; the first of ``names`` decides unless the recipe says otherwise.

    With a teacher also the agreement with it: the part of the texts of which both say the same class, or the same
    classes; for numbers Spearman's correlation with the teacher's.
    """

    def __init__(self, own: Classify, splits: Mapping[str, Split], names: tuple[str, ...]) -> None:
        self._problem, self._splits = own.problem, splits
        self.languages = {role: split.languages for role, split in splits.items()}
        dev = splits.get("dev")
        bare = dev is not None and all(label is None for label in dev.gold)
        self.names, self._binary = (AGREEMENT,) if bare else names, "f1" in names
        for role, split in splits.items():
            if "teacher" in split.features[0]:
                logits = np.stack([feature["teacher"] for feature in split.features]).astype(np.float32)
                self.taught[role] = self.read(role, logits)

    def read(self, role: str, predictions: Any) -> list[Any]:
        owners, count = self._splits[role].owners, len(self._splits[role].gold)
        logits = np.zeros((count, predictions.shape[1]), np.float64)
        np.add.at(logits, owners, predictions)
        logits /= np.bincount(owners, minlength=count)[:, None]
        if self._problem == "regression":
            numbers: list[float] = logits[:, 0].tolist()
            return numbers
        if self._problem == "multi_label":
            return [np.flatnonzero(row >= 0.5).tolist() for row in expit(logits)]
        best: list[int] = logits.argmax(axis=1).tolist()
        return best

    def figures(self, role: str, said: Sequence[Any], chosen: Sequence[int]) -> dict[str, float]:
        gold = self._splits[role].gold
        labelled = [at for at in chosen if gold[at] is not None]
        metrics = self._metrics([said[at] for at in labelled], [gold[at] for at in labelled]) if labelled else {}
        if role in self.taught:
            agree = spearman if self._problem == "regression" else accuracy
            own, teacher = [said[at] for at in chosen], [self.taught[role][at] for at in chosen]
            metrics[AGREEMENT] = lambda: agree(own, teacher)
        return defined(metrics)

    def _metrics(self, said: list[Any], gold: list[Any]) -> dict[str, Callable[[], float]]:
        if self._problem == "regression":
            return {"spearman": lambda: spearman(said, gold), "pearson": lambda: pearson(said, gold)}
        if self._problem == "multi_label":
            wanted = [np.flatnonzero(row).tolist() for row in np.array(gold)]
            return {
                "micro_f1": lambda: multilabel_f1(said, wanted, "micro"),
                "macro_f1": lambda: multilabel_f1(said, wanted, "macro"),
            }
        metrics: dict[str, Callable[[], float]] = {
            "accuracy": lambda: accuracy(said, gold),
            "macro_f1": lambda: macro_f1(said, gold),
            "matthews": lambda: matthews(said, gold),
        }
        return metrics | ({"f1": lambda: binary_f1(said, gold, 1)} if self._binary else {})
