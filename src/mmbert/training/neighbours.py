"""What counting the neighbours of tokens tells of them: vectors that a run's token embeddings can begin with.

Words that keep the same company are alike, and a factorised table of who stands near whom is as good a word2vec as the
trained one (Levy and Goldberg 2014; the settings are those of Levy et al. 2015). Counting meets every token of the
shards, whatever the run will draw, in seconds per million tokens; masked language modelling of a few million tokens
learns next to nothing of it (docs/decisions/0011).

Each language has a table of its own: in one for all, the largest would take every dimension. What is the same token in
two languages, a name, a loan or a number, ties them together: each language in turn, the largest first, is rotated so
that such tokens come to lie on one another (Smith et al. 1702.03859, with identical strings for a dictionary).
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmbert.data.manifest import Manifest
from mmbert.data.shard import Shard
from mmbert.log import progress

WINDOW = 16
"""Tokens to each side that count as neighbours: wide, for what a text is about rather than for its grammar."""
SAMPLE = 2**22
"""Tokens of a language that are counted, the first of each of its shards."""
SMOOTHING = 0.75
"""Neighbours count as often as their frequency to this power, so that rare ones do not look telling by chance."""
ITERATIONS = 3
"""Power iterations of the randomised factorisation."""

Vectors = NDArray[np.float32]
"""One a token: (n, width)."""


def token_vectors(folder: Path, vocab_size: int, width: int, without: Container[str] = (), seed: int = 0) -> Vectors:
    """(V, width) a vector of each token, of length 1; 0 for tokens that no shard holds.

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
    for language in progress(sorted(sizes, key=lambda name: (-sizes[name], name)), desc="neighbours", unit="language"):
        documents = _documents(languages[language], vocab_size)
        tokens, counts = np.unique(np.concatenate([np.empty(0, np.int64), *documents]), return_counts=True)
        if len(tokens) < 2:
            continue
        vectors = factorise(shared_information(documents, tokens), width, seed)
        rotation = _rotation(vectors, table[tokens] / np.maximum(weights[tokens], 1))
        # A token of several languages stays what it is in most of its text.
        table[tokens] += counts[:, None] * (vectors @ rotation)
        weights[tokens] += counts[:, None]
    return _normalised(table)


def _documents(files: Sequence[tuple[Path, int]], vocab_size: int) -> list[NDArray[np.int64]]:
    """The first parts of shards (path, tokens), ``SAMPLE`` tokens in all, by document."""
    share = min(1.0, SAMPLE / max(sum(tokens for _, tokens in files), 1))
    found = []
    for path, tokens in files:
        shard = Shard.open(path)
        end = round(tokens * share)
        ids = shard.tokens[:end].astype(np.int64)
        ids[ids >= vocab_size] = 0  # of a damaged shard, which training names or leaves out
        found += np.split(ids, shard.ends[shard.ends < end])
    return found


def shared_information(documents: Sequence[NDArray[np.int64]], tokens: NDArray[np.int64]) -> torch.Tensor:
    """(n, n) sparse and symmetric: the positive pointwise mutual information of tokens that stand near each other.

    documents  ids, which have no neighbours in other documents
    tokens     (n,) ascending, all that occur
    """
    size = len(tokens)
    gap = np.full(WINDOW, -1)
    line = np.concatenate([part for text in documents for part in (np.searchsorted(tokens, text), gap)])
    keys = []
    for distance in range(1, WINDOW + 1):
        one, other = line[:-distance], line[distance:]
        both = (one >= 0) & (other >= 0)
        keys.append(np.minimum(one[both], other[both]) * size + np.maximum(one[both], other[both]))
    pairs, counts = np.unique(np.concatenate(keys), return_counts=True)
    low, high = pairs // size, pairs % size
    apart = low != high
    rows, columns = np.concatenate([low, high[apart]]), np.concatenate([high, low[apart]])
    counts = np.concatenate([counts, counts[apart]])
    totals = np.bincount(rows, counts, size)
    smooth = totals**SMOOTHING / max((totals**SMOOTHING).sum(), 1e-9)
    information = np.log(counts / (totals[rows] * smooth[columns]))
    kept = information > 0
    places = torch.from_numpy(np.stack([rows[kept], columns[kept]]))
    values = torch.from_numpy(information[kept].astype(np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls the form a beta; products with it are what is used
        return torch.sparse_coo_tensor(places, values, (size, size)).to_sparse_csr()


def factorise(table: torch.Tensor, width: int, seed: int) -> Vectors:
    """(n, width) rows of the left factor of a symmetric table, each of length 1; a small table has fewer dimensions."""
    rank = min(width, table.shape[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        left, values, _ = torch.svd_lowrank(table, q=rank, niter=ITERATIONS)
    vectors = np.zeros((table.shape[0], width), np.float32)
    vectors[:, :rank] = (left * values.sqrt()).numpy()
    return _normalised(vectors)


def _normalised(vectors: Vectors) -> Vectors:
    """Rows of length 1; rows of zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-9), dtype=np.float32)


def _rotation(vectors: Vectors, known: NDArray[np.floating[Any]]) -> Vectors:
    """(width, width) the rotation that lays ``vectors`` best on ``known`` ones of the same tokens, where there are any.

    Without any it is the vectors' own place.
    """
    if not known.any():
        return np.eye(vectors.shape[1], dtype=np.float32)
    left, _, right = np.linalg.svd(vectors.T @ known)
    return np.asarray(left @ right, dtype=np.float32)
