"""Scores of labels and of numbers, by scikit-learn and SciPy: what GLUE, XTREME, SIB-200 and AfriSenti report.

All are fractions, not per cent.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from mmbert.errors import DataError, MissingExtra


def accuracy(predicted: Sequence[Any], gold: Sequence[Any]) -> float:
    """Part of the labels that are right. Raises DataError if there are none, or not as many as gold ones."""
    check_lengths(predicted, gold)
    return sum(bool(one == other) for one, other in zip(predicted, gold, strict=True)) / len(gold)


def macro_f1(predicted: Sequence[Any], gold: Sequence[Any]) -> float:
    """Mean of the F1 of every label that occurs, each counting the same."""
    return _f1(predicted, gold, average="macro")


def weighted_f1(predicted: Sequence[Any], gold: Sequence[Any]) -> float:
    """Mean of the F1 of every label, by how often it is the gold one (SemEval-2023 task 12, AfriSenti)."""
    return _f1(predicted, gold, average="weighted")


def binary_f1(predicted: Sequence[Any], gold: Sequence[Any], positive: Any) -> float:
    """F1 of the label ``positive`` (GLUE's MRPC and QQP, Wang et al. 1804.07461); 0 where it never occurs."""
    return _f1([one == positive for one in predicted], [one == positive for one in gold], average="binary")


def matthews(predicted: Sequence[Any], gold: Sequence[Any]) -> float:
    """Matthews' correlation (GLUE's CoLA): 0 for a model that always says the same."""
    check_lengths(predicted, gold)
    return float(_metrics().matthews_corrcoef(list(gold), list(predicted)))


def multilabel_f1(predicted: Sequence[Sequence[Any]], gold: Sequence[Sequence[Any]], average: str = "micro") -> float:
    """F1 where a text has any number of labels. average: micro (every label of every text counts the same) or macro."""
    check_lengths(predicted, gold)
    names = sorted({label for labels in (*predicted, *gold) for label in labels}, key=str)
    if not names:
        return 1.0  # no label was wanted and none was given
    marks = [[[label in labels for label in names] for labels in side] for side in (gold, predicted)]
    wanted, given = (np.asarray(side, np.int64) for side in marks)
    return float(_metrics().f1_score(wanted, given, average=average, zero_division=0.0))


def pearson(predicted: Sequence[float], gold: Sequence[float]) -> float:
    """Pearson's correlation; 0 where either side is constant, which has none."""
    return _correlation("pearsonr", predicted, gold)


def spearman(predicted: Sequence[float], gold: Sequence[float]) -> float:
    """Spearman's correlation of ranks (GLUE's STS-B, MTEB's STS); 0 where either side is constant."""
    return _correlation("spearmanr", predicted, gold)


def check_lengths(predicted: Sequence[Any], gold: Sequence[Any]) -> None:
    """Raises DataError unless both are as many, and at least one."""
    if len(predicted) != len(gold):
        raise DataError(f"{len(predicted)} predictions for {len(gold)} examples: give one for each")
    if not len(gold):
        raise DataError("there is nothing to score: the split is empty")


def _f1(predicted: Sequence[Any], gold: Sequence[Any], average: str) -> float:
    check_lengths(predicted, gold)
    return float(_metrics().f1_score(list(gold), list(predicted), average=average, zero_division=0.0))


def _correlation(name: str, predicted: Sequence[float], gold: Sequence[float]) -> float:
    check_lengths(predicted, gold)
    given, wanted = np.asarray(predicted, np.float64), np.asarray(gold, np.float64)
    if len(wanted) < 2 or np.ptp(given) == 0 or np.ptp(wanted) == 0:
        return 0.0
    return float(getattr(_library("scipy.stats"), name)(given, wanted).statistic)


def _metrics() -> Any:
    return _library("sklearn.metrics")


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtra("scikit-learn", "evaluate") from error  # which brings scipy
