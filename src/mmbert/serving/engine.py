"""A model behind a queue: rows of many concurrent requests share batches, and each request gets its own answer.

1. :meth:`Engine.submit` accepts a task, or raises :class:`mmbert.errors.Overloaded` if too many tokens wait;
2. a thread of the pool tokenises it; its exact tokens are then known, and it enters the queue
   (:mod:`mmbert.serving.queue`);
3. the worker takes rows in order until a batch has its tokens, and computes them (:mod:`mmbert.serving.worker`);
4. when its last row has a result, a thread of the pool makes the answer.

A cancelled future leaves the queue at once; tokenising or making its answer stops at the next chunk
(:mod:`mmbert.cancellation`).

Limits of one request, so that none blocks the others:

- it has at most half of the queue's tokens (``Limits.largest``); for more TooLong is raised, before tokenising if its
  characters are enough to know, else while it is tokenised;
- requests larger than a batch hold at most three quarters of the queue together: the rest is left to small ones;
- large requests never take the last tokenising thread (:mod:`mmbert.serving.threads`).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch

from mmbert.cancellation import Watch, check_cancelled, too_many_tokens, watched
from mmbert.errors import MMBertError, Overloaded
from mmbert.inference.batching import token_budget
from mmbert.model.encoder import Encoder
from mmbert.serving.metrics import EngineMetrics
from mmbert.serving.queue import QueuedTask, RequestQueue, Taken, size
from mmbert.serving.task import Answer, Task
from mmbert.serving.threads import Threads
from mmbert.serving.worker import ModelQueue, Worker, one_line

log = logging.getLogger(__name__)

R = TypeVar("R")

LARGE = 1 << 17
"""Characters from which a request counts as large for the threads: about 40 ms of tokenising."""


class Failed(MMBertError):
    """The model raised an error while it computed a request."""


class NotFiniteAnswer(Failed):
    """The model computed NaN or infinite numbers for an input."""


class Closed(MMBertError):
    """No requests are accepted: the models are loading, or the server is stopping."""


@dataclass(frozen=True)
class Limits:
    """How much an engine accepts.

    batch_tokens  tokens of one batch
    queue_tokens  tokens of all unanswered requests
    requests      unanswered requests
    """

    batch_tokens: int
    queue_tokens: int
    requests: int = 4096

    @classmethod
    def fit(cls, device: torch.device, batch_tokens: int | None = None, queue_tokens: int | None = None) -> Limits:
        """Return the given limits; defaults: the library's batches for the device, and a queue of 256 batches."""
        batch = token_budget(device) if batch_tokens is None else batch_tokens
        return cls(batch, 256 * batch if queue_tokens is None else queue_tokens)

    @property
    def largest(self) -> int:
        """Most tokens of one request: half of the queue, or a batch if the queue is that short."""
        return max(self.queue_tokens // 2, min(self.batch_tokens, self.queue_tokens))

    def room(self, tokens: int) -> int:
        """Return how many tokens the queue may hold when it accepts a request of ``tokens``."""
        small = tokens <= self.batch_tokens
        return self.queue_tokens if small else max(self.queue_tokens * 3 // 4, self.largest)


class Engine:
    """Runs tasks on one model. ``pool``: tokenising threads; pool and worker are shared with other engines."""

    def __init__(
        self,
        worker: Worker,
        pool: Threads,
        device: torch.device,
        limits: Limits,
        metrics: EngineMetrics,
        encoder: Encoder | None = None,
    ) -> None:
        """``encoder``: of a model with adapters, see :class:`mmbert.serving.worker.ModelQueue`."""
        self.limits = limits
        self._worker, self._pool, self._metrics = worker, pool, metrics
        self._queue = RequestQueue(limits.batch_tokens)
        self._tokens = 0
        self._jobs: set[QueuedTask] = set()
        self._closed: str | None = None
        # the lock of the worker guards _queue, _tokens and _jobs, and the counts of each job
        self._rate = 0.0
        """Tokens per second while batches run, a moving average."""
        worker.add(ModelQueue(self._queue, device, encoder, self._deliver, self._fail, metrics.batch, self.abandon))

    @property
    def outstanding(self) -> int:
        """Number of unanswered requests."""
        return len(self._jobs)

    def close(self, reason: str) -> None:
        """Accept no more requests; those that were accepted are answered."""
        self._closed = reason

    def abandon(self, reason: str) -> int:
        """Accept no more requests and refuse the unanswered ones. Return how many those were."""
        self.close(reason)
        with self._worker.lock:
            # A copy: refusing a job calls _release, which takes this lock and changes the set.
            jobs = list(self._jobs)
        for job in jobs:
            _refuse(job, Closed(reason))
        return len(jobs)

    def submit(self, task: Task[R]) -> Future[Answer[R]]:
        """Return the future of the answer. Cancelling it takes the request out of the queue.

        Raises Overloaded if too many tokens wait, TooLong if the request certainly has more tokens than one may have,
        and Closed after :meth:`close`. The future raises TooLong if tokenising finds more, Failed if the model cannot
        compute it, and what ``task.prepare`` raises.
        """
        reason = self._closed or self._worker.dead
        if reason is not None:
            raise Closed(reason)
        # ``least`` follows from the characters alone, so an absurd request is refused before it costs a thread.
        if task.least > self.limits.largest:
            raise too_many_tokens(task.least, self.limits.largest, "or more")
        job = QueuedTask(task)
        with self._worker.lock:
            self._reserve(job, min(task.likely, self.limits.largest))  # an estimate, corrected in _enter
            self._jobs.add(job)
            self._metrics.queue(len(self._jobs), self._tokens)
        # Also called when the client cancels: whichever way a future ends, its tokens leave the counts exactly once.
        job.future.add_done_callback(lambda future: self._release(job))
        if self._worker.dead is not None:  # it died after the check above, and may not have seen this job
            _refuse(job, Closed(self._worker.dead))
        self._pool.submit(self._tokenise, job, large=task.characters >= LARGE)
        return job.future

    def _reserve(self, job: QueuedTask, tokens: int) -> None:
        """Count ``tokens`` for a job, instead of what was counted before. Raises Overloaded if there is no room."""
        others = self._tokens - job.reserved
        if job not in self._jobs and len(self._jobs) >= self.limits.requests:
            raise Overloaded(f"{len(self._jobs):,} requests wait, the limit: try again later", self._wait())
        room = self.limits.room(tokens)
        if others + tokens > room:
            raise Overloaded(f"{others:,} tokens wait of at most {room:,}: try again later", self._wait())
        # Nothing was changed before this line, so a job that is refused leaves the counts as they were.
        self._tokens, job.reserved = others + tokens, tokens

    def _wait(self) -> int:
        """Return the seconds in which about half of the queue will be computed, for Retry-After."""
        return min(60, max(1, math.ceil(self._tokens / 2 / self._rate))) if self._rate else 1

    def _release(self, job: QueuedTask) -> None:
        """Take a job whose future is done out of the queue and the counts."""
        with self._worker.lock:
            self._queue.drop(job)
            self._tokens -= job.reserved
            job.reserved = 0
            self._jobs.discard(job)
            self._metrics.queue(len(self._jobs), self._tokens)

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
        except BaseException as error:  # a bug, or a panic in Rust, must reach the client that waits
            log.exception("a request could not be read")
            _refuse(job, Failed(f"the request could not be read: {one_line(error)}"))

    def _enter(self, job: QueuedTask, rows: list[Any], begun: float) -> None:
        """Put a tokenised job into the queue. Raises TooLong or Overloaded for its exact tokens."""
        for text in rows:
            text.results = [None] * len(text.rows)
        places = [(text, index) for text in rows for index in range(len(text.rows))]
        tokens = sum(size(place) for place in places)
        if tokens > self.limits.largest:
            raise too_many_tokens(tokens, self.limits.largest)
        job.rows, job.missing, job.timing.tokens = rows, len(places), tokens
        job.timing.tokenization, job.queued = time.perf_counter() - begun, time.perf_counter()
        with self._worker.lock:
            if job.future.done():  # cancelled meanwhile, and released
                return
            self._reserve(job, tokens)  # may raise: the estimate was lower, and others came meanwhile
            job.waiting.extend(places)
            self._metrics.queue(len(self._jobs), self._tokens)
            if places:
                self._queue.add(job)
                self._worker.lock.notify_all()
        # Requests without rows (all inputs empty) need no batch.
        if not places:
            self._finish(job)

    def _deliver(self, rows: list[Taken], results: list[object], begun: float, ended: float) -> None:
        done = []
        with self._worker.lock:
            for (job, (text, index)), result in zip(rows, results, strict=True):
                text.results[index] = result
                job.missing -= 1
                spent = min(len(text.rows[index]), job.reserved)  # reserved is 0 once the future is done
                job.reserved -= spent
                self._tokens -= spent
                if job.started is None:
                    job.started = begun
                job.timing.queue, job.timing.inference = job.started - job.queued, ended - job.started
                if not job.missing:
                    done.append(job)
            computed = sum(size(place) for _, place in rows)
            rate = computed / max(ended - begun, 1e-6)
            # Tokens per second of computing alone: pauses without requests would make Retry-After too long.
            self._rate += 0.1 * (rate - self._rate) if self._rate else rate
            self._metrics.queue(len(self._jobs), self._tokens)
        for job in done:  # outside the lock: the pool has one of its own
            self._pool.submit(self._finish, job, large=job.timing.tokens >= LARGE // 4)

    def _fail(self, rows: list[Taken], error: Exception) -> None:
        job = rows[0][0]
        log.error("a request of %s texts failed: %s", job.task.texts, one_line(error))
        _refuse(job, Failed(f"the model failed: {one_line(error)}"))

    def _finish(self, job: QueuedTask) -> None:
        if job.future.done():
            return
        try:
            with watched(Watch(job.future.done, self.limits.largest)):
                for number, text in enumerate(job.rows):
                    check_cancelled()
                    if not all(map(_is_finite, text.results)):
                        raise NotFiniteAnswer(
                            f"{_named(job, number)}: the model computed NaN or infinite numbers for it"
                        )
                value = job.task.finish(job.rows)
        except MMBertError as error:
            _refuse(job, error)
        except BaseException as error:  # as in _tokenise
            log.exception("an answer could not be made")
            _refuse(job, Failed(f"the answer could not be made: {one_line(error)}"))
        else:
            _settle(job, lambda: job.future.set_result(Answer(value, job.timing)))


NO_ADAPTER = -1
"""The number of the base itself among its adapters."""


class AdapterEngine:
    """The engine of one adapter, or of the base itself: they all share one engine."""

    def __init__(self, engine: Engine, adapter: int) -> None:
        self._engine, self._adapter = engine, adapter
        self.limits = engine.limits
        self.close, self.abandon = engine.close, engine.abandon

    @property
    def outstanding(self) -> int:
        """Number of unanswered requests to all adapters, told by the first one, so that a server counts them once."""
        return self._engine.outstanding if self._adapter == 0 else 0

    def submit(self, task: Task[R]) -> Future[Answer[R]]:
        """Return the future of the answer, as :meth:`Engine.submit`."""
        return self._engine.submit(replace(task, adapter=self._adapter))


def _refuse(job: QueuedTask, error: Exception) -> None:
    _settle(job, lambda: job.future.set_exception(error))


_settling = threading.Lock()


def _settle(job: QueuedTask, settle: Callable[[], None]) -> None:
    """Set a future once: threads may race, with a result, the end of a drain and the death of the worker."""
    with _settling:
        first, job.settled = not job.settled, True
    # False if the client cancelled at this moment; setting a result then would raise InvalidStateError.
    if first and job.future.set_running_or_notify_cancel():
        settle()


def _is_finite(result: Any) -> bool:
    """Return whether all numbers of a row's result are finite; NaN would be null in JSON."""
    if isinstance(result, tuple | list):
        return all(map(_is_finite, result))
    return not isinstance(result, np.ndarray) or bool(np.isfinite(result).all())


def _named(job: QueuedTask, number: int) -> str:
    """Return an input's number and beginning; chunks of one document have no results of their own."""
    items = job.task.items
    if len(items) != len(job.rows):
        return "the document"
    text = items[number] if isinstance(items[number], str) else " / ".join(items[number])
    return f"input {number} ({text[:40]!r}{' ...' if len(text) > 40 else ''})"
