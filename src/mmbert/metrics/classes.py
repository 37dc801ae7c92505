"""Scores of labels and of numbers, by scikit-learn and SciPy: what GLUE, XTREME, SIB-200 and AfriSenti report.

All are fractions, not per cent. Where the gold labels leave a metric without a value for every model (one class only,
no positive label, equal numbers), :class:`UndefinedMetric` says so instead of 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from mmbert.errors import DataError, UndefinedMetric, import_extra


def defined(metrics: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Return the values of the metrics that have one on these examples. Raises UndefinedMetric if none has."""
    values: dict[str, float] = {}
    undefined = None
    for name, compute in metrics.items():
        try:
            values[name] = compute()
        except UndefinedMetric as error:
            # A metric without a value must not hide the others: Matthews is undefined on one class, accuracy is not.
            undefined = undefined or error
    if undefined is not None and not values:
        raise undefined
    return values


def accuracy(predicted: Sequence[Any], gold: Sequence[Any]) -> float:
    """Return the part of the labels that are right. Raises DataError if there are none, or not as many as gold ones."""
    check_lengths(predicted, gold)
    return sum(bool(one == other) for one, other in zip(predicted, gold, strict=True)) / len(gold)


def macro_f1(predicted: Sequence[Any], gold: Sequence[Any]) -> float:
    """Return the mean of the F1 of every label that occurs, each counting the same."""
    return _f1(predicted, gold, average="macro")


def weighted_f1(predicted: Sequence[Any], gold: Sequence[Any]) -> float:
    """Return the mean of the F1 of every label, by how often it is the gold one (SemEval-2023 task 12, AfriSenti)."""
    return _f1(predicted, gold, average="weighted")


def binary_f1(predicted: Sequence[Any], gold: Sequence[Any], positive: Any) -> float:
    """Return the F1 of the label ``positive`` (GLUE's MRPC and QQP, Wang et al. 1804.07461).

    Raises UndefinedMetric if no gold label is ``positive``.
    """
    check_lengths(predicted, gold)
    if positive not in gold:
        raise UndefinedMetric(f"F1 has no value: none of the {len(gold)} examples has the label {positive!r}")
    return _f1([one == positive for one in predicted], [one == positive for one in gold], average="binary")


def matthews(predicted: Sequence[Any], gold: Sequence[Any]) -> float:
    """Return Matthews' correlation (GLUE's CoLA): 0 for a model that always says the same.

    Raises UndefinedMetric if all gold labels are the same.
    """
    check_lengths(predicted, gold)
    _varied(gold, "Matthews' correlation", "label")
    return float(_metrics().matthews_corrcoef(list(gold), list(predicted)))


def multilabel_f1(predicted: Sequence[Sequence[Any]], gold: Sequence[Sequence[Any]], average: str = "micro") -> float:
    """Return the F1 where a text has any number of labels; ``average``: micro (over all labels of all texts) or macro.

    Raises UndefinedMetric if no text has a gold label.
    """
    check_lengths(predicted, gold)
    # Labels that occur on either side: a label that is only predicted counts as an error, in the macro mean too.
    names = sorted({label for labels in (*predicted, *gold) for label in labels}, key=str)
    if not any(len(labels) for labels in gold):
        raise UndefinedMetric(f"F1 has no value: none of the {len(gold)} examples has a label")
    sides = [[[label in labels for label in names] for labels in side] for side in (gold, predicted)]
    # F1 = 2 right / (given + wanted), summed over all labels (micro) or for each label (macro).
    wanted, given = (np.asarray(side, bool) for side in sides)
    axis = None if average == "micro" else 0  # scikit-learn reads a single column as two classes
    right, marked = (wanted & given).sum(axis=axis), wanted.sum(axis=axis) + given.sum(axis=axis)
    return float(np.mean(2 * right / marked))


def pearson(predicted: Sequence[float], gold: Sequence[float]) -> float:
    """Return Pearson's correlation; 0 for constant predictions. Raises UndefinedMetric if gold is constant."""
    return _correlation("pearsonr", predicted, gold)


def spearman(predicted: Sequence[float], gold: Sequence[float]) -> float:
    """Return Spearman's correlation of ranks (GLUE's STS-B, MTEB's STS), with the same ends as ``pearson``."""
    return _correlation("spearmanr", predicted, gold)


def check_lengths(predicted: Sequence[Any], gold: Sequence[Any]) -> None:
    """Raises DataError unless both are as many, and at least one."""
    if len(predicted) != len(gold):
        raise DataError(f"{len(predicted)} predictions for {len(gold)} examples: give one for each")
    if not len(gold):
        raise DataError("there is nothing to score: the split is empty")


def _varied(gold: Sequence[Any], metric: str, what: str) -> None:
    if all(one == gold[0] for one in gold):
        raise UndefinedMetric(f"{metric} has no value: all {len(gold)} examples have the {what} {gold[0]!r}")


def _f1(predicted: Sequence[Any], gold: Sequence[Any], average: str) -> float:
    check_lengths(predicted, gold)
    return float(_metrics().f1_score(list(gold), list(predicted), average=average, zero_division=0.0))


def _correlation(name: str, predicted: Sequence[float], gold: Sequence[float]) -> float:
    check_lengths(predicted, gold)
    given, wanted = np.asarray(predicted, np.float64), np.asarray(gold, np.float64)
    for values, side in ((given, "prediction"), (wanted, "gold value")):
        if not np.isfinite(values).all():
            wrong = int(np.flatnonzero(~np.isfinite(values))[0])
            raise DataError(f"{side} {wrong} is {values[wrong]}: a correlation needs finite numbers")
    _varied(gold, "a correlation", "value")
    # scipy warns and gives NaN; a model that always says the same has found no order, which is 0.
    if np.ptp(given) == 0:
        return 0.0
    import_extra("sklearn", "evaluate")  # which brings scipy
    return float(getattr(import_module("scipy.stats"), name)(given, wanted).statistic)


def _metrics() -> Any:
    return import_extra("sklearn.metrics", "evaluate")
