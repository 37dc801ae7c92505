"""Scores of labels and numbers: worked by hand."""

from __future__ import annotations

import pytest

from mmbert.errors import DataError, UndefinedMetric
from mmbert.metrics.classes import (
    accuracy,
    binary_f1,
    defined,
    macro_f1,
    matthews,
    multilabel_f1,
    pearson,
    spearman,
    weighted_f1,
)

GOLD = ["a", "a", "a", "b"]
SAID = ["a", "a", "b", "b"]


def test_labels() -> None:
    assert accuracy(SAID, GOLD) == 0.75
    # a: precision 2/2, recall 2/3; b: precision 1/2, recall 1/1
    f1_a, f1_b = 0.8, 2 / 3
    assert macro_f1(SAID, GOLD) == pytest.approx((f1_a + f1_b) / 2)
    assert weighted_f1(SAID, GOLD) == pytest.approx((3 * f1_a + f1_b) / 4)
    assert binary_f1(SAID, GOLD, "b") == pytest.approx(f1_b)
    with pytest.raises(UndefinedMetric, match=r"none of the 1 examples has the label 'b'"):
        binary_f1(["b"], ["a"], "b")
    assert binary_f1(["a"], ["b"], "b") == 0


def test_matthews() -> None:
    # of b: tp 1, tn 2, fp 1, fn 0 -> (1*2 - 1*0) / sqrt(2 * 1 * 3 * 2)
    assert matthews(SAID, GOLD) == pytest.approx(2 / 12**0.5)
    assert matthews(["a"] * 4, GOLD) == 0
    with pytest.raises(UndefinedMetric, match=r"all 4 examples have the label 'a'"):
        matthews(GOLD, ["a"] * 4)


def test_several_labels() -> None:
    assert multilabel_f1([["x"], ["x", "y"], []], [["x"], ["y"], ["x"]]) == pytest.approx(2 * 2 / (3 + 3))
    assert multilabel_f1([["x"], ["x"]], [["x"], ["y"]], "macro") == pytest.approx((2 / 3 + 0) / 2)
    for average in ("micro", "macro"):
        assert multilabel_f1([[], []], [["x"], []], average) == 0, "one label in all is no choice of two classes"
    with pytest.raises(UndefinedMetric, match="none of the 1 examples has a label"):
        multilabel_f1([[]], [[]])


def test_numbers() -> None:
    assert spearman([1, 2, 30], [0.1, 0.2, 0.3]) == pytest.approx(1)
    assert pearson([1, 2, 30], [0.1, 0.2, 0.3]) < 0.9
    assert pearson([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 1, 1], [1, 2, 3]) == 0, "a model that always says the same"
    for gold in ([2.0, 2.0, 2.0], [2.0]):
        with pytest.raises(UndefinedMetric, match=rf"all {len(gold)} examples have the value 2.0"):
            spearman(list(range(len(gold))), gold)
    with pytest.raises(DataError, match=r"^prediction 1 is nan: a correlation needs finite numbers"):
        pearson([1, float("nan"), 3], [1, 2, 3])
    with pytest.raises(DataError, match=r"^gold value 0 is inf"):
        pearson([1, 2, 3], [float("inf"), 2, 3])


def test_what_has_no_value_is_left_out() -> None:
    one_class = ["a", "a"]
    found = defined(
        {"accuracy": lambda: accuracy(one_class, one_class), "matthews": lambda: matthews(one_class, one_class)}
    )
    assert found == {"accuracy": 1}
    with pytest.raises(UndefinedMetric, match="Matthews"):
        defined({"matthews": lambda: matthews(one_class, one_class)})


def test_lengths() -> None:
    with pytest.raises(DataError, match="2 predictions for 1 examples"):
        accuracy(["a", "b"], ["a"])
    with pytest.raises(DataError, match="empty"):
        macro_f1([], [])
