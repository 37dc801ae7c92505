"""The result of a shard: a Parquet file with the id and the answer of each row, and the columns that are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO, Self

import orjson

from mmbert.bulk.jobs import Job
from mmbert.bulk.places import Shard
from mmbert.errors import DataError
from mmbert.io.lines import Line
from mmbert.io.rows import import_pyarrow

ROW_GROUP = 4096
"""Rows of a Parquet row group, which are in memory at a time."""

FOOTER = b"mmbert"
"""Key of what a result says of itself, in the metadata of its Parquet footer."""


@dataclass(frozen=True)
class Row:
    """A line of a shard, ready for the model."""

    line: Line
    id: str
    item: Any

    def kept(self, field: str) -> Any:
        """Return a field of the line; the text of a line that is no object is its field ``text``."""
        if isinstance(self.line.value, str):
            return self.line.value if field == "text" else None
        return self.line.value.get(field)


class ShardWriter:
    """Writes rows with their answers; ids are strings in every file, so that the files of a run are one table."""

    def __init__(self, file: BinaryIO, shard: Shard, job: Job, predictor: Any, keep: tuple[str, ...]) -> None:
        """Columns of Parquet in ``keep`` have their types; of other files they are text, what is no text as JSON."""
        arrow = import_pyarrow()
        stored = _stored_types(shard, keep) if keep and shard.name.endswith(".parquet") else {}
        self._kept = {name: stored.get(name, arrow.string()) for name in keep}
        self._schema = arrow.schema([("id", arrow.string()), *job.fields(predictor), *self._kept.items()])
        self._writer = arrow.parquet.ParquetWriter(file, self._schema, write_page_checksum=True)
        self._shard, self._job, self._predictor = shard, job, predictor
        self._group: list[tuple[Row, Any]] = []

    def add(self, row: Row, answer: Any) -> None:
        """Write a row, with others of its group."""
        self._group.append((row, answer))
        if len(self._group) == ROW_GROUP:
            self._flush()

    def finish(self, done: dict[str, Any]) -> None:
        """Write what is left, and ``done`` into the footer."""
        self._flush()
        self._writer.add_key_value_metadata({FOOTER: orjson.dumps(done)})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()  # also after an error: else it would write when it is collected, into a closed file

    def _flush(self) -> None:
        if not self._group:
            return
        arrow = import_pyarrow()
        rows, answers = [row for row, _ in self._group], [answer for _, answer in self._group]
        if missing := [name for name in self._kept if all(_lacks(row, name) for row in rows)]:
            there = ", ".join(rows[0].line.value) if isinstance(rows[0].line.value, dict) else "text"
            raise DataError(f"{self._shard.place}: no row has a field {missing[0]!r} (--keep): there are {there}")
        columns = [arrow.array([row.id for row in rows]), *self._job.columns(answers, self._predictor)]
        columns += [_column([row.kept(name) for row in rows], kind) for name, kind in self._kept.items()]
        self._writer.write_table(arrow.Table.from_arrays(columns, schema=self._schema))
        self._group = []


def _stored_types(shard: Shard, names: tuple[str, ...]) -> dict[str, Any]:
    arrow = import_pyarrow()
    try:
        with shard.open() as file:
            schema = arrow.parquet.read_schema(file)
    except (arrow.ArrowException, OSError):
        return {}  # reading its rows will say what is wrong
    return {name: schema.field(name).type for name in names if name in schema.names}


def _lacks(row: Row, name: str) -> bool:
    value = row.line.value
    return name != "text" if isinstance(value, str) else name not in value


def _column(values: list[Any], kind: Any) -> Any:
    """Return kept values as an array: of their Parquet type, or as text, with what is no text as JSON."""
    arrow = import_pyarrow()
    if kind == arrow.string():
        values = [value if value is None or isinstance(value, str) else _as_json(value) for value in values]
    return arrow.array(values, kind)


def _as_json(value: Any) -> str:
    return orjson.dumps(value, default=str).decode()
