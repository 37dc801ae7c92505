"""The line in front of a model: rows of many requests, taken in order until a batch has its tokens.

First in, first out. A request that is larger than a batch gives way after each batch of its own, and stands at the end
of the line again: a short text waits for one batch of it, not for all. Rows whose client has gone are dropped.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from mmbert.serving.task import Answer, Place, Task, Timing


@dataclass(eq=False)
class QueuedTask:
    """A task on its way.

    reserved  tokens that are counted for it as waiting
    waiting   rows that no batch has taken
    missing   rows without a result
    turn      tokens taken since it came to the front
    settled   its answer or error was given
    """

    task: Task[Any]
    future: Future[Answer[Any]] = field(default_factory=Future)
    timing: Timing = field(default_factory=Timing)
    rows: list[Any] = field(default_factory=list)
    reserved: int = 0
    waiting: deque[Place] = field(default_factory=deque)
    missing: int = 0
    turn: int = 0
    queued: float = 0.0
    started: float | None = None
    settled: bool = False


Taken = tuple[QueuedTask, Place]


class RequestQueue:
    """Jobs in order. Not safe by itself: its users hold one lock."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.tokens = 0
        """Of all rows that wait."""
        self._jobs: deque[QueuedTask] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def full(self) -> bool:
        """There is a whole batch."""
        return self.tokens >= self.budget

    def add(self, job: QueuedTask) -> None:
        self._jobs.append(job)
        self.tokens += sum(size(place) for place in job.waiting)

    def drop(self, job: QueuedTask) -> None:
        """Forget what waits of a job."""
        if job.waiting:
            self.tokens -= sum(size(place) for place in job.waiting)
            job.waiting.clear()
            self._jobs.remove(job)

    def take(self) -> list[Taken]:
        """Rows of one batch: at most ``budget`` tokens, or one row that is longer. Empty if none waits."""
        chosen: list[Taken] = []
        tokens = 0
        others: list[QueuedTask] = []  # that are computed otherwise than the first
        while self._jobs:
            job = self._jobs.popleft()
            if chosen and job.task.compute != chosen[0][0].task.compute:
                others.append(job)
                continue
            while job.waiting and (not chosen or tokens + size(job.waiting[0]) <= self.budget):
                place = job.waiting.popleft()
                chosen.append((job, place))
                tokens += size(place)
                job.turn += size(place)
            if job.waiting:  # the batch is full
                if job.turn >= self.budget:
                    job.turn = 0
                    self._jobs.append(job)
                else:
                    others.append(job)
                break
        self._jobs.extendleft(reversed(others))
        self.tokens -= tokens
        return chosen


def size(place: Place) -> int:
    """Tokens of a row."""
    text, index = place
    return len(text.rows[index])
