"""How often each token will be drawn: what a masked language model can say before it has learnt a word.

Every stream is counted by its first ``SAMPLE`` tokens and weighs what all phases of a recipe together draw from it, so
that a language that joins late has its tokens in the counts from the start.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmbert.data.manifest import Manifest
from mmbert.data.mixture import mixture
from mmbert.data.reader import Files, ShardReader
from mmbert.recipe import Recipe

SAMPLE = 2**20
"""Tokens of a stream that are counted."""
FLOOR = 2e-8
"""Added to every token's share: those that were not met must be possible."""


def token_shares(recipe: Recipe, folder: Path, vocab_size: int, without: Container[str] = ()) -> NDArray[np.float64]:
    """(V,) each token's part of the tokens that the phases of ``recipe`` draw; all above 0, adding up to 1.

    folder   of the shards
    without  files of shards that are not to be read
    Raises DataError without shards, BadShard if one is damaged.
    """
    manifest = Manifest.read(folder)
    drawn: dict[tuple[str, str], float] = defaultdict(float)
    for phase in recipe.phases.values():
        for share in mixture(phase, manifest.sizes()).streams:
            drawn[share.source, share.language] += share.share * phase.tokens
    files = Files()
    expected = np.full(vocab_size, FLOOR)
    for stream in manifest.streams:
        weight = drawn[stream.source, stream.language] / sum(drawn.values())
        counts = np.zeros(vocab_size, dtype=np.int64)
        left = SAMPLE if weight else 0
        for shard in stream.shards:
            if left and shard.tokens and shard.file not in without:
                read = min(left, shard.tokens)
                tokens = ShardReader(folder, shard, files, vocab_size).tokens(0, read)
                counts += np.bincount(tokens, minlength=vocab_size)
                left -= read
        if counts.any():
            expected += weight * counts / counts.sum()
    return np.asarray(expected / expected.sum())
