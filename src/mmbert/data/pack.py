"""Pack segments, in the order of the plan, into micro-batches with an exact number of tokens.

A step has one bin for each micro-batch, all of the same capacity. A segment takes its length and 2 (<bos>, <eos>), and
goes into the fullest bin that can hold it (best fit). A segment that fits nowhere is cut: its beginning fills the
emptiest bin, and the rest is placed like another segment. When no bin can take another part, the step is full, and the
rest of the last segment begins the next step. So segments are used strictly in order, two numbers (the cursor) tell
where a step begins, no token is lost or repeated, and a step depends only on the plan and the cursor: rank r of R takes
bins r, r + R, ... of the same step.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmbert.data.corpus import Segment
from mmbert.data.plan import Plan

SMALLEST = 8
"""No cut makes a part shorter than this, so at most 2 * SMALLEST tokens of a bin stay empty."""


_DRAWN = 1024
"""Draws asked of the plan at a time."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The position where a step begins. With the recipe it determines all following steps; checkpoints save it."""

    draw: int = 0
    """Position in the plan."""
    offset: int = 0
    """Tokens of that draw already used."""
    step: int = 0
    """Steps of the phase before this one."""
    tokens: int = 0
    """Tokens of the phase before this one, empty places counted: the clock of the schedules."""

    def to_json(self) -> dict[str, int]:
        """Return plain values for ``Cursor(**values)``."""
        return asdict(self)


Bin = list[Segment]
"""The segments of one micro-batch."""


class Blocks(Protocol):
    """The source of segments: a Corpus, or anything that returns the segments of a block."""

    def segments(self, stream: int, block: int) -> list[Segment]: ...


def compose(plan: Plan, corpus: Blocks, cursor: Cursor, bins: int, capacity: int) -> tuple[list[Bin], Cursor]:
    """Pack one step of ``bins`` micro-batches of ``capacity`` tokens. Return the bins and the next cursor."""
    step = _Step(bins, capacity)
    draw, offset = cursor.draw, cursor.offset
    for draw, segments in _drawn(plan, corpus, cursor):
        used = offset if draw == cursor.draw else 0  # tokens of this draw that are packed, here or in earlier steps
        for segment in segments:
            placed = step.place(segment)
            used += placed
            if placed < segment.length:  # the step is full: the rest of this segment begins the next one
                return step.bins, Cursor(draw, used, cursor.step + 1, cursor.tokens + bins * capacity)
    raise AssertionError("a plan has no end")


def _drawn(plan: Plan, corpus: Blocks, cursor: Cursor) -> Iterator[tuple[int, list[Segment]]]:
    """Yield (position, segments) of each draw from the cursor on, without the tokens that are used already."""
    skip, position = cursor.offset, cursor.draw
    while True:
        streams, blocks, _ = plan.draws(position, _DRAWN - position % _DRAWN)
        for stream, block in zip(streams.tolist(), blocks.tolist(), strict=True):
            segments = corpus.segments(stream, block)
            yield position, _after(segments, skip) if skip else segments
            position, skip = position + 1, 0


def _after(segments: list[Segment], skip: int) -> list[Segment]:
    """Return the segments without their first ``skip`` tokens."""
    rest: list[Segment] = []
    for tokens, start, end in segments:
        if skip < end - start:
            rest.append(Segment(tokens, start + skip, end))
        skip = max(0, skip - (end - start))
    return rest


class _Step:
    """The bins of a step while they are filled."""

    def __init__(self, bins: int, capacity: int) -> None:
        self.bins: list[Bin] = [[] for _ in range(bins)]
        self._space = [(capacity, number) for number in range(bins)]  # ascending; best fit is a bisection

    def place(self, segment: Segment) -> int:
        """Put a segment into the bins, cut if it must be; returns how many of its tokens fit."""
        tokens, start, end = segment
        while start < end:
            fit = bisect_left(self._space, (end - start + 2, -1))  # best fit: the fullest bin that can hold all of it
            if fit < len(self._space):
                length = end - start
            else:
                # It fits nowhere: fill the emptiest bin, but leave a rest of at least SMALLEST tokens for another one.
                fit = len(self._space) - 1
                length = min(self._space[fit][0] - 2, end - start - SMALLEST)
                if length < SMALLEST:
                    break
            space, number = self._space.pop(fit)
            insort(self._space, (space - length - 2, number))
            self.bins[number].append(Segment(tokens, start, start + length))
            start += length
        return start - segment.start


def assemble(segments: Bin, bos: int, eos: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return (ids, offsets) of the sequences <bos> segment <eos>, concatenated as in a Packed."""
    offsets = offsets_of(segments)
    ids = np.empty(int(offsets[-1]), dtype=np.int64)
    ids[offsets[:-1]] = bos
    ids[offsets[1:] - 1] = eos
    place = 1  # behind the first <bos>
    for tokens, start, end in segments:
        stop = place + end - start
        ids[place:stop] = tokens[start:end]
        place = stop + 2  # over <eos> and the next <bos>
    return ids, offsets


def offsets_of(segments: Bin) -> NDArray[np.int32]:
    """Return where each sequence of a bin begins (S + 1,); the last entry is its number of tokens."""
    offsets = np.zeros(len(segments) + 1, dtype=np.int32)
    np.cumsum([end - start + 2 for _, start, end in segments], out=offsets[1:])
    return offsets
