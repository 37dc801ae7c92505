"""Elasticsearch and OpenSearch: an index with a field ``vector`` and a field for each further column.

Rows are sent by the bulk helper of the client, ``index`` actions whose ``_id`` is the id. The mark is ``_meta`` of the
mapping. Key: ``ELASTICSEARCH_API_KEY``; user and password: in the URL, the password also as
``ELASTICSEARCH_PASSWORD`` or ``OPENSEARCH_PASSWORD``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mmbert.errors import ConfigError, DataError, MMBertError, import_extra
from mmbert.files import secret
from mmbert.io.vector_files import VectorBatch
from mmbert.stores.store import Layout, metric_name, retrying
from mmbert.stores.target import Target

log = logging.getLogger(__name__)

_SECONDS = 60
_CHUNK_BYTES = 8 << 20
"""Size of a bulk request: both projects advise some megabytes."""
_LONGEST = 512
"""Bytes of an ``_id``."""
_PASSES = (429, 502, 503, 504)

_SIMILARITIES = {"cosine": "cosine", "dot": "max_inner_product", "euclidean": "l2_norm", "hamming": "l2_norm"}
_SPACES = {"cosine": "cosinesimil", "dot": "innerproduct", "euclidean": "l2", "hamming": "hamming"}
_FIELDS = {"text": "text", "integer": "long", "number": "double", "boolean": "boolean", "json": "object"}


class ElasticStore:
    """See :class:`mmbert.stores.store.Store`."""

    def __init__(self, target: Target, layout: Layout) -> None:
        module = "opensearchpy" if target.store == "opensearch" else "elasticsearch"
        self._library, self._helpers = (
            import_extra(module, target.store),
            import_extra(f"{module}.helpers", target.store),
        )
        self.target, self.layout = target, layout
        self._mapping = _opensearch(layout) if target.store == "opensearch" else _elasticsearch(layout)
        self._client = self._connect()

    def open(self) -> None:
        self._try(self._open)

    def write(self, batch: VectorBatch) -> None:
        if long := next((name for name in batch.ids if len(str(name).encode()) > _LONGEST), None):
            raise DataError(f"{self.target}: an id has at most {_LONGEST} bytes there: {long[:40]!r}... has more")
        self._try(lambda: self._write(batch))

    def finish(self) -> None:
        """Make all rows visible to searches; segments are indexed as they are written."""
        self._try(lambda: self._client.indices.refresh(index=self.target.table))

    def count(self) -> int:
        self.finish()
        return int(self._try(lambda: self._client.count(index=self.target.table))["count"])

    def close(self) -> None:
        self._client.close()

    def _connect(self) -> Any:
        opensearch = self.target.store == "opensearch"
        stated = secret("OPENSEARCH_PASSWORD") if opensearch else secret("ELASTICSEARCH_PASSWORD")
        user, password = self.target.user, self.target.password or stated
        login = (user, password) if user and password else None
        options: dict[str, Any] = {"max_retries": 0}
        if opensearch:
            options |= {"timeout": _SECONDS, "http_auth": login}
            return self._library.OpenSearch(self.target.place, **options)
        place = self.target.place
        if ":" not in place.partition("://")[2]:  # this client takes no URL without a port
            place += ":443" if place.startswith("https") else ":80"
        key = secret("ELASTICSEARCH_API_KEY") if login is None else None
        return self._library.Elasticsearch(place, api_key=key, basic_auth=login, request_timeout=_SECONDS, **options)

    def _open(self) -> None:
        indices, name = self._client.indices, self.target.table
        if indices.exists(index=name):
            # An alias answers with the indices behind it.
            found: dict[str, Any] = next(iter(dict(indices.get_mapping(index=name)).values()), {})
            self.layout.check_mark(found.get("mappings", {}).get("_meta"), str(self.target))
            return
        if self.target.store == "opensearch":
            indices.create(index=name, body=self._mapping)
        else:
            indices.create(index=name, **self._mapping)

    def _write(self, batch: VectorBatch) -> None:
        results = self._helpers.streaming_bulk(
            self._client, self._actions(batch), chunk_size=len(batch.ids), max_chunk_bytes=_CHUNK_BYTES,
            raise_on_error=False, raise_on_exception=True, max_retries=5, initial_backoff=1, max_backoff=30,
        )  # fmt: skip
        for done, result in results:
            if not done:
                told = next(iter(result.values()))
                fault = told.get("error", {})
                reason = fault.get("reason", fault) if isinstance(fault, dict) else fault
                raise MMBertError(f"{self.target} refused the row {told.get('_id')!r}: {reason}")

    def _actions(self, batch: VectorBatch) -> Iterator[dict[str, Any]]:
        names = list(self.layout.columns)
        columns = [batch.columns[name] for name in names]
        vectors = batch.vectors
        if self.layout.output == "ubinary":
            vectors = vectors.view(np.int8)  # eight dimensions in a signed byte
        for name, vector, *values in zip(batch.ids, vectors.astype(_kind(vectors)), *columns, strict=True):
            source = {"id": name, "vector": vector.tolist(), **dict(zip(names, values, strict=True))}
            yield {"_op_type": "index", "_index": self.target.table, "_id": str(name), "_source": source}

    def _try(self, call: Callable[[], Any]) -> Any:
        problems = self._library.exceptions
        known = (getattr(problems, "ApiError", problems.TransportError), problems.TransportError)
        try:
            return retrying(call, self._passes, str(self.target))
        except (*known, ValueError) as error:
            raise self.target.failed(error) from error

    def _passes(self, error: Exception) -> bool:
        problems = self._library.exceptions
        if isinstance(error, problems.ConnectionError):
            return True
        return getattr(error, "status_code", None) in _PASSES


def _kind(vectors: np.ndarray) -> Any:
    """Return the type that is written as JSON: every float16 is a float32."""
    return np.int8 if vectors.dtype == np.int8 else np.float32


def _columns(layout: Layout) -> dict[str, Any]:
    if {"id", "vector"} & set(layout.columns):
        raise ConfigError("a column is named id or vector: leave it out with --columns")
    fields = {name: {"type": _FIELDS[kind]} for name, kind in layout.columns.items()}
    return {"id": {"type": "long" if layout.integers else "keyword"}, **fields}


def _elasticsearch(layout: Layout) -> dict[str, Any]:
    """Return the body that creates an index with a ``dense_vector``."""
    vector: dict[str, Any] = {
        "type": "dense_vector", "dims": layout.dimensions, "index": True,
        "similarity": metric_name(layout.metric, _SIMILARITIES, "Elasticsearch"),
    }  # fmt: skip
    if layout.output == "ubinary":
        vector["element_type"] = "bit"
    return {"mappings": {"_meta": layout.mark(), "properties": {"vector": vector, **_columns(layout)}}}


def _opensearch(layout: Layout) -> dict[str, Any]:
    """Return the body that creates an index with a ``knn_vector``."""
    method = {"name": "hnsw", "engine": "lucene", "space_type": metric_name(layout.metric, _SPACES, "OpenSearch")}
    vector: dict[str, Any] = {"type": "knn_vector", "dimension": layout.dimensions, "method": method}
    if layout.output == "ubinary":
        vector["data_type"], method["engine"] = "binary", "faiss"  # the one engine with bits
    properties = {"vector": vector, **_columns(layout)}
    return {"settings": {"index": {"knn": True}}, "mappings": {"_meta": layout.mark(), "properties": properties}}
