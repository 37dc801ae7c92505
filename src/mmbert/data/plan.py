"""The order of data as a function: position -> (stream, block).

The unit of drawing is a block: the segments of documents that begin in one stretch of ``context`` tokens of a stream.

Which stream. Shares are laid end to end on a line of 2 ** 40 points. A window of W draws looks at W points, equally
far apart, that start at a phase; a stream gets as many draws as points fall into its part of the line, so in every
window that is its exact share of W, rounded down or up (systematic sampling). The phase moves by the golden ratio
from window to window, which spreads the roundings so that they cancel: after many windows every share is met far
more closely than by chance. A keyed shuffle puts the W draws of a window into their order.

Which block. The k-th draw of a stream with n blocks is number k % n of its epoch k // n, and each epoch is another
keyed shuffle of all n blocks. How many draws a stream had before window w is a count of terms of an arithmetic
progression modulo M below a bound: a sum of floors with a closed form. So any position is reached directly, and the
key of a stream is made of its name, not of its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmbert.data.mixture import Mixture
from mmbert.data.permute import child_keys, key_of, permute
from mmbert.recipe import Phase

_LINE = 1 << 40
_CHUNK = 1024
"""Draws computed at once."""
_KEPT = 8
"""Chunks remembered: neighbours in a sequential pass."""


class Draws(NamedTuple):
    """Consecutive draws, one entry each."""

    streams: NDArray[np.int64]
    blocks: NDArray[np.int64]
    epochs: NDArray[np.int64]
    """How often the stream had been gone through before."""


class Plan:
    """The order in which a phase draws blocks. A pure function of its arguments.

    mixture  the shares, in tokens; a stream whose blocks hold few tokens is drawn more often to reach its share
    blocks   blocks of each stream of the mixture, in its order
    seed     the recipe's seed
    phase    the phase's name: another phase is another order
    window   draws within which every share holds to one block; a power of two
    """

    def __init__(self, mixture: Mixture, blocks: Sequence[int], seed: int, phase: str, window: int = 64) -> None:
        if window < 1 or window & (window - 1):
            raise ValueError(f"window must be a power of two, not {window}")
        self.mixture = mixture
        self.window = window
        self._size = max(window, _CHUNK)
        self.blocks_per_stream = np.asarray(blocks, dtype=np.int64)
        if len(self.blocks_per_stream) != len(mixture.streams) or self.blocks_per_stream.min(initial=1) < 1:
            raise ValueError("every stream of the mixture needs at least one block")
        names = [(stream.source, stream.language) for stream in mixture.streams]
        self._keys = np.array([key_of(seed, phase, *name) for name in names], dtype=np.uint64)
        self._window_key = key_of(seed, phase, "windows")
        self._spacing = _LINE // window
        self._start = key_of(seed, phase, "start") % self._spacing
        # Odd, so coprime to a power of two: its multiples visit every phase.
        self._turn = int(self._spacing * 0.6180339887498949) | 1
        self._bounds = _bounds(self.draw_shares())
        self._cache: dict[int, Draws] = {}

    def draw_shares(self) -> NDArray[np.float64]:
        """Return each stream's share of the draws (S,): its share of the tokens over the mean tokens of its blocks."""
        # share of draws ~ share of tokens / (tokens / blocks): streams of short documents have blocks with few tokens
        shares = np.array([stream.share for stream in self.mixture.streams], dtype=np.float64)
        tokens = [stream.tokens for stream in self.mixture.streams]
        if all(count is not None for count in tokens):
            shares = shares * self.blocks_per_stream / np.array(tokens, dtype=np.float64)
        return np.asarray(shares / shares.sum())

    def draw(self, position: int) -> tuple[int, int]:
        """Return (stream, block) of one draw."""
        chunk, place = self._chunk(position // self._size), position % self._size
        return int(chunk.streams[place]), int(chunk.blocks[place])

    def draws(self, start: int, count: int) -> Draws:
        """Draws ``start`` to ``start + count - 1``."""
        first, last = start // self._size, (start + max(count, 1) - 1) // self._size
        chunks = [self._chunk(number) for number in range(first, last + 1)]
        part = slice(start - first * self._size, start - first * self._size + count)
        return Draws(*(np.concatenate(columns)[part] for columns in zip(*chunks, strict=True)))

    def _chunk(self, number: int) -> Draws:
        if number not in self._cache:
            if len(self._cache) >= _KEPT:
                self._cache.clear()
            self._cache[number] = self._make_chunk(number)
        return self._cache[number]

    def _make_chunk(self, number: int) -> Draws:
        """Return the draws of several windows at once."""
        windows = np.arange(self._size // self.window, dtype=np.int64) + number * (self._size // self.window)
        places = np.tile(np.arange(self.window, dtype=np.int64), len(windows))
        window = np.repeat(windows, self.window)
        # The shuffle decides in which order the points of a window are drawn; the bounds decide whose points they are.
        key = child_keys(np.array([self._window_key], dtype=np.uint64), window)
        points = permute(places, self.window, key) * self._spacing + self._phase(window)
        streams = np.searchsorted(self._bounds, points, side="right")
        # Number the draws of a stream in the order in which they come.
        by_stream = np.argsort(streams, kind="stable")
        ascending = streams[by_stream]
        occurrence = np.empty(self._size, dtype=np.int64)
        occurrence[by_stream] = np.arange(self._size) - np.searchsorted(ascending, ascending, side="left")
        # Draws before this chunk: the points below a stream's end minus those below its beginning.
        below = np.concatenate([[0], self._points_below(int(windows[0]))])
        occurrence += (below[1:] - below[:-1])[streams]
        sizes = self.blocks_per_stream[streams]
        epochs, index = np.divmod(occurrence, sizes)  # every epoch visits all blocks of a stream once, reshuffled
        return Draws(streams, permute(index, sizes, child_keys(self._keys[streams], epochs)), epochs)

    def _phase(self, windows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the first point of each window."""
        return (self._start + windows * self._turn) % self._spacing

    def _points_below(self, windows: int) -> NDArray[np.int64]:
        """Return how many points of the first ``windows`` windows lie below each stream's bound on the line (S,)."""
        if windows * self._turn >= 1 << 62:  # 2 ** 34 draws in windows of 64: 17 trillion tokens in blocks of 1,024
            raise ValueError(f"a plan with windows of {self.window} draws ends before draw {windows * self.window}")
        whole, rest = np.divmod(self._bounds, self._spacing)
        # In window w the points below a bound are ``whole``, and one more if the phase of w is below ``rest``. With
        # x = start + w * turn:  x mod M < r  <=>  floor(x / M) - floor((x + M - r) / M) + 1 is 1.
        all_turns = _floor_sum(windows, self._turn, self._spacing, np.full_like(rest, self._start))
        shifted = _floor_sum(windows, self._turn, self._spacing, self._start + self._spacing - rest)
        return windows * whole + all_turns - shifted + windows


def _bounds(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return cumulative shares on the line (S,); each part is within one point of exact, and their sum is exact."""
    exact = shares * _LINE
    parts = np.floor(exact).astype(np.int64)
    missing = _LINE - int(parts.sum())  # points lost by rounding down go to the streams that lost most
    if missing > 0:
        parts[np.argsort(parts - exact, kind="stable")[:missing]] += 1
    elif missing < 0:  # shares that add up to a little more than 1
        parts[np.argmax(parts)] += missing
    bounds = np.cumsum(parts)
    bounds[-1] = _LINE
    return bounds


def _floor_sum(n: int, a: int, m: int, b: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum over i < n of floor((a * i + b) / m) for each b >= 0, in O(log m) steps: Euclid on points below a line."""
    count = np.full(b.shape, n, dtype=np.int64)
    total = np.zeros(b.shape, dtype=np.int64)
    while count.any():
        # whole multiples of m have a closed form: sum of i is n (n - 1) / 2
        total += count * (count - 1) // 2 * (a // m) + count * (b // m)
        a, b = a % m, b % m
        top = a * count + b
        count, b = top // m, top % m  # where top < m the rest of the sum is empty: count becomes 0
        a, m = m, a  # count the same points below the line along the other axis
    return total


class BatchStage(NamedTuple):
    """A part of a phase with a constant batch size."""

    batch: int
    """Tokens per step."""
    begin: int
    """Tokens of the phase seen before its first step."""
    steps: int
    """Full steps of this size (the last stage may end with a smaller one, counted here)."""


def batch_at(phase: Phase, tokens_seen: int) -> int:
    """Return the tokens of the step that begins when ``tokens_seen`` tokens of the phase have been seen.

    From ``batch_start`` the batch grows to ``batch`` in equal additions, an equal number of steps at each size
    (ModernBERT's BatchSizeWarmupScheduler), so that it is full after ``batch_warmup`` tokens. An addition is the
    largest size that divides both: ``batch_start`` itself in the published runs.
    """
    if phase.batch_start is None:
        return phase.batch
    sizes = range(phase.batch_start, phase.batch, int(np.gcd(phase.batch_start, phase.batch)))
    total, below = sum(sizes), 0
    for size in sizes:
        below += size
        if tokens_seen * total < phase.batch_warmup * below:
            return size
    return phase.batch


def batch_stages(phase: Phase) -> list[BatchStage]:
    """Return the stages of constant batch size that make up a phase, in order."""
    stages: list[BatchStage] = []
    seen = 0
    while seen < phase.tokens:
        batch = batch_at(phase, seen)
        end = phase.tokens  # of the stage: where the next batch size begins
        if phase.batch_start is not None and batch < phase.batch:
            addition = int(np.gcd(phase.batch_start, phase.batch))
            total = sum(range(phase.batch_start, phase.batch, addition))
            below = sum(range(phase.batch_start, batch + 1, addition))
            end = min(end, -(-phase.batch_warmup * below // total))
        steps = -(-(end - seen) // batch)
        stages.append(BatchStage(batch, seen, steps))
        seen += steps * batch
    return stages


def count_steps(phase: Phase) -> int:
    """Return the number of optimiser steps of a phase."""
    return sum(stage.steps for stage in batch_stages(phase))
