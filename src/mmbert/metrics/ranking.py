"""Scores of rankings, by ir-measures (which asks trec_eval), and of bitexts by nearest neighbours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from mmbert.errors import ConfigError, DataError, MissingExtra, UndefinedMetric

_ROWS = 1024
"""Vectors compared at once."""


def score_ranking(
    run: Mapping[str, Mapping[str, float]],
    judged: Mapping[str, Mapping[str, int]],
    measures: Sequence[str] = ("nDCG@10", "RR@10", "R@100"),
) -> dict[str, float]:
    """Means over the judged queries: {"nDCG@10": 0.41, ...}; a query without any result counts as 0.

    run       query -> document -> score, higher is better
    judged    query -> document -> grade; 0 is not relevant
    measures  ir-measures' names: nDCG@10, RR@10 (mean reciprocal rank), R@100 (recall), AP, P@5

    Raises ConfigError for an unknown measure, UndefinedMetric if no query has a relevant document.
    """
    if not any(grade > 0 for grades in judged.values() for grade in grades.values()):
        raise UndefinedMetric(f"there is nothing to score: none of {len(judged)} queries has a relevant document")
    for query, scores in run.items():
        wrong = next((document for document, score in scores.items() if not math.isfinite(score)), None)
        if wrong is not None:
            raise DataError(f"query {query!r}, document {wrong!r}: the score is {scores[wrong]}: no ranking")
    library = _library()
    try:
        parsed = [library.parse_measure(name) for name in measures]
    except (NameError, ValueError, SyntaxError) as error:
        raise ConfigError(f"{error}: name measures as ir-measures does, such as nDCG@10, RR@10, R@100") from error
    # A query that found nothing must count as 0: a document that nobody judged stands for it.
    full = {query: dict(run.get(query) or {"": 0.0}) for query in judged}
    found = library.calc_aggregate(parsed, {query: dict(grades) for query, grades in judged.items()}, full)
    return {name: float(found[measure]) for name, measure in zip(measures, parsed, strict=True)}


def bitext_accuracy(vectors: np.ndarray, others: np.ndarray) -> float:
    """Part of the rows of ``vectors`` (n, d) whose nearest row of ``others`` (n, d), by cosine, has their number.

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
    queries, keys = _unit(vectors), _unit(others)
    hits = 0
    for start in range(0, len(queries), _ROWS):
        nearest = (queries[start : start + _ROWS] @ keys.T).argmax(axis=1)
        hits += int((nearest == np.arange(start, start + len(nearest))).sum())
    return hits / len(queries)


def _unit(vectors: np.ndarray) -> np.ndarray:
    rows = np.asarray(vectors, np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norms == 0, 1, norms))


def _library() -> Any:
    try:
        return import_module("ir_measures")
    except ImportError as error:
        raise MissingExtra("ir-measures", "evaluate") from error
