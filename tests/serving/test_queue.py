"""The order in which rows of many requests go into batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mmbert.inference.windows import Place, Rows
from mmbert.serving.queue import QueuedTask, RequestQueue, Taken
from mmbert.serving.task import Task


def compute(packed: Any, places: Sequence[Place]) -> list[Any]:
    return [None] * len(places)


def other(packed: Any, places: Sequence[Place]) -> list[Any]:
    return [None] * len(places)


def job(*lengths: int, how: Any = compute) -> QueuedTask:
    rows = [Rows([np.zeros(length, np.uint32)], None) for length in lengths]
    made = QueuedTask(Task(rows, 0, list, how, list))
    made.waiting.extend((text, 0) for text in rows)
    return made


def line(budget: int, *jobs: QueuedTask) -> RequestQueue:
    made = RequestQueue(budget)
    for one in jobs:
        made.add(one)
    return made


def taken(rows: list[Taken], *jobs: QueuedTask) -> list[int]:
    """Which job each row is of."""
    return [jobs.index(one) for one, _ in rows]


def test_requests_share_a_batch_in_their_order() -> None:
    a, b, c = job(3, 3), job(2), job(4)
    waiting = line(8, a, b, c)
    assert waiting.full
    assert taken(waiting.take(), a, b, c) == [0, 0, 1]
    assert taken(waiting.take(), a, b, c) == [2]
    assert waiting.take() == []
    assert waiting.tokens == 0


def test_a_row_longer_than_a_batch_is_one() -> None:
    a, b = job(20), job(1)
    waiting = line(8, a, b)
    assert taken(waiting.take(), a, b) == [0]
    assert taken(waiting.take(), a, b) == [1]


def test_a_large_request_gives_way_after_a_batch() -> None:
    large, small = job(*[4] * 10), job(2)
    waiting = line(8, large, small)
    assert taken(waiting.take(), large, small) == [0, 0]
    assert taken(waiting.take(), large, small) == [1, 0]
    assert taken(waiting.take(), large, small) == [0, 0]


def test_a_request_that_a_batch_cut_stays_in_front() -> None:
    a, b, c = job(5), job(2, 2), job(2)
    waiting = line(8, a, b, c)
    assert taken(waiting.take(), a, b, c) == [0, 1]
    assert taken(waiting.take(), a, b, c) == [1, 2]


def test_what_is_computed_otherwise_goes_in_another_batch() -> None:
    a, b, c = job(2), job(2, how=other), job(2)
    waiting = line(8, a, b, c)
    assert taken(waiting.take(), a, b, c) == [0, 2]
    assert taken(waiting.take(), a, b, c) == [1]


def test_dropped_rows_are_gone() -> None:
    a, b = job(3, 3), job(3)
    waiting = line(4, a, b)
    assert taken(waiting.take(), a, b) == [0]
    waiting.drop(a)
    assert waiting.tokens == 3
    assert taken(waiting.take(), a, b) == [1]
    waiting.drop(b)
    assert waiting.tokens == len(waiting) == 0


@given(st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=6), min_size=1, max_size=12), st.integers(1, 16))
def test_every_row_goes_once_and_no_batch_is_too_large(lengths: list[list[int]], budget: int) -> None:
    jobs = [job(*own) for own in lengths]
    waiting = line(budget, *jobs)
    rows: list[Taken] = []
    while batch := waiting.take():
        sizes = [len(text.rows[index]) for _, (text, index) in batch]
        assert sum(sizes) <= budget or len(sizes) == 1
        rows += batch
    assert len({id(text) for _, (text, _) in rows}) == len(rows) == sum(map(len, lengths))
    for number, own in enumerate(jobs):  # each request's rows in their order
        assert [len(text.rows[0]) for one, (text, _) in rows if one is own] == lengths[number]
