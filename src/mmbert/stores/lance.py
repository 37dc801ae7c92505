"""LanceDB: a table ``NAME.lance`` in a folder or in an object store, with a column for each of the run.

Rows are added to a new table, and merged by id into one that had rows. From 10,000 rows on it gets an index (IVF_SQ,
whose recall is in docs/guides/search.md). The mark is in the metadata of the table's schema. Keys of object
stores: the variables of the environment that LanceDB reads, such as ``AWS_ACCESS_KEY_ID``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from mmbert.errors import MMBertError, import_extra
from mmbert.files import secret
from mmbert.io.vector_files import VectorBatch
from mmbert.locks import lock_file
from mmbert.stores.store import Layout, metric_name, retrying
from mmbert.stores.target import Target

log = logging.getLogger(__name__)

METRICS = {"cosine": "cosine", "dot": "dot", "euclidean": "l2", "hamming": "hamming"}

INDEXED_FROM = 10_000
"""Rows below which an index would not pay: all are compared."""

KEY = b"mmbert"

_JOINED = 64
"""Batches after which the small files of a table are joined, and the index of its ids takes them up."""

_BUSY = (
    "conflict", "timeout", "timed out", "connection", "503", "slow down", "too many requests", "retryable",
    "was not found",  # a table that another command is making
)  # fmt: skip


def connect(place: str) -> Any:
    """Return LanceDB's connection to a folder or an object store. Raises MissingExtra."""
    # Object stores on plain HTTP, as on loopback, are refused by default.
    endpoint = secret("AWS_ENDPOINT_URL") or secret("AWS_ENDPOINT") or ""
    options = {"allow_http": "true"} if place.startswith("s3://") and endpoint.startswith("http://") else None
    return import_extra("lancedb", "search").connect(place, storage_options=options)


def has_table(database: Any, name: str) -> bool:
    """Return whether a database has a table of this name."""
    found = database.list_tables()
    return name in (found if isinstance(found, list) else found.tables)


class LanceTable:
    """See :class:`mmbert.stores.store.Store`."""

    def __init__(self, target: Target, layout: Layout) -> None:
        self._arrow = import_extra("pyarrow", "search")
        self.target, self.layout = target, layout
        self._metric = metric_name(layout.metric, METRICS, "LanceDB")
        self._schema = self._make_schema()
        self._merges = False
        self._written = self._version = 0
        self._table: Any = None
        self._lock = ExitStack()

    def open(self) -> None:
        """Raises MMBertError while another command writes to a table in a folder; object stores have no locks."""
        if self.target.local:
            folder, table = Path(self.target.place), self.target.table
            folder.mkdir(parents=True, exist_ok=True)
            self._lock.enter_context(lock_file(folder / f".{table}.lock", what=folder / f"{table}.lance"))
        self._table = self._try(self._open)

    def write(self, batch: VectorBatch) -> None:
        rows = self._rows(batch)
        self._try(lambda: self._write(rows))
        self._written += 1
        if self._written % _JOINED == 0:
            self._try(self._join)

    def finish(self) -> None:
        self._try(self._finish)

    def count(self) -> int:
        return int(self._try(self._table.count_rows))

    def close(self) -> None:
        """Let others write to the table, which keeps no connection."""
        self._lock.close()

    def _open(self) -> Any:
        database, name = connect(self.target.place), self.target.table
        table = None if has_table(database, name) else self._create(database)
        if table is None:
            table = database.open_table(name)
            self.layout.check_mark((table.schema.metadata or {}).get(KEY), str(self.target))
            if table.count_rows():
                self._merge_from_now(table)
        self._version = table.version
        return table

    def _create(self, database: Any) -> Any:
        """Return the new table; None if another command made it in this moment."""
        try:
            return database.create_table(self.target.table, schema=self._schema)
        except (OSError, RuntimeError, ValueError):
            if has_table(database, self.target.table):
                return None
            raise

    def _write(self, rows: Any) -> None:
        table = self._table
        table.checkout_latest()
        # Another command stores there too, or an answer was lost and the batch is there: it may have the same ids.
        if not self._merges and table.version != self._version:
            self._merge_from_now(table)
        if self._merges:
            table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)
        else:
            table.add(rows)
        self._version += 1

    def _merge_from_now(self, table: Any) -> None:
        self._merges = True
        if "id_idx" not in {index.name for index in table.list_indices()}:
            table.create_index("id", config=import_extra("lancedb.index", "search").BTree())  # merges look ids up

    def _join(self, **options: Any) -> None:
        self._table.checkout_latest()
        try:
            self._table.optimize(**options)
        except (OSError, RuntimeError) as error:
            if "conflict" not in str(error).lower():
                raise
            log.info("%s: another command writes there: its files are joined by the next one", self.target)
        self._version = self._table.version

    def _finish(self) -> None:
        index = import_extra("lancedb.index", "search")
        self._table.checkout_latest()
        there = {found.name for found in self._table.list_indices()}
        if "vector_idx" not in there and self._table.count_rows() >= INDEXED_FROM:
            log.info("%s: building the index", self.target)
            kind = index.IvfFlat if self.layout.output == "ubinary" else index.IvfSq
            self._table.create_index("vector", config=kind(distance_type=self._metric))
        self._join(cleanup_older_than=timedelta(days=1))  # readers may be at an older version

    def _make_schema(self) -> Any:
        arrow, layout = self._arrow, self.layout
        bits = layout.output == "ubinary"
        number = {"float32": arrow.float32(), "float16": arrow.float16(), "ubinary": arrow.uint8()}[layout.output]
        kinds = {
            "text": arrow.string(), "integer": arrow.int64(), "number": arrow.float64(), "boolean": arrow.bool_(),
            "json": arrow.string(),
        }  # fmt: skip
        fields = [
            ("id", arrow.int64() if layout.integers else arrow.string()),
            ("vector", arrow.list_(number, layout.dimensions // 8 if bits else layout.dimensions)),
            *((name, kinds[kind]) for name, kind in layout.columns.items()),
        ]
        return arrow.schema(fields, metadata={KEY: json.dumps(layout.mark(), ensure_ascii=False)})

    def _rows(self, batch: VectorBatch) -> Any:
        arrow, schema = self._arrow, self._schema
        kind = schema.field("vector").type
        numbers = arrow.array(np.ascontiguousarray(batch.vectors).reshape(-1), kind.value_type)
        columns = [
            arrow.array(batch.ids, schema.field("id").type),
            arrow.FixedSizeListArray.from_arrays(numbers, type=kind),
        ]
        for name, form in self.layout.columns.items():
            values = batch.columns[name]
            if form == "json":
                values = [
                    None if value is None else json.dumps(value, ensure_ascii=False, default=str) for value in values
                ]
            columns.append(arrow.array(values, schema.field(name).type))
        return arrow.Table.from_arrays(columns, schema=schema)

    def _try(self, call: Callable[[], Any]) -> Any:
        try:
            return retrying(call, _passes, str(self.target))
        except MMBertError:
            raise
        except (OSError, RuntimeError, ValueError, self._arrow.ArrowException) as error:
            raise self.target.failed(error) from error


def _passes(error: Exception) -> bool:
    return isinstance(error, OSError | RuntimeError) and any(word in str(error).lower() for word in _BUSY)
