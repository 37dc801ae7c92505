"""Packing: nothing lost, nothing repeated, nearly nothing empty, the same wherever one starts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.data.corpus import Segment, segments_between
from mmbert.data.mixture import Mixture, StreamShare
from mmbert.data.pack import SMALLEST, Cursor, assemble, compose
from mmbert.data.plan import Plan


class Shelf:
    """Streams in memory; every token is its own place, so that it can be recognised in a batch."""

    def __init__(self, lengths: list[list[int]], context: int) -> None:
        self.ends = [np.cumsum(stream) for stream in lengths]
        self.context = context
        bases = np.cumsum([0, *(ends[-1] for ends in self.ends)])
        self.tokens = [
            np.arange(base + 10, base + 10 + ends[-1], dtype=np.uint32)
            for base, ends in zip(bases, self.ends, strict=False)
        ]

    def blocks(self) -> list[int]:
        return [-(-int(ends[-1]) // self.context) for ends in self.ends]

    def plan(self, seed: int = 0) -> Plan:
        sizes = [int(ends[-1]) for ends in self.ends]
        streams = [
            StreamShare("text", f"l{number}", size, size / sum(sizes), None, False) for number, size in enumerate(sizes)
        ]
        return Plan(Mixture(tuple(streams), 1), self.blocks(), seed, "phase", window=128)

    def segments(self, stream: int, block: int) -> list[Segment]:
        begin = block * self.context
        found = segments_between(self.ends[stream], begin, begin + self.context, self.context - 2)
        return [Segment(self.tokens[stream], start, end) for start, end in found]


documents = st.lists(
    st.one_of(st.just(1), st.integers(1, 30), st.integers(1, 400), st.integers(2000, 9000)), min_size=1, max_size=20
)


@settings(max_examples=60, deadline=None)
@given(documents, st.integers(16, 300))
def test_blocks_partition_every_document_into_segments(lengths: list[int], context: int) -> None:
    shelf = Shelf([lengths], context)
    segments = [segment for block in range(shelf.blocks()[0]) for segment in shelf.segments(0, block)]
    assert [segment.start for segment in segments] == [0, *(segment.end for segment in segments[:-1])]
    assert segments[-1].end == sum(lengths)
    ends = set(shelf.ends[0].tolist())
    begins = {0, *ends}
    for segment in segments:
        assert 1 <= segment.length <= context - 2
        within = shelf.ends[0].searchsorted(segment.start, side="right")
        assert segment.end <= shelf.ends[0][within]  # never across documents
        assert segment.length == context - 2 or segment.end in ends  # only the last segment of a document is short
        assert segment.start in begins or (segment.start - ([0, *shelf.ends[0]][within])) % (context - 2) == 0


@settings(max_examples=50, deadline=None)
@given(
    st.lists(documents, min_size=1, max_size=3),
    st.integers(16, 300),
    st.integers(0, 800),
    st.integers(1, 5),
    st.integers(0, 5),
)
def test_steps_lose_and_repeat_no_token(
    lengths: list[list[int]], context: int, extra: int, bins: int, seed: int
) -> None:
    shelf = Shelf(lengths, context)
    plan, capacity = shelf.plan(seed), context + extra
    cursor, seen = Cursor(), []
    for _ in range(1 + 2 * sum(map(sum, lengths)) // (capacity * bins)):
        step, after = compose(plan, shelf, cursor, bins, capacity)
        assert (after.step, after.tokens) == (cursor.step + 1, cursor.tokens + bins * capacity)
        assert len(step) == bins
        for segments in step:
            used = sum(segment.length + 2 for segment in segments)
            assert capacity - 2 * SMALLEST <= used <= capacity
            assert max(segment.length for segment in segments) + 2 <= context
            seen += [tokens[start:end] for tokens, start, end in segments]
        cursor = after
    # Exactly what the draws before the cursor, and the used part of its own, contain.
    drawn = [[t[a:b] for t, a, b in shelf.segments(*plan.draw(position))] for position in range(cursor.draw + 1)]
    own = np.concatenate([np.zeros(0, np.uint32), *drawn.pop()])[: cursor.offset]
    expected = np.concatenate([own, *(part for parts in drawn for part in parts)])
    assert np.array_equal(np.bincount(np.concatenate(seen)), np.bincount(expected))


def test_an_epoch_holds_every_token_once() -> None:
    shelf = Shelf([[1, 1, 5000, 3, 200, 64, 1, 77, 1200]], 64)
    plan = shelf.plan()
    seen = Counter[int]()
    for position in range(shelf.blocks()[0]):
        for tokens, start, end in shelf.segments(*plan.draw(position)):
            seen.update(tokens[start:end].tolist())
    assert seen == Counter(range(10, 10 + 1 + 1 + 5000 + 3 + 200 + 64 + 1 + 77 + 1200))


@pytest.mark.parametrize(("context", "micro_batch"), [(256, 2048), (1024, 8192), (1024, 2048), (16, 2048)])
def test_fills_over_99_percent(context: int, micro_batch: int) -> None:
    generator = np.random.default_rng(1)
    lengths = np.maximum(generator.lognormal(5, 1.5, size=3000).astype(int), 1).tolist()
    shelf = Shelf([lengths, [1] * 2000], context)
    plan, cursor, used = shelf.plan(), Cursor(), 0
    for _ in range(10):
        step, cursor = compose(plan, shelf, cursor, 4, micro_batch)
        fills = [sum(segment.length + 2 for segment in segments) / micro_batch for segments in step]
        assert min(fills) > 0.99
        used += sum(fills) / 4
    assert used / 10 > 0.995


def test_cuts_leave_no_crumbs() -> None:
    shelf = Shelf([[997] * 500], 1024)
    cursor, parts = Cursor(), []
    for _ in range(40):
        step, cursor = compose(shelf.plan(), shelf, cursor, 3, 2048)
        parts += [segment.length for segments in step for segment in segments]
    assert min(parts) >= SMALLEST
    assert sum(part < 997 for part in parts) < 0.9 * len(parts)


def test_resuming_anywhere_gives_the_same_steps() -> None:
    shelf = Shelf([[700, 3, 90, 2500, 1, 1, 40] * 5, [5] * 300], 128)
    plan, cursor = shelf.plan(3), Cursor()
    cursors, steps = [], []
    for _ in range(12):
        cursors.append(cursor)
        step, cursor = compose(plan, shelf, cursor, 2, 512)
        steps.append(step)
    assert any(cursor.offset for cursor in cursors)
    for number in (11, 4, 7, 0):
        again, _ = compose(shelf.plan(3), shelf, Cursor(**cursors[number].to_json()), 2, 512)
        assert _spans(again) == _spans(steps[number])


def test_empty_blocks_are_passed_over() -> None:
    shelf = Shelf([[14, 14, 14, 14, 14]], 16)  # 70 tokens are 5 blocks; the last segment begins at 56, in block 3
    assert shelf.segments(0, 4) == []
    step, after = compose(shelf.plan(), shelf, Cursor(), 4, 32)
    assert sum(segment.length for segments in step for segment in segments) == 4 * 28
    assert any(shelf.segments(*shelf.plan().draw(position)) == [] for position in range(after.draw))


def test_sequences_are_bos_piece_eos() -> None:
    tokens = np.arange(100, 200, dtype=np.uint32)
    ids, offsets = assemble([Segment(tokens, 0, 3), Segment(tokens, 50, 51)], bos=2, eos=1)
    assert ids.tolist() == [2, 100, 101, 102, 1, 2, 150, 1]
    assert offsets.tolist() == [0, 5, 8]
    assert (ids.dtype, offsets.dtype) == (np.int64, np.int32)


def _spans(step: list[list[Segment]]) -> list[list[tuple[int, int]]]:
    return [[(int(tokens[start]), end - start) for tokens, start, end in segments] for segments in step]
