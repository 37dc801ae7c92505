"""A small language of filters on metadata, compiled to SQL.

    {"lang": "fra_Latn", "year": {">=": 2020, "<": 2024}, "kind": ["news", "blog"], "draft": {"not": True}}

Every key must fit: a value is met by that value, or by a list in the metadata that holds it; a list by any of its
values; None by records without the key; a dict by all of its operators: ``=``, ``in``, ``<``, ``<=``, ``>``, ``>=``,
and ``not`` before any of these. Numbers compare with numbers and text with text (by code points); a record without the
key, or with another type, fits only what begins with ``not``. True is 1 and False is 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from mmbert.errors import ConfigError

OPERATORS = ("=", "in", "<", "<=", ">", ">=", "not")

_LARGEST = 2**63

_MOST = 30_000
"""Values of a list: SQLite takes some more parameters than this."""

Clause = tuple[str, list[Any]]
"""SQL that is true or false of ``document``, and its parameters."""


def check_filter(where: Any) -> None:
    """Raise ConfigError for what is no filter."""
    if not isinstance(where, Mapping):
        raise ConfigError(f"where is {type(where).__name__}: expected a dict such as {{'lang': 'fra_Latn'}}")
    for key, condition in where.items():
        if not isinstance(key, str):
            raise ConfigError(f"where has the key {key!r}: the names of metadata are text")
        _clause(key, condition)


def compile_filter(where: Mapping[str, Any]) -> Clause:
    """Return all conditions of a filter as one SQL clause. Raises ConfigError as :func:`check_filter`."""
    check_filter(where)
    clauses = [_clause(key, condition) for key, condition in where.items()]
    return " AND ".join(sql for sql, _ in clauses) or "1", [value for _, values in clauses for value in values]


def unknown_key(key: str, known: list[str]) -> ConfigError:
    """Return the error for a key that no record has."""
    near = get_close_matches(key, known, 1)
    there = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known)[:20]) or 'none'}"
    return ConfigError(f"where: no record has metadata {key!r}: {there}")


def attribute_values(value: Any) -> list[Any]:
    """Return the values by which a metadata value can be found; none for null and nested objects."""
    if isinstance(value, list):
        return list(dict.fromkeys(item for inner in value if not isinstance(inner, list) for item in _found_by(inner)))
    return _found_by(value)


def _found_by(value: Any) -> list[Any]:
    if isinstance(value, float) and math.isnan(value):
        return []
    return [_stored(value)] if isinstance(value, str | bool | int | float) else []


def _stored(value: Any) -> Any:
    """Return a value as SQLite stores it: its integers have 64 bits."""
    if isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, int) and not -_LARGEST <= value < _LARGEST else value


def _clause(key: str, condition: Any) -> Clause:
    if condition is None:
        return "document NOT IN (SELECT document FROM attributes WHERE key = ?)", [key]
    if isinstance(condition, list | tuple | set | frozenset):
        return _any_of(key, list(condition))
    if not isinstance(condition, Mapping):
        return _having(key, "value = ?", [_scalar(key, condition)])
    if not condition:
        raise ConfigError(f"where: {key!r} has an empty condition: expected operators of {' '.join(OPERATORS)}")
    clauses = [_operator(key, name, operand) for name, operand in condition.items()]
    return f"({' AND '.join(sql for sql, _ in clauses)})", [value for _, values in clauses for value in values]


def _operator(key: str, name: Any, operand: Any) -> Clause:
    if name not in OPERATORS:
        raise ConfigError(f"where: {key!r} has the operator {name!r}: expected one of {' '.join(OPERATORS)}")
    if name == "not":
        sql, values = _clause(key, operand)
        return f"NOT {sql}" if sql.startswith("(") else f"NOT ({sql})", values
    if name == "in":
        if not isinstance(operand, list | tuple | set | frozenset):
            raise ConfigError(f"where: {key!r} 'in' takes a list, not {type(operand).__name__}")
        return _any_of(key, list(operand))
    value = _scalar(key, operand)
    if name == "=":
        return _having(key, "value = ?", [value])
    # SQLite orders all numbers before all text and all text before blobs: the bounds keep to the value's own type
    other = {"<": ">=", "<=": ">="}.get(name, "<")
    bound = ("''" if other == ">=" else "x''") if isinstance(value, str) else ("-9e999" if other == ">=" else "''")
    return _having(key, f"value {name} ? AND value {other} {bound}", [value])


def _any_of(key: str, options: list[Any]) -> Clause:
    if len(options) > _MOST:
        raise ConfigError(f"where: {key!r} has a list of {len(options):,} values, more than {_MOST:,}: ask in parts")
    values = [_scalar(key, option) for option in options]
    return _having(key, f"value IN ({', '.join('?' * len(values))})", values)


def _having(key: str, test: str, values: list[Any]) -> Clause:
    return f"document IN (SELECT document FROM attributes WHERE key = ? AND {test})", [key, *values]


def _scalar(key: str, value: Any) -> Any:
    if not isinstance(value, str | bool | int | float) or (isinstance(value, float) and math.isnan(value)):
        raise ConfigError(f"where: {key!r} is compared with {value!r}: expected text, a number, true or false")
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= sign <= "\udfff" for sign in value):
        raise ConfigError(f"where: {key!r} is compared with a lone surrogate: decode it as UTF-8 first")
    return _stored(value)
