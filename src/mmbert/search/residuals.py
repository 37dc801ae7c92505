"""Rows rounded to float16 or int8: the direction of the nearest centroid exactly, the residual rounded.

Vectors of encoders share a large mean and lie in clusters. Rounding them as they are spends most of the precision on
what all rows have in common, and the scores of the nearest neighbours, which differ in the fourth decimal, change
places. Here a row ``x`` is stored as

    x  ~  along * u  +  step * spread * code

with ``u`` the direction of its centroid (unit length, of a table), ``code`` the residual ``x - (x.u) u`` rounded to
float16 or int8, ``spread`` one factor for each dimension, and ``step`` one for each row, so that no value is ever
clipped. ``along`` is chosen after rounding such that the stored row and ``x`` have the same component along ``u``. The
error of a score is therefore the product of two residuals, that of the query and the rounding error of the row's.
(Residuals to centroids: Jégou, Douze and Schmid, TPAMI 2011, doi:10.1109/TPAMI.2010.57.)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch

from mmbert.arrays import load_arrays, save_arrays, unit
from mmbert.errors import DataError

_LEVELS = {"int8": 127, "float16": 1}
"""The largest absolute code of a row."""

_ROWS_A_CENTROID = 16
"""Rows of a batch for each new centroid: a centroid takes four bytes a dimension."""

_MOST_AT_ONCE, _MOST = 256, 4096
"""Centroids from one batch, and in all."""

_ROUNDS = 8
"""Rounds of k-means."""

_GAIN = 2.0
"""A new centroid is kept if it divides the squared residuals of its rows by so much."""

_BLOCK = 1024
"""Rows made float32 at a time: they stay in the processor's cache."""


def row_type(output: str, width: int) -> np.dtype:
    """Return the type of a row of ``width`` numbers: 10 bytes beside its codes."""
    return np.dtype([("along", "<f4"), ("step", "<f4"), ("centroid", "<u2"), ("code", np.dtype(output), (width,))])


