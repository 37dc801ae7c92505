"""An open index: its manifest, its records, and its store of vectors."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmbert.search.bm25 import drop_bm25
from mmbert.search.exact import ExactStore
from mmbert.search.index_manifest import IndexManifest
from mmbert.search.index_record import Id
from mmbert.search.lance import LanceStore
from mmbert.search.records import IndexState, Records
from mmbert.search.vector_store import VectorStore, store_path

_MASKS = 16
"""Filters whose rows are remembered: those of a service come again."""


class IndexHandle:
    """The open files that readers and writers of an index share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = IndexManifest.load(folder)
        self.records = Records(folder)
        self._state: IndexState | None = None
        self._kept: VectorStore | None = None
        self._masks: dict[str, np.ndarray | None] = {}

    def forget(self) -> None:
        """Open everything again: files changed."""
        self._state, self._kept, self._masks = None, None, {}

    def store(self, state: IndexState) -> VectorStore:
        """Return the vectors of a state; opened again when another process changed them."""
        self._turn_to(state)
        if self._kept is None:
            self._kept = self.new_store(state.generation, state.store)
        return self._kept

    def new_store(self, generation: int, name: str) -> VectorStore:
        """Return the store of a generation, current or not; its files need not exist yet. Raises MissingExtra."""
        path, made = store_path(self.folder, generation), self.manifest
        if name == "lance":
            return LanceStore(path, made.dimensions, made.output, made.kind, made.similarity)
        return ExactStore(path / "rows.bin", made.dimensions, made.output)

    def allowed(self, state: IndexState, where: Mapping[str, Any] | None) -> np.ndarray | None:
        """Return (rows,) bool of the rows that may be found, None for all. Called while the records are being read."""
        self._turn_to(state)
        name = repr(where)
        if name not in self._masks:
            while len(self._masks) >= _MASKS:
                self._masks.pop(next(iter(self._masks)))
            self._masks[name] = (
                self.records.matching(where, state.rows) if where else self.records.alive(state.rows)
            )  # fmt: skip
        return self._masks[name]

    def count(self) -> int:
        """Return the number of records."""
        with self.records.reading():
            return self.records.counts()[0]

    def has(self, name: Id) -> bool:
        """Return whether a record has this id."""
        with self.records.reading():
            return bool(self.records.known([name]))

    def describe(self) -> dict[str, Any]:
        """Return the counts of the index, and where its rows are, as JSON values."""
        with self.records.reading() as state:
            documents, passages, dead = self.records.counts()
            keys = self.records.keys()
        size = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        return {
            "records": documents, "passages": passages, "removed": dead, "metadata": keys, "store": state.store,
            "kind": self.manifest.kind if state.store == "lance" else None, "bytes": size,
        }  # fmt: skip

    def close(self) -> None:
        """Close its files."""
        self.records.close()

    def _turn_to(self, state: IndexState) -> None:
        if self._state != state:
            before, kept = self._state, self._kept
            self.forget()
            if before is not None and before.store == state.store == "exact" and before.generation == state.generation:
                self._kept = kept  # the same file with more rows: what was compared stays compared
            self._state = state

    def sweep(self, state: IndexState) -> None:
        """Remove what belongs to other generations: what a killed writer began, or what was written anew."""
        for place in self.folder.glob("vectors-*"):
            if place != store_path(self.folder, state.generation):
                shutil.rmtree(place)
        drop_bm25(self.folder, state.generation)
