"""An index from vectors that were computed before: a bulk run, or a file of ``mmbert embed``. Nothing is embedded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmbert.errors import ConfigError, DataError
from mmbert.inference.embedder import Embedder
from mmbert.io.vector_files import VectorBatch, VectorFiles, join_texts
from mmbert.search import writing
from mmbert.search.index import SearchIndex
from mmbert.search.index_manifest import folder_of
from mmbert.search.index_record import IndexRecord
from mmbert.search.writing import BATCH_SIZE, Changed


def import_vectors(
    folder: str | Path,
    vectors: str | Path,
    *,
    model: str | Path | None = None,
    texts: Iterable[Mapping[str, Any]] | None = None,
    text_column: str = "text",
    batch_size: int = BATCH_SIZE,
    device: str = "auto",
    precision: str = "auto",
    **options: Any,
) -> tuple[SearchIndex, Changed]:
    """Build an index of vectors that are there, in a new folder; the same call goes on where it was stopped.

    vectors  the folder of a bulk run, here or at a URL, or a file of ``mmbert embed``
    model    the model that made them, which embeds the queries; default: the one that the run names
    texts    records with ``id``, ``text`` and perhaps ``metadata``, in the order of the vectors; default: the run's own
             columns, of which ``text_column`` is the text and all others are metadata
    options  output, store, kind and query_prompt of ``SearchIndex.create``
    Raises DataError and ConfigError for vectors of another model, of another width, or without texts.
    """
    folder_of(folder)  # before anything is fetched or loaded
    found = VectorFiles.open(vectors)
    if found.output not in ("float32", "float16"):
        raise ConfigError(
            f"{found.path} has {found.output} numbers: embed with --output float32 (an index has its own)"
        )
    if texts is None and found.columns.get(text_column) != "text":
        there = ", ".join(found.columns) or "no columns beside id and vector"
        raise DataError(f"{found.path} has no texts in a column {text_column!r} (it has {there}): give the texts")
    embedder = _load(found, model, device, precision)
    index = SearchIndex.create(
        folder, embedder, dimensions=found.width, document_prompt=_prompt(found, embedder), resume=True, **options
    )
    batches: Iterator[VectorBatch] = found.batches(batch_size)
    batches = _columns(batches, text_column) if texts is None else join_texts(batches, texts, str(found.path))
    return index, _write(index, batches, batch_size)


def _load(found: VectorFiles, model: str | Path | None, device: str, precision: str) -> Embedder:
    """Return the model of a run. Raises ConfigError for another one, or one with fewer dimensions."""
    made, named = found.made, model or found.made.get("model")
    if not named:
        raise ConfigError(f"nothing says which model made the vectors of {found.path}: give it with --model")
    embedder = Embedder.load(
        named, device=device, precision=precision, num_layers=made.get("num_layers"), pooling=made.get("pooling"),
        layers=made.get("layers"), max_tokens=made.get("max_tokens"),
    )  # fmt: skip
    hashed = made.get("model_hash", embedder.loaded.model_hash)
    if hashed != embedder.loaded.model_hash:
        raise ConfigError(
            f"{found.path} was made with {made.get('model')} ({hashed}), {named} is another model "
            f"({embedder.loaded.model_hash}): give the first"
        )
    if found.width > embedder.width(None):
        raise ConfigError(
            f"{found.path} has vectors of {found.width} numbers, {named} makes {embedder.width(None)}: give the model "
            "that made them"
        )
    if embedder.loaded.similarity == "dot" and made.get("normalize"):
        raise ConfigError(
            f"{found.path} has vectors of unit length, {named} compares by dot: embed with --no-normalize"
        )
    return embedder


def _prompt(found: VectorFiles, embedder: Embedder) -> str:
    """Return the text before each document, which ``update`` of the index would take for new ones."""
    if "prompt" not in found.made:
        return embedder.prompt_text("document")
    return embedder.prompt_text(found.made["prompt"])


def _columns(batches: Iterator[VectorBatch], text: str) -> Iterator[VectorBatch]:
    """Yield batches with the columns ``text`` and ``metadata``; an empty value is no metadata."""
    for batch in batches:
        others = {name: values for name, values in batch.columns.items() if name != text}
        metadata = [
            {name: values[row] for name, values in others.items() if values[row] is not None}
            for row in range(len(batch.ids))
        ]
        yield VectorBatch(batch.ids, batch.vectors, {"text": batch.columns[text], "metadata": metadata})


def _write(index: SearchIndex, batches: Iterator[VectorBatch], batch_size: int) -> Changed:
    rows: dict[int, np.ndarray] = {}
    """Vectors of the records that the writer has taken and may ask for."""

    def records() -> Iterator[dict[str, Any]]:
        place = 0
        for batch in batches:
            columns = (batch.columns["text"], batch.columns["metadata"])
            for name, vector, text, metadata in zip(batch.ids, batch.vectors, *columns, strict=True):
                rows[place] = vector
                rows.pop(place - 2 * batch_size, None)
                place += 1
                yield {"id": name, "text": text, "metadata": metadata}

    def look_up(documents: list[IndexRecord], places: list[int]) -> tuple[list[list[tuple[int, int]]], np.ndarray]:
        spans = [[(0, len(document.text))] for document in documents]
        return spans, index.manifest.as_rows(np.stack([rows[place] for place in places]))

    return writing.write_records(
        index.handle, records(), look_up, replacing=False, batch_size=batch_size, shown=True
    )  # fmt: skip
