"""Initial token embeddings from co-occurrence counts: PPMI and SVD per language, with languages aligned by rotation.

Words that occur in the same contexts have similar meanings, and factorising the positive pointwise mutual information

    ppmi(t, c) = max(0, log(n(t, c) / (n(t) p(c))))    p(c) = n(c) ** 0.75 / Σ n(c') ** 0.75

is equivalent to training word2vec (Levy and Goldberg 2014; the settings are those of Levy et al. 2015). Counting covers
all tokens of the shards, whatever the run will draw, in seconds per million tokens; masked language modelling of a few
million tokens learns little of it (docs/decisions/0011).

Each language has a table of its own: in a common one, the largest language would take all dimensions. Tokens that two
languages share (names, loan words, numbers) align them: each language in turn, the largest first, is rotated so that
its vectors of such tokens come closest to the known ones (Smith et al. 1702.03859, with identical strings as pairs).

Memory: one language is in memory at a time, at most ``SAMPLE`` tokens of it. Pairs are counted in blocks of rows of the
table, ``PAIRS`` pairs at a time (about 100 MB with sorting); the table itself takes 8 bytes an entry. A language of
4.2 million tokens over 32,000 kinds has 32 million entries and peaks at 398 MiB, of which the table is 246 MiB. The
worst case, no pair twice, is 134 million entries: 1.1 GB.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmbert.arrays import unit
from mmbert.data.manifest import Manifest
from mmbert.data.shard import Shard
from mmbert.log import progress

WINDOW = 16
"""Tokens to each side that count as context: a wide window captures topics rather than grammar."""
SAMPLE = 2**22
"""Tokens of a language that are counted, the first of each of its shards."""
PAIRS = 2**21
"""Pairs of tokens that are counted at a time."""
SMOOTHING = 0.75
"""Exponent of context frequencies (word2vec's 3/4): without it rare contexts get a large PMI by chance."""
ITERATIONS = 3
"""Power iterations of the randomised factorisation."""

Vectors = NDArray[np.float32]
"""One a token: (n, width)."""


def token_vectors(folder: Path, vocab_size: int, width: int, without: Container[str] = (), seed: int = 0) -> Vectors:
    """Return (V, width) a vector of each token, of length 1; 0 for tokens that are in no shard.

    folder   of the shards
    without  files of shards that are not to be read
    seed     of the factorisation
    Raises DataError if there are no shards.
    """
    languages: dict[str, list[tuple[Path, int]]] = defaultdict(list)
    for stream in Manifest.read(folder).streams:
        languages[stream.language] += [(folder / s.file, s.tokens) for s in stream.shards if s.file not in without]
    sizes = {language: sum(tokens for _, tokens in files) for language, files in languages.items()}
    table, weights = np.zeros((vocab_size, width), np.float32), np.zeros((vocab_size, 1), np.float32)
    largest_first = sorted(sizes, key=lambda name: (-sizes[name], name))
    for language in progress(largest_first, desc="co-occurrence", unit="language"):
        documents = _documents(languages[language], vocab_size)
        tokens, counts = np.unique(np.concatenate([np.empty(0, np.int64), *documents]), return_counts=True)
        if len(tokens) < 2:
            continue
        vectors = factorise(shared_information(documents, tokens), width, seed)
        rotation = _rotation(vectors, table[tokens] / np.maximum(weights[tokens], 1))
        # Weighted by counts: a token of several languages keeps the meaning that it has in most of its text.
        table[tokens] += counts[:, None] * (vectors @ rotation)
        weights[tokens] += counts[:, None]
    return unit(table)


def _documents(files: Sequence[tuple[Path, int]], vocab_size: int) -> list[NDArray[np.int64]]:
    """Return the first ``SAMPLE`` tokens of shards (path, tokens), in proportion, by document."""
    share = min(1.0, SAMPLE / max(sum(tokens for _, tokens in files), 1))
    documents = []
    for path, tokens in files:
        shard = Shard.open(path)
        end = round(tokens * share)
        ids = shard.tokens[:end].astype(np.int64)
        ids[ids >= vocab_size] = 0  # of a damaged shard, which training names or leaves out
        documents += np.split(ids, shard.ends[shard.ends < end])
    return documents


def shared_information(documents: Sequence[NDArray[np.int64]], tokens: NDArray[np.int64]) -> torch.Tensor:
    """Return (n, n), sparse and symmetric: the positive pointwise mutual information of tokens that occur together.

    documents  ids, which have no neighbours in other documents
    tokens     (n,) ascending, all that occur
    """
    size = len(tokens)
    line = _joined(documents, tokens)
    totals = _totals(line, size)
    smooth = totals**SMOOTHING / max((totals**SMOOTHING).sum(), 1e-9)
    lengths = np.zeros(size + 1, np.int64)
    columns, values = [], []
    for rows, near, counts in _counted(line, size):
        # n(t, c) / (n(t) p(c)); entries with a PMI of 0 and less are not stored, so the table stays sparse
        information = np.log(counts / (totals[rows] * smooth[near]))
        kept = information > 0
        lengths[1:] += np.bincount(rows[kept], minlength=size)
        columns.append(near[kept].astype(np.int32))  # half of int64, and the factorisation takes either
        values.append(information[kept].astype(np.float32))
    ends = torch.from_numpy(np.cumsum(lengths).astype(np.int32))
    joined = torch.from_numpy(_drained(columns, np.int32)), torch.from_numpy(_drained(values, np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls the form a beta; products with it are what is used
        return torch.sparse_csr_tensor(ends, *joined, (size, size))


def _joined(documents: Sequence[NDArray[np.int64]], tokens: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the documents as numbers of tokens, ``WINDOW`` times -1 before, between and after them."""
    line = np.full(sum(len(text) + WINDOW for text in documents) + WINDOW, -1, np.int32)
    at = WINDOW
    for text in documents:
        line[at : at + len(text)] = np.searchsorted(tokens, text)
        at += len(text) + WINDOW
    return line


def _totals(line: NDArray[np.int32], size: int) -> NDArray[np.float64]:
    """Return (n,) how many neighbours each token has; a token beside itself is one neighbour, not two."""
    totals = np.zeros(size, np.int64)
    for distance in range(1, WINDOW + 1):
        one, other = line[:-distance], line[distance:]
        both = (one >= 0) & (other >= 0)
        totals += np.bincount(one[both], minlength=size)
        totals += np.bincount(other[both & (one != other)], minlength=size)
    return totals.astype(np.float64)


def _counted(
    line: NDArray[np.int32], size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Yield (rows, columns, counts) of the table's entries, ascending; at most ``PAIRS`` pairs are held at a time.

    A block is as many rows as have ``PAIRS`` neighbours, or one row of a token that has more of them by itself.
    """
    order = np.argsort(line, kind="stable").astype(np.int32)
    starts = np.searchsorted(line[order], np.arange(size + 1))
    beside = np.concatenate([np.arange(-WINDOW, 0), np.arange(1, WINDOW + 1)]).astype(np.int32)
    most = PAIRS // len(beside)  # places of a block
    first = 0
    while first < size:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + most, side="right")) - 1)
        places = order[starts[first] : starts[last]]
        if len(places) > most:
            dense = np.zeros(size, np.int64)
            for part in range(0, len(places), most):
                near = line[places[part : part + most, None] + beside].ravel()
                dense += np.bincount(near[near >= 0], minlength=size)
            columns = np.flatnonzero(dense)
            rows, counts = np.full(len(columns), first), dense[columns]
        else:
            near = line[places[:, None] + beside]
            # one number per pair, so that ``unique`` sorts and counts whole pairs
            keys = (line[places].astype(np.int64) * size)[:, None] + near
            keys, counts = np.unique(keys[near >= 0], return_counts=True)
            rows, columns = keys // size, keys % size
        counts[rows == columns] //= 2  # met from both sides, and counted once
        yield rows, columns, counts
        first = last


def _drained(parts: list[NDArray[Any]], kind: type[np.generic]) -> NDArray[Any]:
    """Return the parts end to end, and let go of each once it is copied."""
    joined = np.empty(sum(map(len, parts)), kind)
    at, parts[:] = 0, parts[::-1]
    while parts:
        part = parts.pop()
        joined[at : at + len(part)] = part
        at += len(part)
    return joined


def factorise(table: torch.Tensor, width: int, seed: int) -> Vectors:
    """Return (n, width) rows of the left factor of a symmetric table, each of length 1; zeros where width > n."""
    rank = min(width, table.shape[0])
    # svd_lowrank draws its test matrix from torch's global generator, whose state must not change
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        left, values, _ = torch.svd_lowrank(table, q=rank, niter=ITERATIONS)
    vectors = np.zeros((table.shape[0], width), np.float32)
    vectors[:, :rank] = (left * values.sqrt()).numpy()
    return unit(vectors)


def _rotation(vectors: Vectors, known: NDArray[np.floating[Any]]) -> Vectors:
    """Return the (width, width) rotation that brings ``vectors`` closest to the ``known`` ones of the same tokens.

    Without any it is the vectors' own place.
    """
    if not known.any():
        return np.eye(vectors.shape[1], dtype=np.float32)
    # orthogonal Procrustes: argmin over rotations R of |vectors R - known| is U Vᵀ, with U S Vᵀ = vectorsᵀ known
    left, _, right = np.linalg.svd(vectors.T @ known)
    return np.asarray(left @ right, dtype=np.float32)
