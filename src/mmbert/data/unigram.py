"""Token frequencies in shards and in the draws of a run: what is known of tokens before training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmbert.data.manifest import Manifest
from mmbert.data.mixture import mixture
from mmbert.data.shard import Shard
from mmbert.recipe import Recipe

SAMPLE = 2**20
"""Tokens of a stream that are counted for its share."""
FLOOR = 2e-8
"""Added to every token's share: those that were not met must be possible."""

_CHUNK = 2**22


def token_shares(recipe: Recipe, folder: Path, vocab_size: int, without: Container[str] = ()) -> NDArray[np.float64]:
    """Return each token's share of the tokens that the phases of ``recipe`` draw (V,): all above 0, with sum 1.

    Every stream weighs what all phases together draw from it, so that a language that joins late is in the shares from
    the start.

    folder   of the shards
    without  files of shards that are not to be read
    Raises DataError if there are no shards.
    """
    manifest = Manifest.read(folder)
    drawn: dict[tuple[str, str], float] = defaultdict(float)
    for phase in recipe.phases.values():
        for share in mixture(phase, manifest.sizes()).streams:
            drawn[share.source, share.language] += share.share * phase.tokens
    expected = np.full(vocab_size, FLOOR)
    for stream in manifest.streams:
        weight = drawn[stream.source, stream.language] / sum(drawn.values())
        files = [(folder / shard.file, shard.tokens) for shard in stream.shards if shard.file not in without]
        counts = count(files if weight else [], vocab_size, SAMPLE)
        if counts.any():
            expected += weight * counts / counts.sum()
    return np.asarray(expected / expected.sum())


def count(files: Sequence[tuple[Path, int]], size: int, most: int) -> NDArray[np.int64]:
    """Count each token (size,) in the first parts of shards (path, tokens), ``most`` tokens in all."""
    total = sum(tokens for _, tokens in files)
    share = min(1.0, most / max(total, 1))
    counts = np.zeros(size, dtype=np.int64)
    for path, tokens in files:
        ids = Shard.open(path).tokens
        end = round(tokens * share)
        for start in range(0, end, _CHUNK):  # bincount makes an int64 copy of what it counts
            part = ids[start : min(end, start + _CHUNK)]
            # A damaged shard, which training names or leaves out, may hold any number: bincount would make it a length.
            counts += np.bincount(part[part < size], minlength=size)
    return counts
