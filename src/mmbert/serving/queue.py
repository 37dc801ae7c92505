"""The queue of a model: rows of many requests, taken in order until a batch has its tokens.

First in, first out. A request that is larger than a batch goes to the end of the queue after each batch of its rows: a
short text waits for one batch of it, not for all. Rows whose client has left are dropped.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from mmbert.inference.windows import Place
from mmbert.serving.task import Answer, Task, Timing


@dataclass(eq=False)
class QueuedTask:
    """A task in the queue, or in a batch.

    reserved  tokens that the engine counts for it as waiting
    waiting   rows that no batch has taken
    missing   rows without a result
    taken     tokens taken since it came to the front
    settled   its future has a result or an error
    """

    task: Task[Any]
    future: Future[Answer[Any]] = field(default_factory=Future)
    timing: Timing = field(default_factory=Timing)
    rows: list[Any] = field(default_factory=list)
    reserved: int = 0
    waiting: deque[Place] = field(default_factory=deque)
    missing: int = 0
    taken: int = 0
    queued: float = 0.0
    started: float | None = None
    settled: bool = False


Taken = tuple[QueuedTask, Place]


class RequestQueue:
    """Jobs in order. Not thread-safe: callers hold the lock of the worker."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.tokens = 0
        """Tokens of all waiting rows."""
        self._jobs: deque[QueuedTask] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def full(self) -> bool:
        """Whether the waiting rows fill a batch."""
        return self.tokens >= self.budget

    def add(self, job: QueuedTask) -> None:
        """Append a job with its waiting rows."""
        self._jobs.append(job)
        self.tokens += sum(size(place) for place in job.waiting)

    def drop(self, job: QueuedTask) -> None:
        """Remove the waiting rows of a job."""
        if job.waiting:
            self.tokens -= sum(size(place) for place in job.waiting)
            job.waiting.clear()
            self._jobs.remove(job)

    def take(self) -> list[Taken]:
        """Take the rows of one batch: at most ``budget`` tokens, or one longer row. Empty if none waits."""
        chosen: list[Taken] = []
        tokens = 0
        others: list[QueuedTask] = []  # jobs with another ``compute`` than the first: they keep their places
        while self._jobs:
            job = self._jobs.popleft()
            if chosen and not _share(job.task, chosen[0][0].task):
                others.append(job)
                continue
            while job.waiting and (not chosen or tokens + size(job.waiting[0]) <= self.budget):
                place = job.waiting.popleft()
                chosen.append((job, place))
                tokens += size(place)
                job.taken += size(place)
            if job.waiting:  # the batch is full
                if job.taken >= self.budget:  # a whole batch of its own: now the other jobs
                    job.taken = 0
                    self._jobs.append(job)
                else:  # it shared the batch, and goes on first
                    others.append(job)
                break
        self._jobs.extendleft(reversed(others))
        self.tokens -= tokens
        return chosen


def _share(task: Task[Any], other: Task[Any]) -> bool:
    """Return whether rows of two tasks may stand in one batch."""
    if task.adapter is not None and other.adapter is not None:
        return True  # the encoder computes all adapters together, then each row by its own ``compute``
    return task.compute == other.compute


def size(place: Place) -> int:
    """Return the tokens of a row."""
    text, index = place
    return len(text.rows[index])
