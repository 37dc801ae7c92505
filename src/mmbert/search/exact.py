"""Exact search: all vectors in one memory-mapped file, compared with every query.

Vectors are float32, float16, or int8: each dimension's range in 255 equal steps, as in ``mmbert.inference.vectors``.
An int8 value stands for the middle of its step, so that only the stored side has a quantisation error.

``rows.sums.npz`` holds the CRC-32 of each batch that was appended; a process compares them once, before its first
search.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from zlib import crc32

import numpy as np
import torch

from mmbert.arrays import load_arrays, save_arrays
from mmbert.errors import ConfigError, DataError
from mmbert.files import disk_errors, sync_folder
from mmbert.inference.vectors import measure_ranges, quantize
from mmbert.search.vector_store import Found, check_width, largest

_BLOCK = 1024
"""Rows made float32 at a time: they stay in the processor's cache."""

_QUERIES = 32
"""Queries compared at a time: their scores for all rows are in memory."""

_FEW = 8
"""Where at most one row of so many is allowed, those alone are read."""

CALIBRATION = 100
"""Vectors at least from which ranges for int8 are measured."""

_RANGES = "ranges.npz"

_FIX = "build the index again"


class ExactStore:
    """See :class:`mmbert.search.vector_store.VectorStore`."""

    def __init__(self, path: Path, width: int, output: str, ranges: np.ndarray | None = None) -> None:
        """Open a store. ``ranges`` (2, width) are needed for int8 before the first row."""
        self.path, self.width = path, width
        self._type = np.dtype(output)
        self._ranges = ranges
        self._sums = path.with_name("rows.sums.npz")
        self._compared = 0
        """Rows whose checksums this process has compared."""

    def append(self, vectors: np.ndarray, first: int) -> None:
        check_width(vectors, self.width, self.path)
        rows = np.ascontiguousarray(quantize(vectors, self._type.name, self._ranges))
        with disk_errors(self.path):
            fresh = not self.path.exists()
            self._check_size(first)
            ends, sums = self._read_sums(first)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("wb" if fresh else "r+b") as file:
                # Rows behind ``first`` were written by a process that was killed before it counted them: drop them.
                file.truncate(first * self._type.itemsize * self.width)
                file.seek(0, os.SEEK_END)
                file.write(rows.data)
                file.flush()
                os.fsync(file.fileno())
            # The sums follow the rows: rows without a sum are not counted yet, and the next append replaces them.
            save_arrays(self._sums, ends=np.append(ends, first + len(rows)), sums=np.append(sums, crc32(rows.data)))
            if fresh:
                sync_folder(self.path.parent)
                sync_folder(self.path.parent.parent)

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
        stored = self._map(int(rows[-1]) + 1)[rows]
        if self._type != np.int8:
            return np.asarray(stored, np.float32)
        start, step = self._steps()
        return np.asarray(stored * step + start)

    def build_index(self, rows: int) -> bool:
        """Do nothing: a memory map needs no index."""
        return False

    def cleanup(self) -> None:
        """Do nothing: there is only one file."""

    def _map(self, rows: int) -> np.ndarray:
        """Return the first ``rows`` rows (rows, width). A process compares the checksums when it first reads them."""
        self._check_size(rows)
        stored = np.memmap(self.path, self._type, mode="r", shape=(rows, self.width))
        if rows > self._compared:
            ends, sums = self._read_sums(rows)
            for (start, end), expected in zip(pairwise([0, *ends.tolist()]), sums.tolist(), strict=True):
                if end > self._compared and crc32(np.ascontiguousarray(stored[start:end]).data) != expected:
                    raise DataError(f"{self.path} is damaged in rows {start:,} to {end:,}: {_FIX}")
            self._compared = rows
        return stored

    def _check_size(self, rows: int) -> None:
        needed = rows * self.width * self._type.itemsize
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size < needed:
            raise DataError(f"{self.path} has {size:,} bytes of {needed:,}: it is damaged, {_FIX}")

    def _read_sums(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (ends, CRC-32) of the batches that make up the first ``rows`` rows."""
        if not rows:
            return np.zeros(0, np.int64), np.zeros(0, np.uint32)
        found = load_arrays(self._sums, _FIX)
        ends, sums = found["ends"], found["sums"]
        keep = ends <= rows  # batches behind those that count were begun by a killed writer
        if not keep.any() or ends[keep][-1] != rows:
            raise DataError(f"{self._sums} does not fit the {rows:,} rows of the index: it is damaged, {_FIX}")
        return ends[keep], sums[keep]

    def _compare(self, queries: np.ndarray, stored: np.ndarray) -> np.ndarray:
        """Return dot products (q, n), fp32."""
        queries = queries.astype(np.float32, copy=False)
        if self._type == np.float32:
            return np.asarray(queries @ stored.T)
        shift = np.zeros(len(queries), np.float32)
        if self._type == np.int8:
            start, step = self._steps()
            # q . (level * step + start) = (q * step) . level + q . start: the rows stay int8
            queries, shift = queries * step, queries @ start
        factors = torch.from_numpy(np.ascontiguousarray(queries.T))
        out = np.empty((len(stored), len(queries)), np.float32)
        for first in range(0, len(stored), _BLOCK):
            block = np.array(stored[first : first + _BLOCK])  # a copy: torch warns of what it may not write to
            out[first : first + _BLOCK] = (torch.from_numpy(block).float() @ factors).numpy()
        return out.T + shift[:, None]

    def _steps(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (start, step): level * step + start is the middle of a quantisation level."""
        assert self._ranges is not None
        step = (self._ranges[1] - self._ranges[0]) / 255
        return np.asarray(self._ranges[0] + 128.5 * step), np.asarray(step)


def save_ranges(folder: Path, vectors: np.ndarray) -> None:
    """Measure and keep the range of each dimension. Raises ConfigError for too few vectors to tell."""
    if len(vectors) < CALIBRATION:
        raise ConfigError(
            f"int8 rows are counted from the range of each dimension, for which the first batch must hold at least "
            f"{CALIBRATION} passages, not {len(vectors)}: add more at once, or choose float16"
        )
    save_arrays(folder / _RANGES, ranges=measure_ranges(vectors))


def load_ranges(folder: Path) -> np.ndarray | None:
    """Return the ranges that :func:`save_ranges` saved, or None."""
    path = folder / _RANGES
    return load_arrays(path, _FIX)["ranges"] if path.is_file() else None
