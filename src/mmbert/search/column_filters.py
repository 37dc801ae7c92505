"""The filters of ``mmbert.search.filters`` on the columns of a table, as SQL of LanceDB."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmbert.errors import ConfigError
from mmbert.search.filters import check_filter, unknown_key

_NONE = "false"

_LARGEST = 2**63


def column_filter(where: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """Return a condition that is true for the rows that fit.

    columns  name -> text, integer, number, boolean or json
    Raises ConfigError for no filter, an unknown column, or one of lists and objects.
    """
    check_filter(where)
    for name in where:
        if name not in columns:
            raise unknown_key(name, list(columns))
        if columns[name] == "json":
            raise ConfigError(f"where: the column {name!r} holds lists or objects, which have no filter in a table")
    return " AND ".join(_clause(name, columns[name], condition) for name, condition in where.items())


def _clause(name: str, kind: str, condition: Any) -> str:
    column = f"`{name}`"
    if condition is None:
        return f"({column} IS NULL)"
    if isinstance(condition, list | tuple | set | frozenset):
        return _any_of(column, kind, condition)
    if not isinstance(condition, Mapping):
        return _compared(column, kind, "=", condition)
    parts = []
    for operator, operand in condition.items():
        if operator == "not":
            parts.append(f"({_clause(name, kind, operand)} IS NOT TRUE)")  # NULL fits what begins with not
        elif operator == "in":
            parts.append(_any_of(column, kind, operand))
        else:
            parts.append(_compared(column, kind, operator, operand))
    return f"({' AND '.join(parts)})"


def _any_of(column: str, kind: str, values: Any) -> str:
    return f"({' OR '.join(_compared(column, kind, '=', value) for value in values) or _NONE})"


def _compared(column: str, kind: str, operator: str, value: Any) -> str:
    """Return a comparison; a value of another type than the column's fits nothing."""
    if (kind == "text") != isinstance(value, str):
        return f"({_NONE})"
    if kind == "text":
        literal = "'" + value.replace("'", "''") + "'"
    else:
        column = f"CAST({column} AS BIGINT)" if kind == "boolean" else column
        if float(value).is_integer() and abs(value) < _LARGEST:
            literal = str(int(value))
        else:  # of an integer column LanceDB takes no other literals
            column, literal = f"CAST({column} AS DOUBLE)", f"CAST('{float(value)}' AS DOUBLE)"
    return f"({column} {operator} {literal})"
