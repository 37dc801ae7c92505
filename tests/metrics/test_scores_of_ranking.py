"""Rankings and bitexts: worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmbert.errors import ConfigError, DataError, UndefinedMetric
from mmbert.metrics.ranking import bitext_accuracy, score_ranking


def test_ranking() -> None:
    judged = {"q1": {"a": 1, "b": 1, "c": 0}, "q2": {"x": 1}}
    run = {"q1": {"c": 3.0, "a": 2.0, "z": 1.0}, "q2": {"x": 1.0}}
    found = score_ranking(run, judged, ["nDCG@10", "RR@10", "R@100"])
    ideal = 1 + 1 / math.log2(3)
    assert found["nDCG@10"] == pytest.approx((1 / math.log2(3) / ideal + 1) / 2)
    assert found["RR@10"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["R@100"] == pytest.approx((1 / 2 + 1) / 2)


def test_a_query_without_results_counts() -> None:
    judged = {"q1": {"a": 1}, "q2": {"b": 1}}
    assert score_ranking({"q1": {"a": 1.0}}, judged, ["nDCG@10"])["nDCG@10"] == 0.5
    assert score_ranking({}, judged, ["RR@10"])["RR@10"] == 0


def test_bitext() -> None:
    english = np.eye(3, dtype=np.float32)
    foreign = np.array([[5, 0, 0], [0, 1, 0.5], [0, 1, 0.1]], np.float32)  # length does not matter; the last is wrong
    assert bitext_accuracy(foreign, english) == pytest.approx(2 / 3)
    rng = np.random.default_rng(0)
    many = rng.normal(size=(2500, 8))
    assert bitext_accuracy(many, many) == 1, "in several pieces"
    assert bitext_accuracy(np.zeros((2, 4)), np.ones((2, 4))) == 0.5, "a vector of nothing is near to none"


def test_faults() -> None:
    with pytest.raises(ConfigError, match="nDCG@10, RR@10, R@100"):
        score_ranking({}, {"q": {"a": 1}}, ["nonsense"])
    for judged in ({}, {"q": {}}, {"q": {"a": 0}, "r": {"a": 0}}):
        with pytest.raises(UndefinedMetric, match=rf"none of {len(judged)} queries has a relevant document"):
            score_ranking({"q": {"a": 1.0}}, judged)
    with pytest.raises(DataError, match=r"^query 'q', document 'b': the score is nan"):
        score_ranking({"q": {"a": 1.0, "b": float("nan")}}, {"q": {"a": 1}})
    with pytest.raises(DataError, match="2 sentences for 1 translations"):
        bitext_accuracy(np.ones((2, 1)), np.ones((1, 1)))
    for rows in (0, 1):
        with pytest.raises(UndefinedMetric, match=rf"nothing to score: {rows} sentences"):
            bitext_accuracy(np.ones((rows, 1)), np.ones((rows, 1)))
    with pytest.raises(DataError, match=r"^the vector of sentence 1 holds NaN"):
        bitext_accuracy(np.ones((2, 1)), np.array([[1.0], [np.nan]]))
