"""A table of LanceDB that ``mmbert store`` wrote, in a folder or an object store, as an index to search.

The table holds all that a query needs: vectors, ids, texts and other columns, and in its mark the model. Only what a
query reads is fetched. Filters are on its columns of text, numbers and booleans.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmbert.errors import ConfigError, DataError, import_extra
from mmbert.search.column_filters import column_filter
from mmbert.search.index_manifest import IndexManifest
from mmbert.search.index_record import Id
from mmbert.search.query import Hit, Query, SearchOptions
from mmbert.stores.lance import KEY, METRICS, connect, has_table
from mmbert.stores.store import Layout, read_mark
from mmbert.stores.target import read_target

TEXT, METADATA = "text", "metadata"

_REFINED = 10
"""So many times the wanted rows are compared by their stored vectors (LanceDB's ``refine_factor``)."""

_PROBES = 20


def is_table(place: str | Path) -> bool:
    """Return whether a place is a table of LanceDB by its name: ``TABLE.lance``, in a folder or at a URL."""
    return str(place).rstrip("/").endswith(".lance")


class TableHandle:
    """An open table; for reading alone."""

    def __init__(self, url: str) -> None:
        self._target = read_target(url)
        self.folder = url
        self._errors = (OSError, RuntimeError, ValueError, import_extra("pyarrow", "search").ArrowException)
        try:
            database = connect(self._target.place)
            there = has_table(database, self._target.table)
            self._table: Any = database.open_table(self._target.table) if there else None
        except self._errors as error:
            raise self._target.failed(error, "cannot read") from error
        if self._table is None:
            raise DataError(f"no table {self._target}: make one with mmbert store")
        self._layout = self._read_layout()
        self.manifest = self._read_manifest()

    def rank(self, queries: Sequence[Query], options: SearchOptions) -> list[list[Hit]]:
        """Return the best hits of each query, best first. Raises ConfigError for hybrid search."""
        if options.lexical:
            raise ConfigError(
                f"{self.folder} is a table of vectors: hybrid search needs an index (mmbert index import)"
            )
        where = column_filter(options.where, self._layout.columns) if options.where else None
        try:
            return [self._search(query.vector, options.top_k, where) for query in queries]
        except self._errors as error:
            raise self._target.failed(error, "cannot search") from error

    def count(self) -> int:
        """Return the number of rows."""
        return int(self._table.count_rows())

    def has(self, name: Id) -> bool:
        """Return whether a row has this id."""
        if isinstance(name, int) != self._layout.integers:
            return False
        return bool(self._table.count_rows(column_filter({"id": name}, {"id": _kind(self._layout)})))

    def describe(self) -> dict[str, Any]:
        """Return what the table has, as JSON values."""
        rows, columns = self.count(), [name for name in self._layout.columns if name != TEXT]
        kinds = [index.index_type for index in self._table.list_indices() if index.columns == ["vector"]]
        return {"records": rows, "passages": rows, "metadata": columns, "store": "table", "kind": (kinds or [None])[0]}

    def close(self) -> None:
        """Do nothing: a table keeps no connection."""

    def _search(self, vector: np.ndarray, top_k: int, where: str | None) -> list[Hit]:
        metric = METRICS[self._layout.metric]
        search = self._table.search(vector.astype(np.float32)).distance_type(metric)
        search = search.nprobes(_PROBES).refine_factor(_REFINED).limit(top_k)
        if where is not None:
            search = search.where(where, prefilter=True)
        return [self._hit(row) for row in search.select(["id", "_distance", *self._layout.columns]).to_list()]

    def _hit(self, row: Mapping[str, Any]) -> Hit:
        # LanceDB's distance is one minus the cosine or the dot product.
        text = row.get(TEXT) or ""
        metadata: dict[str, Any] = {}
        for name, kind in self._layout.columns.items():
            value = row[name]
            if name == TEXT or value is None:
                continue
            value = json.loads(value) if kind == "json" else value
            metadata |= value if name == METADATA and isinstance(value, dict) else {name: value}
        return Hit(row["id"], 1.0 - row["_distance"], text, metadata, 0, len(text))

    def _read_layout(self) -> Layout:
        layout = read_mark((self._table.schema.metadata or {}).get(KEY))
        if layout is None:
            raise ConfigError(f"{self.folder} was not made by mmbert store: store the vectors with it")
        if layout.metric not in ("cosine", "dot"):
            raise ConfigError(f"{self.folder} compares by {layout.metric}: an index compares by cosine or dot")
        if not {"model", "model_hash", "num_layers", "pooling", "max_tokens"} <= set(layout.made):
            raise ConfigError(
                f"{self.folder} does not say which model made it: store a run, or Parquet of mmbert embed"
            )
        return layout

    def _read_manifest(self) -> IndexManifest:
        layout, made = self._layout, self._layout.made
        return IndexManifest(
            model=made["model"], model_hash=made["model_hash"], num_layers=made["num_layers"],
            dimensions=layout.dimensions, similarity=layout.metric, output=layout.output, store="lance",
            kind="ivf_sq", query_prompt="query", document_prompt=made.get("prompt") or "",
            pooling=made["pooling"], layers=made.get("layers"), max_tokens=made["max_tokens"], chunking=None,
            by=None, size=None, overlap=None,
        )  # fmt: skip


def _kind(layout: Layout) -> str:
    return "integer" if layout.integers else "text"
