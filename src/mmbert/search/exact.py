"""Exact search: all vectors in one memory-mapped file, compared with every query.

Vectors are float32, or rounded to float16 or int8 as in ``mmbert.search.residuals``, whose centroids are in
``centroids.npz`` beside the rows. Queries are not rounded. All rows are compared by their stored values: there is no
finer copy to re-rank with, and none is needed for the recall that docs/guides/search.md states.

``rows.sums.npz`` holds the CRC-32 of each batch that was appended; a process compares them once, before its first
search.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from zlib import crc32

import numpy as np

from mmbert.arrays import load_arrays, save_arrays
from mmbert.errors import DataError
from mmbert.files import disk_errors, sync_folder
from mmbert.search.residuals import Residuals, row_type
from mmbert.search.vector_store import Found, VectorStore, check_width, largest

_QUERIES = 32
"""Queries compared at a time: their scores for all rows are in memory."""

_FEW = 8
"""Where at most one row of so many is allowed, those alone are read."""

_FIX = "build the index again"


class ExactStore:
    """See :class:`mmbert.search.vector_store.VectorStore`."""

    def __init__(self, path: Path, width: int, output: str) -> None:
        self.path, self.width, self.output = path, width, output
        self._type = np.dtype((np.float32, (width,))) if output == "float32" else row_type(output, width)
        self._sums = path.with_name("rows.sums.npz")
        self._centroids = path.with_name("centroids.npz")
        self._residuals: Residuals | None = None
        self._compared = 0
        """Rows whose checksums this process has compared."""

    def append(self, vectors: np.ndarray, first: int) -> None:
        check_width(vectors, self.width, self.path)
        vectors = vectors.astype(np.float32, copy=False)
        self._check_size(first)
        if self.output == "float32":
            self._write(np.ascontiguousarray(vectors), first)
            return
        before = self._load_residuals() if first else None
        residuals = Residuals.fit(vectors) if before is None else before.extended(vectors)
        if residuals is not before:
            self._save_residuals(residuals)
        self._write(residuals.encode(vectors, self.output), first)

    def copy(self, other: VectorStore, rows: np.ndarray, first: int) -> None:
        # Rows that are rounded already are copied as they are: rounding them again would add its error each time.
        if not isinstance(other, ExactStore) or other.output != self.output:
            self.append(other.vectors(rows), first)
            return
        stored = np.asarray(other._map(int(rows[-1]) + 1))[rows]
        if self.output != "float32" and not first:
            self._save_residuals(other._load_residuals())
        self._write(stored, first)

    def _write(self, rows: np.ndarray, first: int) -> None:
        """Put rows as they are stored at ``first`` and following."""
        content = rows.tobytes()
        with disk_errors(self.path):
            fresh = not self.path.exists()
            self._check_size(first)
            ends, sums = self._read_sums(first)
            if first and ends[-1] != first:
                raise DataError(f"{self._sums} has no batch that ends at row {first:,}: it is damaged, {_FIX}")
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("wb" if fresh else "r+b") as file:
                # Rows behind ``first`` were written by a process that was killed before it counted them: drop them.
                file.truncate(first * self._row_bytes)
                file.seek(0, os.SEEK_END)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # The sums follow the rows: rows without a sum are not counted yet, and the next append replaces them.
            save_arrays(self._sums, ends=np.append(ends, first + len(rows)), sums=np.append(sums, crc32(content)))
            if fresh:
                sync_folder(self.path.parent)
                sync_folder(self.path.parent.parent)

    def _save_residuals(self, residuals: Residuals) -> None:
        """Save centroids before the first row that names them."""
        with disk_errors(self.path):
            self._centroids.parent.mkdir(parents=True, exist_ok=True)
            residuals.save(self._centroids)
        self._residuals = residuals

    def _load_residuals(self) -> Residuals:
        if self._residuals is None:
            self._residuals = Residuals.load(self._centroids, self.width, _FIX)
        return self._residuals

    def search(self, queries: np.ndarray, k: int, rows: int, allowed: np.ndarray | None) -> list[Found]:
        if not rows:
            return [(np.zeros(0, np.int64), np.zeros(0, np.float32)) for _ in queries]
        stored: np.ndarray = self._map(rows)
        places: np.ndarray | None = None
        # With few allowed rows it is cheaper to gather them than to compare all and mask the rest.
        if allowed is not None and allowed.sum() * _FEW <= rows:
            places = np.flatnonzero(allowed)
            stored, allowed = stored[places], None
        found: list[Found] = []
        for start in range(0, len(queries), _QUERIES):
            scores = self._compare(queries[start : start + _QUERIES], stored)
            if allowed is not None:
                scores[:, ~allowed] = -np.inf
            for row in scores:
                best = largest(row, k)
                found.append((best if places is None else places[best], row[best]))
        return found

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        if not len(rows):
            return np.zeros((0, self.width), np.float32)
        stored = np.asarray(self._map(int(rows[-1]) + 1))[rows]
        return stored if self.output == "float32" else self._load_residuals().decode(stored)

    def build_index(self, rows: int) -> bool:
        """Do nothing: a memory map needs no index."""
        return False

    def cleanup(self) -> None:
        """Do nothing: there is only one file."""

    def _map(self, rows: int) -> np.ndarray:
        """Return the first ``rows`` rows as they are stored. A process compares checksums when it first reads them."""
        if rows > self._compared:
            # The last row may be in the middle of a batch, whose checksum is of the whole of it.
            ends, sums = self._read_sums(rows)
            self._check_size(int(ends[-1]))
            stored = np.memmap(self.path, self._type, mode="r", shape=(int(ends[-1]),))
            for (start, end), expected in zip(pairwise([0, *ends.tolist()]), sums.tolist(), strict=True):
                if end > self._compared and crc32(np.ascontiguousarray(stored[start:end]).data) != expected:
                    raise DataError(f"{self.path} is damaged in rows {start:,} to {end:,}: {_FIX}")
            self._residuals = None  # rows that another process has added may have new centroids
            fresh = stored[self._compared :]
            if self.output != "float32" and fresh["centroid"].max() >= len(self._load_residuals().directions):
                raise DataError(f"{self._centroids} lacks centroids of the rows: it is damaged, {_FIX}")
            self._compared = int(ends[-1])
        self._check_size(rows)
        return np.memmap(self.path, self._type, mode="r", shape=(rows,))

    def _check_size(self, rows: int) -> None:
        needed = rows * self._row_bytes
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size < needed:
            raise DataError(f"{self.path} has {size:,} bytes of {needed:,}: it is damaged, {_FIX}")

    def _read_sums(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (ends, CRC-32) of the batches that hold the first ``rows`` rows."""
        if not rows:
            return np.zeros(0, np.int64), np.zeros(0, np.uint32)
        found = load_arrays(self._sums, _FIX)
        ends, sums = found["ends"], found["sums"]
        # Batches behind those that count were begun by a killed writer.
        count = int(np.searchsorted(ends, rows)) + 1
        if count > len(ends):
            raise DataError(f"{self._sums} does not fit the {rows:,} rows of the index: it is damaged, {_FIX}")
        return ends[:count], sums[:count]

    @property
    def _row_bytes(self) -> int:
        return self._type.itemsize

    def _compare(self, queries: np.ndarray, stored: np.ndarray) -> np.ndarray:
        """Return dot products (q, n), fp32."""
        queries = queries.astype(np.float32, copy=False)
        if self.output == "float32":
            return np.asarray(queries @ stored.T)
        return self._load_residuals().scores(queries, stored)
