"""From queries to hits: rank rows by vectors, by words, or both, and look up their passages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmbert.errors import ConfigError
from mmbert.inference.checks import whole
from mmbert.search.bm25 import Bm25
from mmbert.search.filters import check_filter
from mmbert.search.fusion import DEPTH, fuse_ranks, fuse_scores
from mmbert.search.index_handle import IndexHandle
from mmbert.search.index_record import Id
from mmbert.search.records import IndexState
from mmbert.search.vector_store import Found


@dataclass(frozen=True)
class Hit:
    """A passage found for a query: characters ``start`` to ``end`` of the record ``id``, which are ``text``.

    score  by meaning: the cosine (or dot product). hybrid: the sum of reciprocal ranks, or the weighted score
    """

    id: Id
    score: float
    text: str
    metadata: dict[str, Any]
    start: int
    end: int


@dataclass(frozen=True)
class SearchOptions:
    """The options of a search, see ``SearchIndex.__call__``."""

    top_k: int = 10
    where: Mapping[str, Any] | None = None
    hybrid: bool | float = False
    per_record: int = 1

    def __post_init__(self) -> None:
        for name in ("top_k", "per_record"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        if not isinstance(self.hybrid, bool) and not (isinstance(self.hybrid, float) and 0 <= self.hybrid <= 1):
            raise ConfigError(f"hybrid is {self.hybrid!r}: True, False, or the share of meaning between 0.0 and 1.0")
        if self.where is not None:
            check_filter(self.where)

    @property
    def lexical(self) -> bool:
        return self.hybrid is not False


@dataclass(frozen=True)
class Query:
    """A vector (d,) fp32, and the text for hybrid search."""

    vector: np.ndarray
    text: str = ""


def rank(handle: IndexHandle, queries: Sequence[Query], options: SearchOptions, words: Bm25 | None) -> list[list[Hit]]:
    """Return the best hits of each query, best first. ``words`` is needed for hybrid search."""
    with handle.records.reading() as state:
        if words is not None and state.rows:
            words.refresh(handle.records, state)
        found = _rank_rows(handle, state, queries, options, words) if state.rows else [_NONE] * len(queries)
        passages = handle.records.passages(np.unique(np.concatenate([rows for rows, _ in found])).tolist())
    hits = []
    for rows, scores in found:
        places = [(passages[row], score) for row, score in zip(rows.tolist(), scores.tolist(), strict=True)]
        hits.append([Hit(p.id, score, p.text[p.start : p.end], p.metadata, p.start, p.end) for p, score in places])
    return hits


_NONE: Found = (np.zeros(0, np.int64), np.zeros(0, np.float32))


def _rank_rows(
    handle: IndexHandle, state: IndexState, queries: Sequence[Query], options: SearchOptions, words: Bm25 | None
) -> list[Found]:
    """Return rows and scores, with at most ``per_record`` passages of a record."""
    single = handle.manifest.chunking is None
    depth = options.top_k if single else 4 * options.top_k * options.per_record
    found: list[Found] = [_NONE] * len(queries)
    pending = list(range(len(queries)))
    while pending:
        ranked = _candidates(handle, state, [queries[number] for number in pending], options, words, depth)
        later = []
        for number, (rows, scores) in zip(pending, ranked, strict=True):
            kept = np.arange(len(rows)) if single else _first_of_each(handle, rows, options.per_record)
            kept = kept[: options.top_k]
            found[number] = rows[kept], scores[kept]
            if len(kept) < options.top_k and len(rows) >= depth:
                later.append(number)
        pending, depth = later, 4 * depth
    return found


def _first_of_each(handle: IndexHandle, rows: np.ndarray, most: int) -> np.ndarray:
    """Return the places of rows, without those of a record that came ``most`` times before."""
    documents = handle.records.documents_of(rows.tolist())
    seen: dict[int, int] = {}
    kept = []
    for place, row in enumerate(rows.tolist()):
        seen[documents[row]] = seen.get(documents[row], 0) + 1
        if seen[documents[row]] <= most:
            kept.append(place)
    return np.array(kept, np.int64)


def _candidates(
    handle: IndexHandle,
    state: IndexState,
    queries: Sequence[Query],
    options: SearchOptions,
    words: Bm25 | None,
    depth: int,
) -> list[Found]:
    store, allowed = handle.store(state), handle.allowed(state, options.where)
    vectors = np.stack([query.vector for query in queries])
    if words is None:
        return store.search(vectors, depth, state.rows, allowed)
    deep = max(DEPTH, 4 * depth)
    semantic = store.search(vectors, deep, state.rows, allowed)
    found = []
    for query, (rows, _) in zip(queries, semantic, strict=True):
        others, _ = words.search(query.text, deep, allowed)
        if options.hybrid is True:
            best, scores = fuse_ranks([rows, others])
        else:
            both = np.union1d(rows, others)
            share = float(options.hybrid)
            cosines = store.vectors(both) @ query.vector
            best, scores = fuse_scores(both, cosines, words.scores_of(query.text, both), share)
        found.append((best[:depth], scores[:depth]))
    return found
