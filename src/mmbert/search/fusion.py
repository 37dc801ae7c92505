"""Fuse two rankings of the same passages into one."""

from __future__ import annotations

import numpy as np

DEPTH = 100
"""Passages of each ranking that are looked at, or four times as many as are wanted."""

_RANK = 60
"""The constant of reciprocal rank fusion, as in its paper: how little the very first places count above the next."""


def fuse_ranks(rankings: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return rows, best first, and their sums of 1 / (60 + rank) over the rankings that hold a row, ranks from 1.

    Scores are not looked at, so nothing needs to be made comparable (Cormack, Clarke and Büttcher, SIGIR 2009,
    doi:10.1145/1571941.1572114). Returns rows, best first, and their sums.
    """
    rows = np.unique(np.concatenate(rankings)).astype(np.int64)
    sums = np.zeros(len(rows))
    for ranking in rankings:
        sums[np.searchsorted(rows, ranking)] += 1 / (_RANK + 1 + np.arange(len(ranking)))
    return _sorted(rows, sums)


def fuse_scores(
    rows: np.ndarray, semantic: np.ndarray, lexical: np.ndarray, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """``share`` of the semantic score and the rest of the lexical one, each brought to 0..1 by its least possible value
    and its largest here: the convex combination of Bruch, Gai and Ingber (2210.11934, "TM2C2").

    semantic  cosines of ``rows``: at least -1
    lexical   BM25 of the same rows: at least 0
    """
    first = (semantic + 1) / max(float(semantic.max(initial=-1)) + 1, 1e-9)
    second = lexical / max(float(lexical.max(initial=0)), 1e-9)
    return _sorted(rows, share * first + (1 - share) * second)


def _sorted(rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((rows, -scores))
    return rows[order], scores[order].astype(np.float32)
