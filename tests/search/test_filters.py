"""Filters: SQL against the same language spelled out in Python, and what is no filter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.errors import ConfigError
from mmbert.search.filters import check_filter
from mmbert.search.index_record import IndexRecord
from mmbert.search.records import Records

SCALARS = st.one_of(
    st.integers(-3, 3), st.sampled_from([0.5, 2.0, float("inf"), 2**63]), st.booleans(),
    st.sampled_from(["", "a", "B", "fra_Latn", "é", "2", "人"]),
)  # fmt: skip
METADATA = st.dictionaries(
    st.sampled_from("xyz"), st.one_of(SCALARS, st.none(), st.lists(SCALARS, max_size=3), st.just({"inner": 1}))
)
ORDERED = st.dictionaries(st.sampled_from(["<", "<=", ">", ">=", "="]), SCALARS, min_size=1, max_size=2)
PLAIN = st.one_of(SCALARS, st.none(), st.lists(SCALARS, max_size=3), ORDERED)
CONDITION = st.one_of(
    PLAIN, PLAIN.map(lambda c: {"not": c}), st.lists(SCALARS, max_size=3).map(lambda c: {"in": c, "not": "a"})
)


def values_of(value: Any) -> list[Any]:
    return [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str | int | float)]


def compares(value: Any, operator: str, operand: Any) -> bool:
    if isinstance(value, str) != isinstance(operand, str):
        return False
    return {
        "=": value == operand, "<": value < operand, "<=": value <= operand, ">": value > operand,
        ">=": value >= operand,
    }[operator]  # fmt: skip


def fits(value: Any, condition: Any) -> bool:
    """One key of a filter, by its definition."""
    values = values_of(value)
    if condition is None:
        return not values
    if isinstance(condition, list):
        return any(compares(v, "=", option) for v in values for option in condition)
    if not isinstance(condition, dict):
        return any(compares(v, "=", condition) for v in values)
    for operator, operand in condition.items():
        if operator == "not":
            good = not fits(value, operand)
        elif operator == "in":
            good = fits(value, operand)
        else:
            good = any(compares(v, operator, operand) for v in values)
        if not good:
            return False
    return True


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records")


FILTER = st.dictionaries(st.sampled_from("xyz"), CONDITION, min_size=1, max_size=2)


@given(st.lists(METADATA, min_size=3, max_size=12), st.lists(FILTER, min_size=10, max_size=20))
@settings(max_examples=20, deadline=None)
def test_filters_mean_what_they_say(place: Path, metadata: list[dict[str, Any]], filters: list[dict[str, Any]]) -> None:
    (place / "records.sqlite").unlink(missing_ok=True)
    Records.create(place, "exact")
    records = Records(place)
    known = {"x": 0, "y": 0, "z": 0}  # so that every key is there
    documents = [IndexRecord(number, "text", values) for number, values in enumerate([known, *metadata])]
    with records.writing():
        records.insert([(document, [(0, 4)]) for document in documents])
    with records.reading() as state:
        found = [np.flatnonzero(records.matching(where, state.rows)).tolist() for where in filters]
    records.close()
    for where, rows in zip(filters, found, strict=True):
        assert rows == [d.id for d in documents if all(fits(d.metadata.get(key), c) for key, c in where.items())], where


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("lang=fra", "where is str: expected a dict"),
        ({"a": {"=>": 1}}, "operator '=>': expected one of = in < <= > >= not"),
        ({"a": {}}, "empty condition"),
        ({"a": {"in": "x"}}, "'in' takes a list, not str"),
        ({"a": {"<": None}}, "compared with None"),
        ({"a": [["x"]]}, "compared with \\['x'\\]"),
        ({"a": {"not": {"~": 1}}}, "operator '~'"),
        ({"a": float("nan")}, "compared with nan"),
        ({"a": "\ud800"}, "lone surrogate"),
        ({1: "x"}, "the key 1"),
        ({"a": list(range(40_000))}, "more than 30,000"),
    ],
)
def test_what_is_no_filter(where: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        check_filter(where)
    assert "\n" not in str(caught.value)
