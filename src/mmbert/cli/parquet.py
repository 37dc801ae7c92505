"""JSON objects as the rows of a Parquet file: lists and objects in them become lists and structs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, BinaryIO

from mmbert.errors import DataError, MissingExtra

PARQUET = ".parquet"

GROUP = 4096
"""Rows in memory at a time, and in a row group."""


def check_parquet() -> Any:
    """pyarrow. Raises MissingExtra."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "data") from error
    return pyarrow


def write_parquet(rows: Callable[[], Iterable[dict[str, Any]]], file: BinaryIO) -> None:
    """Write the rows, which are gone through twice: for their columns, then for what is in them.

    A column ``id`` is of whole numbers if all ids are, else of strings. Raises DataError for any other column that is
    of several kinds.
    """
    arrow = check_parquet()
    numbers = all(type(row.get("id", 0)) is int for row in rows())
    schema = arrow.schema([])
    try:
        for group in _groups(rows(), numbers):
            found = arrow.Table.from_pylist(group).schema
            schema = arrow.unify_schemas([schema, found], promote_options="permissive")
        with arrow.parquet.ParquetWriter(file, schema, write_page_checksum=True) as writer:
            for group in _groups(rows(), numbers):
                writer.write_table(arrow.Table.from_pylist(group, schema=schema))
    except arrow.ArrowException as error:
        raise DataError(f"the answers do not make a table ({error}): write .jsonl instead") from error


def _groups(rows: Iterable[dict[str, Any]], numbers: bool) -> Iterator[list[dict[str, Any]]]:
    stream = iter(rows)
    while group := list(islice(stream, GROUP)):
        yield group if numbers else [{**row, "id": _name(row["id"])} if "id" in row else row for row in group]


def _name(value: Any) -> str | None:
    return None if value is None else str(value)
