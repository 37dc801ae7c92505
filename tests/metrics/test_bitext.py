"""Bitext accuracy, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mmbert.errors import DataError, UndefinedMetric
from mmbert.metrics.bitext import bitext_accuracy


def test_bitext() -> None:
    english = np.eye(3, dtype=np.float32)
    foreign = np.array([[5, 0, 0], [0, 1, 0.5], [0, 1, 0.1]], np.float32)  # length does not matter; the last is wrong
    assert bitext_accuracy(foreign, english) == pytest.approx(2 / 3)
    rng = np.random.default_rng(0)
    many = rng.normal(size=(2500, 8))
    assert bitext_accuracy(many, many) == 1, "in several pieces"
    assert bitext_accuracy(np.zeros((2, 4)), np.ones((2, 4))) == 0.5, "a vector of nothing is near to none"


def test_faults() -> None:
    with pytest.raises(DataError, match="2 sentences for 1 translations"):
        bitext_accuracy(np.ones((2, 1)), np.ones((1, 1)))
    for rows in (0, 1):
        with pytest.raises(UndefinedMetric, match=rf"nothing to score: {rows} sentences"):
            bitext_accuracy(np.ones((rows, 1)), np.ones((rows, 1)))
    with pytest.raises(DataError, match=r"^the vector of sentence 1 holds NaN"):
        bitext_accuracy(np.ones((2, 1)), np.array([[1.0], [np.nan]]))
