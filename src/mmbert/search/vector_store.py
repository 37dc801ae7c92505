"""The interface of vector stores: exact search on a memory map, or LanceDB for many rows."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np

from mmbert.errors import DataError

StoreName = Literal["auto", "exact", "lance"]


class LanceKind(NamedTuple):
    """One of LanceDB's indices of vectors: the class of its configuration, and how many candidates are re-ranked."""

    config: str
    refine: int
    """So many times the wanted neighbours are compared by their stored vectors (LanceDB's ``refine_factor``)."""


KINDS = {
    "ivf_hnsw_sq": LanceKind("HnswSq", 10),
    "ivf_pq": LanceKind("IvfPq", 10),
    "ivf_sq": LanceKind("IvfSq", 10),
    "ivf_rq": LanceKind("IvfRq", 40),
    "ivf_flat": LanceKind("IvfFlat", 1),
}
"""None is offered without re-ranking: the codes of ``ivf_pq`` and ``ivf_rq`` alone find less than half of the nearest.
The factors are those with which recall@10 was above 0.98 in benchmarks/search.py."""

LARGEST_EXACT = 200_000
"""Rows up to which ``auto`` searches exactly: a query then takes some tens of milliseconds on one core."""

Found = tuple[np.ndarray, np.ndarray]
"""Rows (k,) int64, best first, and their scores (k,) fp32; fewer where there are fewer."""


class VectorStore(Protocol):
    """Vectors by row number, append-only. The database says which rows count; every search is told.

    A writer that is killed may leave rows behind those that count; :meth:`append` writes over them.
    """

    def append(self, vectors: np.ndarray, first: int) -> None:
        """Put fp32 vectors (n, d) at rows ``first`` and following, and flush them to disk."""

    def copy(self, other: VectorStore, rows: np.ndarray, first: int) -> None:
        """Append rows (n,), ascending, of another store; they are not rounded again if both stores round alike."""

    def search(self, queries: np.ndarray, k: int, rows: int, allowed: np.ndarray | None) -> list[Found]:
        """Return, for each query (q, d), the ``k`` rows of the first ``rows`` with the largest dot product.

        allowed  (rows,) bool: those that may be found; None: all
        """

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors (n, d) fp32 of rows (n,), ascending."""

    def build_index(self, rows: int) -> bool:
        """Build or extend the index after rows were added, while others read. Return whether there was any work."""

    def cleanup(self) -> None:
        """Remove files that nothing needs; nobody reads meanwhile."""


def store_path(folder: Path, generation: int) -> Path:
    """Return the folder of a store's files. Each rewriting of the rows has a folder of its own."""
    return folder / f"vectors-{generation:04d}"


def largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the places of the ``k`` largest finite scores of (n,), best first; the earlier one of equals."""
    k = min(k, len(scores))
    if not k:
        return np.zeros(0, np.int64)
    bound = np.partition(scores, len(scores) - k)[len(scores) - k]
    places = np.flatnonzero((scores >= bound) & np.isfinite(scores))
    return places[np.lexsort((places, -scores[places]))[:k]]


def check_width(vectors: np.ndarray, width: int, path: Path) -> None:
    """Raises DataError for vectors that are no rows of this store, or not finite."""
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise DataError(f"{path} has rows of {width} numbers, the vectors are {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise DataError(f"a vector for {path} holds NaN or infinite values: see what the model makes of the text")
