"""The baseline: a unigram model of each language, fitted to that language's own training text.

It is given the language, which the encoder is not, and it predicts exactly the masked tokens that the encoder predicts.
Every token of the vocabulary gets a pseudo-count ``alpha``. How much is right depends on the language's size (a page
of text needs much, a library none), so alpha is chosen for each language by the likelihood of its training text when
each token in turn is left out: without held-out text, and as well as add-alpha can do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mmbert.data.manifest import Manifest
from mmbert.data.unigram import count
from mmbert.evaluation.results import LanguageLoss, UnigramLoss
from mmbert.log import progress
from mmbert.packed import Packed

ALPHAS = np.logspace(-4, 1, 41)
"""Pseudo-counts tried: from 0.0001 to 10, eight per decade."""

MAX_TOKENS = 100_000_000
"""Training tokens counted of one language; beyond that the distribution no longer moves."""


def evaluate_unigram(
    shards: Path,
    batches: Mapping[str, Packed],
    token_bytes: np.ndarray,
    regular: np.ndarray,
) -> dict[str, UnigramLoss]:
    """Return the loss of each language's unigram model on its masked tokens.

    shards       folder of the training shards, with ``manifest.json``
    batches      language -> held-out text with labels
    token_bytes  (V,) bytes of text that each token stands for
    regular      (V,) bool, tokens that can be masked (not <pad>, <bos>, ...): they share all probability

    A language without training text gets the uniform distribution; languages are left out as in ``evaluate_mlm``.
    """
    found: dict[str, UnigramLoss] = {}
    files = _files(shards)
    for language in progress(list(batches), desc="unigram baseline", unit="lang"):
        wanted = np.bincount(batches[language].labels, minlength=len(regular))
        if (token_bytes @ wanted) == 0:
            continue
        found[language] = loss(count(files.get(language, []), len(regular), MAX_TOKENS), wanted, token_bytes, regular)
    return found


def loss(counts: np.ndarray, wanted: np.ndarray, token_bytes: np.ndarray, regular: np.ndarray) -> UnigramLoss:
    """Fit to training ``counts`` (V,), predict the tokens counted in ``wanted`` (V,)."""
    counts = np.where(regular, counts, 0)
    alpha = choose_alpha(counts, int(regular.sum()))
    log_p = np.log(counts + alpha) - np.log(counts.sum() + alpha * regular.sum())
    best = int(np.where(regular, log_p, -np.inf).argmax())
    measured = LanguageLoss.of(
        nats=float(-(wanted @ log_p)),
        tokens=int(wanted.sum()),
        num_bytes=int(token_bytes @ wanted),
        hits=float(wanted[best]),
    )
    return UnigramLoss(**measured.model_dump(), train_tokens=int(counts.sum()), alpha=alpha)


def choose_alpha(counts: np.ndarray, size: int) -> float:
    """Return the alpha of ``ALPHAS`` under which the training text is most likely when each token in turn is left out.

    counts  (V,) training counts; size: tokens that share the probability.
    Without a token, or when nothing tells the candidates apart, any alpha gives the same: the smallest is returned.
    """
    values, frequency = np.unique(counts[counts > 0], return_counts=True)
    total = int(counts.sum())
    if total < 2:
        return float(ALPHAS[0])
    # left out, a token seen n times of N has probability (n - 1 + alpha) / (N - 1 + alpha V)
    weight = values * frequency  # each of the ``frequency`` tokens seen ``value`` times is left out ``value`` times
    left = np.log(values[:, None] - 1 + ALPHAS[None, :])
    likelihood = weight @ left - total * np.log(total - 1 + ALPHAS * size)
    return float(ALPHAS[int(likelihood.argmax())])


def _files(folder: Path) -> dict[str, list[tuple[Path, int]]]:
    """Every language's shards, of all sources."""
    files: dict[str, list[tuple[Path, int]]] = {}
    for stream in Manifest.load(folder, verify=False).streams:
        files.setdefault(stream.language, []).extend((folder / shard.file, shard.tokens) for shard in stream.shards)
    return files
