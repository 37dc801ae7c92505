"""From predictions to scores: each kind of task by the functions of ``mmbert.metrics``.

Rows are those that ``sources`` reads; a prediction is a label, a number or a list of labels (``classify``), labels of
words and spans (``tag``), a text (``answer``), a place among the choices (``choose``), or two matrices of vectors
(``bitext``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from mmbert.errors import DataError, UndefinedMetric
from mmbert.evaluation.predict import texts_of
from mmbert.evaluation.sources import Row
from mmbert.evaluation.task import Task
from mmbert.evaluation.word_spans import place_words, spans_of
from mmbert.finetuning.examples import as_label, read_answers
from mmbert.metrics import classes, entities
from mmbert.metrics.answers import normaliser, score_answers
from mmbert.metrics.ranking import bitext_accuracy

Scores = dict[str, float]

Metrics = dict[str, Callable[[], float]]


def score(task: Task, language: str, predictions: Sequence[Any], rows: Sequence[Row]) -> Scores:
    """The metrics of the task's kind that have a value on these rows.

    Raises DataError for a row without what is compared, and where the task's own metric has no value.
    """
    if not rows:
        raise DataError(f"{task.name}: {language} has no row to score")
    metrics = _METRICS[task.kind](task, language, predictions, rows)
    where = f"{task.name}: {language}"
    if task.metric not in metrics:
        raise DataError(f"{where}: {task.metric} is none of {', '.join(metrics)}: set tasks.{task.name}.metric")
    try:
        found = {task.metric: metrics[task.metric](), **classes.defined(metrics)}
    except UndefinedMetric as error:
        raise UndefinedMetric(f"{where}: {error}: leave it out of tasks.{task.name}.languages") from error
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    wrong = next((name for name, value in found.items() if not math.isfinite(value)), None)
    if wrong is not None:
        raise DataError(f"{where}: {wrong} is {found[wrong]}, which is no result: nothing was written")
    return found


def check(task: Task, rows: Sequence[Row]) -> None:
    """Raises DataError for a row that could not be scored, with its place, before anything is trained."""
    first = int(task.protocol.options.get("first_label", 0))
    for row in rows:
        if task.kind == "classify":
            texts_of(row)
            if task.protocol.options.get("problem") == "regression":
                _number(row)
        elif task.kind == "tag" and len(row["tokens"]) != len(row["tags"]):
            count = f"{len(row['tokens'])} tokens and {len(row['tags'])} tags"
            raise DataError(f"{row['place']}: {count}: give each token one")
        elif task.kind == "answer":
            _references(row)
        elif task.kind == "choose":
            choice_number(row, first)


def _classify(task: Task, language: str, predictions: Sequence[Any], rows: Sequence[Row]) -> Metrics:
    problem = task.protocol.options.get("problem", "single_label")
    if problem == "regression":
        gold = [_number(row) for row in rows]
        return {
            "pearson": lambda: classes.pearson(predictions, gold),
            "spearman": lambda: classes.spearman(predictions, gold),
        }
    if problem == "multi_label":
        several = [[as_label(label) for label in row["label"]] for row in rows]
        return {
            "micro_f1": lambda: classes.multilabel_f1(predictions, several),
            "macro_f1": lambda: classes.multilabel_f1(predictions, several, "macro"),
        }
    labels = [as_label(row["label"]) for row in rows]
    metrics: Metrics = {
        "accuracy": lambda: classes.accuracy(predictions, labels),
        "macro_f1": lambda: classes.macro_f1(predictions, labels),
        "weighted_f1": lambda: classes.weighted_f1(predictions, labels),
        "matthews": lambda: classes.matthews(predictions, labels),
    }
    if task.positive is not None:
        if task.positive not in {*labels, *predictions}:
            there = ", ".join(sorted(set(labels)))
            raise DataError(f"{task.name}: {language} has no label {task.positive!r} (there are {there}): set positive")
        metrics["binary_f1"] = lambda: classes.binary_f1(predictions, labels, task.positive)
    return metrics


def _tag(task: Task, language: str, predictions: Sequence[Any], rows: Sequence[Row]) -> Metrics:
    gold = [[as_label(tag) for tag in row["tags"]] for row in rows]
    labels = [tagged.labels for tagged in predictions]
    join = str(task.protocol.options.get("join", "auto"))
    spans = [spans_of(tags, place_words(row, join)[1]) for tags, row in zip(gold, rows, strict=True)]
    return {
        "entity_f1": lambda: entities.entity_f1(labels, gold),
        "span_f1": lambda: entities.span_f1([tagged.spans for tagged in predictions], spans),
        "token_accuracy": lambda: entities.token_accuracy(labels, gold),
    }


def _answer(task: Task, language: str, predictions: Sequence[Any], rows: Sequence[Row]) -> Metrics:
    gold = [_references(row) for row in rows]
    own = score_answers(predictions, gold, normaliser(task.normalisation, language))
    metrics: Metrics = {"f1": lambda: own.f1, "exact": lambda: own.exact}
    if task.normalisation != "squad":  # papers often score such a set by SQuAD's script all the same
        squad = score_answers(predictions, gold)
        metrics |= {"f1_squad": lambda: squad.f1, "exact_squad": lambda: squad.exact}
    return metrics


def _references(row: Row) -> list[str]:
    texts = [text for text, _ in read_answers(row)]
    if not texts:
        raise DataError(f"{row['place']}: answers hold no text: write {{text: [...], answer_start: [...]}}")
    return texts


def _choose(task: Task, language: str, predictions: Sequence[Any], rows: Sequence[Row]) -> Metrics:
    first = int(task.protocol.options.get("first_label", 0))
    gold = [choice_number(row, first) for row in rows]
    return {"accuracy": lambda: classes.accuracy(predictions, gold)}


def choice_number(row: Row, first: int = 0) -> int:
    """The place of the right choice, from 0. Raises DataError for one that is not among the choices.

    first  the label of the first choice
    """
    label = as_label(row["label"])
    number = int(label) - first if label.isdigit() else -1
    if not 0 <= number < len(row["choices"]):
        count = len(row["choices"])
        raise DataError(f"{row['place']}: label {row['label']!r} is no place among {count} choices: count from {first}")
    return number


def _bitext(task: Task, language: str, predictions: Sequence[Any], rows: Sequence[Row]) -> Metrics:
    texts, translations = predictions

    def centred() -> float:
        """Vectors of a model that was never tuned share a direction, each language its own: without it more is seen."""
        return bitext_accuracy(texts - texts.mean(axis=0), translations - translations.mean(axis=0))

    return {
        "accuracy": lambda: bitext_accuracy(texts, translations),
        "accuracy_from_english": lambda: bitext_accuracy(translations, texts),
        "accuracy_centred": centred,
    }


def _number(row: Row) -> float:
    try:
        return float(row["label"])
    except (TypeError, ValueError) as error:
        raise DataError(f"{row['place']}: label {row['label']!r} is no number: fix or remove the row") from error


_METRICS: dict[str, Callable[[Task, str, Sequence[Any], Sequence[Row]], Metrics]] = {
    "classify": _classify,
    "tag": _tag,
    "answer": _answer,
    "choose": _choose,
    "bitext": _bitext,
}