@dataclass(frozen=True)
class Residuals:
    """A table of centroids, and the factors of the dimensions.

    directions  (k, d) fp32, unit length; the table only grows, so that rows keep the number of their centroid
    spread      (d,) fp32: the square root of the residuals' standard deviation in each dimension. With equal steps the
                largest dimension would set the step of all; with steps in proportion, it would have most of the error
    """

    directions: np.ndarray
    spread: np.ndarray

    @classmethod
    def fit(cls, vectors: np.ndarray) -> Self:
        """Return centroids and factors for the first rows (n, d) of a store."""
        rows = unit(vectors)
        directions = _kmeans(rows, min(max(len(rows) // _ROWS_A_CENTROID, 1), _MOST_AT_ONCE))
        residuals = _split(vectors, directions)[2]
        spread = np.sqrt(residuals.std(axis=0))
        # A dimension in which the first rows are equal may differ in later ones: it still needs a step.
        largest = float(spread.max())
        return cls(directions, np.maximum(spread, 0.1 * largest) if largest else np.ones_like(spread))

    def extended(self, vectors: np.ndarray) -> Self:
        """Return this table, with more centroids if these rows form clusters that it does not have."""
        rows = unit(vectors)
        count = min(len(rows) // _ROWS_A_CENTROID, _MOST_AT_ONCE, _MOST - len(self.directions))
        if count < 1:
            return self
        found = _kmeans(rows, count)
        nearest, _, residuals = _split(rows, found)
        before = np.square(_split(rows, self.directions)[2]).sum(axis=1)
        of_old, of_new = (
            np.bincount(nearest, weights=squares, minlength=count)
            for squares in (before, np.square(residuals).sum(axis=1))
        )
        # A centroid of few rows costs more than it saves; one that fits its rows hardly better is noise of the sample.
        worth = (np.bincount(nearest, minlength=count) >= _ROWS_A_CENTROID // 2) & (of_old > _GAIN * of_new)
        if not worth.any():
            return self
        return type(self)(np.concatenate([self.directions, found[worth]]), self.spread)

    def encode(self, vectors: np.ndarray, output: str) -> np.ndarray:
        """Return fp32 vectors (n, d) as rows (n,) of :func:`row_type`."""
        nearest, along, residuals = _split(vectors, self.directions)
        scaled = residuals / self.spread
        # Largest first, then divided: a step of zero would be a division by zero for a row that is its centroid.
        step = np.abs(scaled).max(axis=1) / _LEVELS[output]
        scaled /= np.where(step == 0, 1, step)[:, None]
        rows = np.zeros(len(vectors), row_type(output, vectors.shape[1]))
        rows["code"] = np.rint(scaled) if output == "int8" else scaled
        rows["step"], rows["centroid"] = step, nearest
        rounded = _floats(rows["code"]) * step[:, None] * self.spread
        rows["along"] = along - np.einsum("nd,nd->n", rounded, self.directions[nearest])
        return rows

    def decode(self, rows: np.ndarray) -> np.ndarray:
        """Return rows (n,) as vectors (n, d) fp32: the products with these are the scores."""
        rounded = _floats(rows["code"]) * rows["step"][:, None] * self.spread
        return np.asarray(rounded + rows["along"][:, None] * self.directions[rows["centroid"]])

    def scores(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the dot products (q, n) fp32 of fp32 queries (q, d) with rows (n,). The codes stay as they are."""
        rows = np.asarray(rows)  # slices of a memory map are slow
        factors = np.ascontiguousarray((queries * self.spread).T)
        along = np.ascontiguousarray((queries @ self.directions.T).T)
        out = np.empty((len(rows), len(queries)), np.float32)
        for first in range(0, len(rows), _BLOCK):
            np.matmul(_floats(rows["code"][first : first + _BLOCK]), factors, out=out[first : first + _BLOCK])
        out *= rows["step"][:, None]
        out += along[rows["centroid"]] * rows["along"][:, None]
        return out.T

    def save(self, path: Path) -> None:
        save_arrays(path, directions=self.directions, spread=self.spread)

    @classmethod
    def load(cls, path: Path, width: int, fix: str) -> Self:
        """Raises DataError for a file that is absent, damaged, or of another width."""
        found = load_arrays(path, fix)
        fits = {"directions", "spread"} <= set(found) and found["directions"].ndim == 2
        if not fits or found["directions"].shape[1:] != (width,) or found["spread"].shape != (width,):
            raise DataError(f"{path} is damaged (its arrays do not fit rows of {width} numbers): {fix}")
        return cls(found["directions"], found["spread"])


def _floats(codes: np.ndarray) -> np.ndarray:
    """Return codes as fp32. torch converts float16 five times as fast as NumPy."""
    if codes.dtype == np.float16:
        return np.asarray(torch.from_numpy(np.ascontiguousarray(codes)).float().numpy())
    return codes.astype(np.float32)


def _split(vectors: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the nearest centroid of each row (n,), the component along it (n,), and the residual (n, d)."""
    products = vectors @ directions.T
    # The component may be negative: what is left is smallest where its absolute value is largest.
    nearest = np.abs(products).argmax(axis=1)
    along = np.take_along_axis(products, nearest[:, None], axis=1)
    return nearest, along[:, 0], vectors - along * directions[nearest]


def _kmeans(rows: np.ndarray, count: int) -> np.ndarray:
    """Return centroids (count, d), unit length, of rows of unit length: spherical k-means from evenly chosen rows."""
    centroids = rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]
    for _ in range(_ROUNDS if count > 1 else 1):
        nearest = (rows @ centroids.T).argmax(axis=1)
        sums = np.zeros_like(centroids)
        np.add.at(sums, nearest, rows)
        empty = ~sums.any(axis=1)
        sums[empty] = centroids[empty]
        centroids = unit(sums)
    return centroids
