"""The search indexes of a server, each with the served model that made its vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmbert.errors import ConfigError, DataError
from mmbert.inference.windows import Rows
from mmbert.search.index import SearchIndex
from mmbert.search.query import Hit
from mmbert.serving.handlers.embedding import EmbeddingHandler
from mmbert.serving.handlers.texts import characters, check_size
from mmbert.serving.models import Models, Served, UnknownModel
from mmbert.serving.task import Task


@dataclass(frozen=True)
class ServedIndex:
    """An index, and the model that computes the vectors of its queries."""

    name: str
    index: SearchIndex
    model: Served
    embedding: EmbeddingHandler

    def describe(self) -> str:
        """Return name and size, for the log."""
        return f"{self.name} (index of {len(self.index):,} texts)"

    def search(
        self, queries: Sequence[str], *, top_k: int, where: Mapping[str, Any] | None, limit: int | None = None
    ) -> Task[list[list[Hit]]]:
        """Return the task for the hits of each query, as ``SearchIndex.__call__``.

        limit  characters of all hits, four of them counted as one; TooLong is raised for more
        Raises DataError for an empty query.
        """
        for number, query in enumerate(queries):
            if not query.strip():
                raise DataError(f"query {number} is empty")
        made = self.index.manifest
        task = self.embedding.embed(
            queries, prefix=made.query_prompt, dimensions=made.dimensions, normalize=made.similarity == "cosine"
        )

        def finish(rows: list[Rows[Any]]) -> list[list[Hit]]:
            found: list[list[Hit]] = self.index(task.finish(rows), top_k=top_k, where=where)
            check_size(0, characters(hit.text for hits in found for hit in hits), limit)
            return found

        return Task(task.items, task.characters, task.prepare, task.compute, finish, task.longest, task.adapter)


class Indexes:
    """All indexes of a server."""

    def __init__(self) -> None:
        self._indexes: dict[str, ServedIndex] = {}

    def open(self, name: str, folder: Path, models: Models) -> None:
        """Add the index of a folder. Raises ConfigError if no model here made it, and the errors of opening it."""
        refused = ConfigError(f"{folder}: no model here gives vectors of texts")
        for served in models:
            embedding = served.handler_for(EmbeddingHandler)
            if embedding is None:
                continue
            try:
                index = SearchIndex.load(folder, model=embedding.embedder)
            except ConfigError as error:
                refused = error
                continue
            # Opens the vectors: what is missing or damaged is known now, and no client waits for it.
            index(np.ones((1, index.manifest.dimensions), np.float32), top_k=1)
            self._indexes[name] = ServedIndex(name, index, served, embedding)
            return
        raise refused

    def __iter__(self) -> Iterator[ServedIndex]:
        return iter(self._indexes.values())

    def of(self, model: Served) -> list[ServedIndex]:
        """Return the indexes of a model."""
        return [found for found in self._indexes.values() if found.model is model]

    def find(self, name: str | None, model: str | None) -> ServedIndex:
        """Return the first index of this name and model, None for any. Raises UnknownModel."""
        for found in self._indexes.values():
            if name in (None, found.name) and model in (None, found.model.name):
                return found
        if not self._indexes:
            raise UnknownModel("no index is served here: start the server with --index FOLDER")
        there = ", ".join(f"{found.name} of {found.model.name}" for found in self._indexes.values())
        wanted = " ".join(f"{what} {value!r}" for what, value in (("index", name), ("of model", model)) if value)
        raise UnknownModel(f"no {wanted} is served here: {there}")
