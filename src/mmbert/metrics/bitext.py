"""Accuracy of bitext retrieval by nearest neighbours: as Tatoeba counts it, and with ties shared."""

from __future__ import annotations

import numpy as np

from mmbert.arrays import unit
from mmbert.errors import DataError, UndefinedMetric

_ROWS = 1024
"""Vectors compared at once."""


def bitext_accuracy(vectors: np.ndarray, others: np.ndarray) -> float:
    """Return the part of the rows of ``vectors`` (n, d) whose nearest of ``others`` (n, d) by cosine has its number.

    XTREME's Tatoeba (Hu et al. 2003.11080): sentences of a language are looked up among the English ones. Of rows that
    are equally near the first counts. Raises UndefinedMetric for fewer than two rows, DataError for NaN in a vector.
    """
    if len(vectors) != len(others):
        raise DataError(f"{len(vectors)} sentences for {len(others)} translations: give one for each")
    if len(vectors) < 2:
        raise UndefinedMetric(f"there is nothing to score: {len(vectors)} sentences, and one finds its own translation")
    for side in (vectors, others):
        finite = np.isfinite(side).all(axis=1)
        if not finite.all():
            raise DataError(f"the vector of sentence {int(finite.argmin())} holds NaN or infinite values")
    queries, keys = unit(vectors), unit(others)
    hits = 0
    for start in range(0, len(queries), _ROWS):
        # Products of unit vectors are cosines; a block of rows at a time, as n x n numbers need not fit.
        nearest = (queries[start : start + _ROWS] @ keys.T).argmax(axis=1)
        hits += int((nearest == np.arange(start, start + len(nearest))).sum())
    return hits / len(queries)


def accuracy_both_ways(source: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Return how often row i of one side is nearest to row i of the other: (source -> target, target -> source).

    (N, d) unit vectors each. Ties are shared: of k equally near candidates the right one counts 1/k.
    """
    similarity = source @ target.T
    return _tied_accuracy(similarity), _tied_accuracy(similarity.T)


def _tied_accuracy(similarity: np.ndarray) -> float:
    true = similarity.diagonal()[:, None]
    # equal vectors may differ in the last bit of their products; 1e-6 is far below any meaning of a similarity
    ties = (np.abs(similarity - true) <= 1e-6).sum(axis=1)
    closer = (similarity > true + 1e-6).any(axis=1)
    # 1 / ties is the expected accuracy of a random choice: a model with equal vectors everywhere gets 1 / N, not 1.
    return float(np.where(closer, 0.0, 1.0 / ties).mean())
