"""Keyed shuffles as functions: compute the k-th item of a shuffled set of n without the other n - 1.

A Feistel network over the smallest power of two that holds n is a bijection for every key; an image outside the set
is sent through it again until it falls inside ("cycle walking", fewer than two rounds on average), which keeps it a
bijection of the set. Everything is integer arithmetic on arrays, the same on every machine.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = 0x9E3779B97F4A7C15
_ROUNDS = [np.uint64(turn * _GOLDEN % 2**64) for turn in range(1, 7)]
"""A constant for each round of the network; an even number, so that its halves end with the widths they began with."""


def key_of(*parts: str | int) -> int:
    """Return a 64-bit key for names and numbers, such as (seed, phase, source, language)."""
    return int.from_bytes(digest_of(*parts)[:8], "little")


def digest_of(*parts: str | int) -> bytes:
    """Return 16 bytes for names and numbers. Lengths are hashed too, so that different lists never collide by text."""
    text = "".join(f"{len(str(part))}:{part}" for part in parts)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble each 64-bit number (the finaliser of splitmix64). At least one dimension: scalars would warn."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def child_keys(keys: NDArray[np.uint64], numbers: ArrayLike) -> NDArray[np.uint64]:
    """Return a key for each (key, number), such as that of an epoch from that of its stream."""
    return mix(keys + (np.atleast_1d(numbers).astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN))


def permute(indices: ArrayLike, sizes: ArrayLike, keys: ArrayLike) -> NDArray[np.int64]:
    """Return the image of ``indices[i]`` under the shuffle of ``range(sizes[i])`` that belongs to ``keys[i]``.

    indices  (n,) integers with 0 <= indices < sizes
    sizes    (n,) or scalar, at most 2 ** 52
    keys     (n,) or scalar, 64 bits
    """
    values = np.atleast_1d(np.asarray(indices, dtype=np.uint64))
    size = np.broadcast_to(np.asarray(sizes, dtype=np.uint64), values.shape)
    key = np.broadcast_to(np.asarray(keys, dtype=np.uint64), values.shape)
    bits = np.maximum(np.frexp((size - np.uint64(1)).astype(np.float64))[1], 2).astype(np.uint64)
    values = _feistel(values, bits, key)
    # Cycle walking: the network permutes 2 ** bits numbers; images outside the set are sent through it again.
    outside = np.flatnonzero(values >= size)
    while outside.size:
        values[outside] = _feistel(values[outside], bits[outside], key[outside])
        outside = outside[values[outside] >= size[outside]]
    return values.astype(np.int64)


def _feistel(values: NDArray[np.uint64], bits: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply a keyed bijection of ``range(2 ** bits)``."""
    one = np.uint64(1)
    low = (bits + one) >> one
    right_mask, left_mask = (one << low) - one, (one << (bits - low)) - one
    left, right = values >> low, values & right_mask
    for constant in _ROUNDS:
        scrambled = mix((right + constant) ^ key)
        left, right = right, left ^ (scrambled & left_mask)  # a Feistel round: invertible for any function of right
        left_mask, right_mask = right_mask, left_mask
    return np.asarray((left << low) | right)
