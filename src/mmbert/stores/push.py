"""``mmbert store``: the vectors of a run to a table of a vector store."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbert.io.vector_files import VectorBatch, VectorFiles, choose_columns, join_texts
from mmbert.log import progress as progress_bar
from mmbert.stores.elastic import ElasticStore
from mmbert.stores.lance import LanceTable
from mmbert.stores.pgvector import PgvectorStore
from mmbert.stores.qdrant import QdrantStore
from mmbert.stores.store import Store, layout_of
from mmbert.stores.target import read_target

log = logging.getLogger(__name__)

BATCH_SIZE = 1024

TEXT_COLUMNS = {"text": "text", "metadata": "json"}
"""Columns of rows whose texts are joined to them."""

_STORES: dict[str, type[Any]] = {
    "postgresql": PgvectorStore, "qdrant": QdrantStore, "elasticsearch": ElasticStore, "opensearch": ElasticStore,
    "lance": LanceTable,
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """What :func:`store_vectors` did: rows that were sent, and rows that the table has now."""

    sent: int
    rows: int
    table: str


def store_vectors(
    vectors: str | Path,
    to: str,
    *,
    texts: Iterable[Mapping[str, Any]] | None = None,
    columns: Sequence[str] | None = None,
    metric: str | None = None,
    batch_size: int = BATCH_SIZE,
) -> Stored:
    """Write the vectors of a bulk run, or a file of ``mmbert embed``, to a table of a vector store.

    to       see ``mmbert.stores.target``: ``postgresql://HOST/DATABASE/TABLE``, ``qdrant+http://HOST:6333/NAME``, ...
    texts    records with ``id``, ``text`` and perhaps ``metadata``, in the order of the vectors, to store beside them
    columns  of the run's further columns those to store; default: all
    metric   cosine, dot, euclidean or manhattan; default: the run's
    The same call again leaves the same rows. Raises ConfigError, DataError, MissingExtra, or MMBertError of the store.
    """
    target = read_target(to)
    found = choose_columns(VectorFiles.open(vectors), columns)
    layout = layout_of(found, metric, found.columns if texts is None else TEXT_COLUMNS)
    batches: Iterator[VectorBatch] = found.batches(batch_size)
    if texts is not None:
        batches = join_texts(batches, texts, str(found.path))
    store: Store = _STORES[target.store](target, layout)
    sent = 0
    try:
        store.open()
        with progress_bar[Any](desc="storing", unit="vector") as bar:
            for batch in batches:
                store.write(batch)
                sent += len(batch.ids)
                bar.update(len(batch.ids))
        store.finish()
        return Stored(sent, store.count(), str(target))
    finally:
        store.close()
