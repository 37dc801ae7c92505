"""A model behind a queue: many callers ask at once, their rows share batches, each gets its own answer.

1. :meth:`Engine.submit` takes a task, or refuses it at once where too much waits (:class:`mmbert.errors.Overloaded`);
2. a thread of the pool tokenises it; now its tokens are known, and it stands in line (:mod:`mmbert.serving.queue`);
3. the worker takes rows in order until a batch has its tokens, and computes them (:mod:`mmbert.serving.worker`);
4. when its last row is there, a thread of the pool makes the answer.

A caller that cancels its future is out of the line at once, and tokenising or making its answer stops at the next
chunk (:mod:`mmbert.cancellation`).

What one request may hold, so that none locks others out:

- at most half of the queue (``Limits.largest``): more is refused as TooLong, alone or not, before it is tokenised where
  its characters tell, else while it is;
- requests of more than a batch hold at most three quarters of the queue together: the rest is left to small ones;
- large ones never take the last thread that tokenises (:mod:`mmbert.serving.threads`).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from mmbert.cancellation import Watch, check_cancelled, too_many_tokens, watched
from mmbert.errors import MMBertError, Overloaded
from mmbert.inference.batching import token_budget
from mmbert.serving.queue import QueuedTask, RequestQueue, Taken, size
from mmbert.serving.task import Answer, Task
from mmbert.serving.threads import Threads
from mmbert.serving.worker import ModelQueue, Worker

log = logging.getLogger(__name__)

R = TypeVar("R")

LARGE = 1 << 17
"""Characters from which on a request is large work for the threads: about 40 ms of tokenising."""


class Failed(MMBertError):
    """The model raised an error while it computed a request."""


class NotFiniteAnswer(Failed):
    """The model gives NaN or infinite numbers for an input."""


class Closed(MMBertError):
    """No more work is taken: the model is not there yet, or the server is going."""


@dataclass(frozen=True)
class Limits:
    """How much an engine takes.

    batch_tokens  of one batch
    queue_tokens  of all requests that are not answered yet
    requests      that are not answered yet
    """

    batch_tokens: int
    queue_tokens: int
    requests: int = 4096

    @classmethod
    def fit(cls, device: torch.device, batch_tokens: int | None = None, queue_tokens: int | None = None) -> Limits:
        """As given, or by device: batches as the library makes them, and a queue of 256 batches."""
        batch = token_budget(device) if batch_tokens is None else batch_tokens
        return cls(batch, 256 * batch if queue_tokens is None else queue_tokens)

    @property
    def largest(self) -> int:
        """Tokens of one request at most: half of the queue, or a batch where the queue is that short."""
        return max(self.queue_tokens // 2, min(self.batch_tokens, self.queue_tokens))

    def room(self, tokens: int) -> int:
        """Return up to how many tokens the queue may hold with a request of so many among them."""
        small = tokens <= self.batch_tokens
        return self.queue_tokens if small else max(self.queue_tokens * 3 // 4, self.largest)


class Meter(Protocol):
    """Who counts what the engine does."""

    def batch(self, rows: int, tokens: int) -> None:
        """A batch is about to run."""

    def queue(self, requests: int, tokens: int) -> None:
        """So much waits or runs."""


class Engine:
    """Runs tasks on one model. ``pool``: threads that tokenise, shared with other engines, as the worker is."""

    def __init__(
        self, worker: Worker, pool: Threads, device: torch.device, limits: Limits, meter: Meter | None = None
    ) -> None:
        self.limits = limits
        self._worker, self._pool, self._meter = worker, pool, meter
        self._line = RequestQueue(limits.batch_tokens)
        self._tokens = 0
        self._jobs: set[QueuedTask] = set()
        self._closed: str | None = None
        self._rate = 0.0
        """Tokens a second of late, while batches ran."""
        worker.add(ModelQueue(self._line, device, self._deliver, self._fail, self._noted, self._abandon))

    @property
    def outstanding(self) -> int:
        """Requests that are not answered yet."""
        return len(self._jobs)

    def close(self, reason: str) -> None:
        """Take no more work; what was accepted is done."""
        self._closed = reason

    def abandon(self, reason: str) -> int:
        """Take no more work and refuse what is not answered yet. Return how many requests that were."""
        self.close(reason)
        with self._worker.lock:
            jobs = list(self._jobs)
        for job in jobs:
            _refuse(job, Closed(reason))
        return len(jobs)

    def _abandon(self, reason: str) -> None:
        self.abandon(reason)

    def submit(self, task: Task[R]) -> Future[Answer[R]]:
        """The answer to come. Cancelling it takes the request out of the line.

        Raises Overloaded where too much waits, TooLong for what surely has more tokens than one request may, and Closed
        when no work is taken any more. The future raises TooLong for what turns out to have more, Failed for what the
        model could not compute, and what ``task.prepare`` raises.
        """
        reason = self._closed or self._worker.dead
        if reason is not None:
            raise Closed(reason)
        if task.least > self.limits.largest:
            raise too_many_tokens(task.least, self.limits.largest, "or more")
        job = QueuedTask(task)
        with self._worker.lock:
            self._reserve(job, min(task.likely, self.limits.largest))
            self._jobs.add(job)
            self._note_queue()
        job.future.add_done_callback(lambda future: self._release(job))
        if self._worker.dead is not None:  # it died meanwhile, and may not have seen this job
            _refuse(job, Closed(self._worker.dead))
        self._pool.submit(self._tokenise, job, large=task.characters >= LARGE)
        return job.future

    def _reserve(self, job: QueuedTask, tokens: int) -> None:
        """Count a job as so many tokens, if there is room. Raises Overloaded."""
        others = self._tokens - job.reserved
        if job not in self._jobs and len(self._jobs) >= self.limits.requests:
            raise Overloaded(f"{len(self._jobs):,} requests wait, the limit: try again later", self._wait())
        room = self.limits.room(tokens)
        if others + tokens > room:
            raise Overloaded(f"{others:,} tokens wait of at most {room:,}: try again later", self._wait())
        self._tokens, job.reserved = others + tokens, tokens

    def _wait(self) -> int:
        """Seconds until about half of what waits is done."""
        return min(60, max(1, math.ceil(self._tokens / 2 / self._rate))) if self._rate else 1

    def _release(self, job: QueuedTask) -> None:
        with self._worker.lock:
            self._line.drop(job)
            self._tokens -= job.reserved
            job.reserved = 0
            self._jobs.discard(job)
            self._note_queue()

    def _note_queue(self) -> None:
        if self._meter is not None:
            self._meter.queue(len(self._jobs), self._tokens)

    def _tokenise(self, job: QueuedTask) -> None:
        if job.future.done():
            return
        begun = time.perf_counter()
        try:
            with watched(Watch(job.future.done, self.limits.largest)):
                rows = job.task.prepare()
            self._enter(job, rows, begun)
        except MMBertError as error:
            _refuse(job, error)
        except BaseException as error:  # a bug of ours, or a panic in Rust, must reach the one who waits
            log.exception("a request could not be read")
            _refuse(job, Failed(f"the request could not be read: {_line(error)}"))

    def _enter(self, job: QueuedTask, rows: list[Any], begun: float) -> None:
        """Into the line. Raises TooLong or Overloaded now that the tokens are known."""
        for text in rows:
            text.results = [None] * len(text.rows)
        places = [(text, index) for text in rows for index in range(len(text.rows))]
        tokens = sum(size(place) for place in places)
        if tokens > self.limits.largest:
            raise too_many_tokens(tokens, self.limits.largest)
        job.rows, job.missing, job.timing.tokens = rows, len(places), tokens
        job.timing.tokenization, job.queued = time.perf_counter() - begun, time.perf_counter()
        with self._worker.lock:
            if job.future.done():
                return
            self._reserve(job, tokens)
            job.waiting.extend(places)
            self._note_queue()
            if places:
                self._line.add(job)
                self._worker.lock.notify_all()
        if not places:
            self._finish(job)

    def _noted(self, rows: int, tokens: int) -> None:
        if self._meter is not None:
            self._meter.batch(rows, tokens)

    def _deliver(self, rows: list[Taken], results: list[object], begun: float, ended: float) -> None:
        done = []
        with self._worker.lock:
            for (job, (text, index)), result in zip(rows, results, strict=True):
                text.results[index] = result
                job.missing -= 1
                spent = min(len(text.rows[index]), job.reserved)
                job.reserved -= spent
                self._tokens -= spent
                if job.started is None:
                    job.started = begun
                job.timing.queue, job.timing.inference = job.started - job.queued, ended - job.started
                if not job.missing:
                    done.append(job)
            computed = sum(size(place) for _, place in rows)
            rate = computed / max(ended - begun, 1e-6)
            self._rate += 0.1 * (rate - self._rate) if self._rate else rate
            self._note_queue()
        for job in done:
            self._pool.submit(self._finish, job, large=job.timing.tokens >= LARGE // 4)

    def _fail(self, rows: list[Taken], error: Exception) -> None:
        job = rows[0][0]
        log.error("a request of %s texts failed: %s", job.task.texts, _line(error))
        _refuse(job, Failed(f"the model failed: {_line(error)}"))

    def _finish(self, job: QueuedTask) -> None:
        if job.future.done():
            return
        try:
            with watched(Watch(job.future.done, self.limits.largest)):
                for number, text in enumerate(job.rows):
                    check_cancelled()
                    if not all(map(_is_finite, text.results)):
                        raise NotFiniteAnswer(f"{_named(job, number)}: the model gives NaN or infinite numbers for it")
                value = job.task.finish(job.rows)
        except MMBertError as error:
            _refuse(job, error)
        except BaseException as error:  # as in _tokenise
            log.exception("an answer could not be made")
            _refuse(job, Failed(f"the answer could not be made: {_line(error)}"))
        else:
            _settle(job, lambda: job.future.set_result(Answer(value, job.timing)))


def _refuse(job: QueuedTask, error: Exception) -> None:
    _settle(job, lambda: job.future.set_exception(error))


_settling = threading.Lock()


def _settle(job: QueuedTask, settle: Callable[[], None]) -> None:
    """Answer a request once: a result may meet the end of a drain, or the death of the worker, in another thread."""
    with _settling:
        first, job.settled = not job.settled, True
    if first and job.future.set_running_or_notify_cancel():
        settle()


def _is_finite(result: Any) -> bool:
    """Whether all numbers of a row's result are; NaN would leave as null."""
    if isinstance(result, tuple | list):
        return all(map(_is_finite, result))
    return not isinstance(result, np.ndarray) or bool(np.isfinite(result).all())


def _named(job: QueuedTask, number: int) -> str:
    """An input by its number and its beginning; chunks that are read as one document have no numbers of their own."""
    items = job.task.items
    if len(items) != len(job.rows):
        return "the document"
    text = items[number] if isinstance(items[number], str) else " / ".join(items[number])
    return f"input {number} ({text[:40]!r}{' ...' if len(text) > 40 else ''})"


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
