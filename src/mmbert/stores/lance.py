"""LanceDB: a table ``NAME.lance`` in a folder or in an object store, with a column for each of the run.

Rows are added to a new table, and merged by id into one that had rows. From 10,000 rows on it gets an index (IVF_SQ,
whose recall is in docs/guides/search.md). The mark is in the metadata of the table's schema. Keys of object
stores: the variables of the environment that LanceDB reads, such as ``AWS_ACCESS_KEY_ID``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np

from mmbert.errors import MMBertError, import_extra
from mmbert.files import secret
from mmbert.io.vector_files import VectorBatch
from mmbert.stores.store import Layout, metric_name, retrying
from mmbert.stores.target import Target

log = logging.getLogger(__name__)

METRICS = {"cosine": "cosine", "dot": "dot", "euclidean": "l2", "hamming": "hamming"}

INDEXED_FROM = 10_000
"""Rows below which an index would not pay: all are compared."""

KEY = b"mmbert"

_JOINED = 64
"""Batches after which the small files of a table are joined, and the index of its ids takes them up."""

_BUSY = ("conflict", "timeout", "timed out", "connection", "503", "slow down", "too many requests", "retryable")


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
        self._written = 0
        self._table: Any = None

    def open(self) -> None:
        self._table = self._try(self._open)

    def write(self, batch: VectorBatch) -> None:
        rows = self._rows(batch)
        if self._merges:
            merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
            self._try(lambda: merge.execute(rows))
        else:
            self._try(lambda: self._table.add(rows))
        self._written += 1
        if self._written % _JOINED == 0:
            self._try(self._table.optimize)

    def finish(self) -> None:
        self._try(self._finish)

    def count(self) -> int:
        return int(self._try(self._table.count_rows))

    def close(self) -> None:
        """Do nothing: a table keeps no connection."""

    def _open(self) -> Any:
        database, name = connect(self.target.place), self.target.table
        if not has_table(database, name):
            return database.create_table(name, schema=self._schema)
        table = database.open_table(name)
        self.layout.check_mark((table.schema.metadata or {}).get(KEY), str(self.target))
        self._merges = table.count_rows() > 0
        if self._merges and "id_idx" not in {index.name for index in table.list_indices()}:
            table.create_index("id", config=import_extra("lancedb.index", "search").BTree())  # merges look ids up
        return table

    def _finish(self) -> None:
        index = import_extra("lancedb.index", "search")
        there = {found.name for found in self._table.list_indices()}
        if "vector_idx" not in there and self._table.count_rows() >= INDEXED_FROM:
            log.info("%s: building the index", self.target)
            kind = index.IvfFlat if self.layout.output == "ubinary" else index.IvfSq
            self._table.create_index("vector", config=kind(distance_type=self._metric))
        self._table.optimize(cleanup_older_than=timedelta(days=1))  # readers may be at an older version

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
