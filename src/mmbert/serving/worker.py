"""Two threads for all models of a server: one prepares a batch while the other computes the one before.

All models share the computing thread. Torch already spreads every product over all cores (or fills the GPU): two models
at once would compete for cores and caches, and no batch would be ready earlier.

A full batch is prepared ahead. A batch that is not full stays open until the computing thread is free, so that it takes
in the rows that arrive meanwhile. Models that have rows waiting are served round robin.

An error in a batch fails only the requests that cause it. If one of the threads ends nevertheless, the worker is dead:
all waiting requests are refused, and the owner of the worker is called, so that the process can be replaced.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from mmbert.model.encoder import Encoder
from mmbert.packed import Packed
from mmbert.serving.queue import QueuedTask, RequestQueue, Taken
from mmbert.serving.threads import join_threads

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelQueue:
    """The queue of a model, its device, and the functions that the worker calls.

    encoder  of a model with adapters, whose batches mix them; else None
    deliver  with the rows of a batch, their results, and when it began and ended
    fail     with the rows of one job and the error
    noted    with rows and tokens of a batch that is about to run
    abandon  with the reason why none of its jobs will be computed
    """

    queue: RequestQueue
    device: torch.device
    encoder: Encoder | None
    deliver: Callable[[list[Taken], list[object], float, float], None]
    fail: Callable[[list[Taken], Exception], None]
    noted: Callable[[int, int], None]
    abandon: Callable[[str], object]


@dataclass(frozen=True)
class _Batch:
    model: ModelQueue
    rows: list[Taken]
    packed: Packed


class Worker:
    """Computes the batches of all models, one at a time, until :meth:`stop`. ``died``: called when a thread ends."""

    def __init__(self, died: Callable[[str], None] = lambda reason: None) -> None:
        self.lock = threading.Condition()
        """Guards all queues and the counts of their engines, and is notified of every change."""
        self.dead: str | None = None
        """The reason why nothing is computed any more."""
        self._died = died
        self._models: list[ModelQueue] = []
        self._ready: _Batch | None = None
        self._idle = False
        self._stopping = False
        self._prepared_all = False
        self._threads = [
            threading.Thread(target=self._live, args=(target,), name=name, daemon=True)
            for target, name in ((self._prepare, "prepare"), (self._compute, "compute"))
        ]
        for thread in self._threads:
            thread.start()

    def add(self, model: ModelQueue) -> None:
        """Serve one more model."""
        with self.lock:
            self._models.append(model)

    def stop(self, seconds: float = 60.0) -> list[str]:
        """Compute what waits, then end both threads. Return the names of those that still run after so many seconds."""
        with self.lock:
            self._stopping = True
            self.lock.notify_all()
        return join_threads(self._threads, seconds)

    def _live(self, target: Callable[[], None]) -> None:
        """Run a thread. If an error ends it, the worker is dead."""
        try:
            target()
        except BaseException as error:  # SystemExit and Rust panics too: nobody else would notice
            log.exception("the worker died")
            reason = f"the worker died: {one_line(error)}"
            with self.lock:
                self.dead = self.dead or reason
                self._stopping = self._prepared_all = True
                models = list(self._models)
                self.lock.notify_all()
            for model in models:
                model.abandon(reason)
            self._died(reason)

    def _next(self) -> ModelQueue | None:
        """Return the next model in turn, if its batch is to be made now: full, or the computing thread waits."""
        model = next((model for model in self._models if model.queue.tokens), None)
        return model if model is not None and (model.queue.full or self._idle or self._stopping) else None

    def _prepare(self) -> None:
        while True:
            with self.lock:
                self.lock.wait_for(
                    # while the worker stops, no next model means that nothing waits any more
                    lambda: self.dead is not None or (self._ready is None and (self._stopping or self._next()))
                )
                model = self._next()
                if model is None or self.dead is not None:
                    self._prepared_all = True
                    self.lock.notify_all()
                    return
                rows = model.queue.take()
                self._models.remove(model)  # to the end: the other models come first next time
                self._models.append(model)
            batch = self._packed(model, rows)
            with self.lock:
                self._ready = batch
                self.lock.notify_all()

    def _packed(self, model: ModelQueue, rows: list[Taken]) -> _Batch | None:
        """Return a batch of the rows; requests whose rows cannot be packed fail, None if no other is left."""
        try:
            return _Batch(model, rows, _pack(rows))
        except Exception as error:  # find the request that causes it: only that one fails
            good: list[Taken] = []
            for own in _by_job(rows):
                try:
                    _pack(own)
                except Exception as found:
                    model.fail(own, found)
                else:
                    good += own
            if len(good) < len(rows):
                return self._packed(model, good) if good else None
            for own in _by_job(rows):  # each can be packed by itself, but not all together
                model.fail(own, error)
            return None

    def _compute(self) -> None:
        while True:
            with self.lock:
                self._idle = True
                self.lock.notify_all()
                self.lock.wait_for(lambda: self._ready is not None or self._prepared_all)
                batch, self._ready, self._idle = self._ready, None, False
                self.lock.notify_all()  # the other thread prepares the next batch while this one runs
            if batch is None:
                return
            self._run(batch)

    def _run(self, batch: _Batch) -> None:
        rows = [row for row in batch.rows if not row[0].future.done()]
        if not rows:  # all clients have left
            return
        begun = time.perf_counter()
        try:
            batch.model.noted(len(batch.rows), batch.packed.tokens)
            results = _results(batch.model, batch.rows, batch.packed)
        except Exception as error:  # whatever a kernel raises: the thread goes on
            self._retry(batch.model, rows, error)
        else:
            self._deliver(batch.model, batch.rows, results, begun)

    def _retry(self, model: ModelQueue, rows: list[Taken], error: Exception) -> None:
        """Compute each job's rows of a failed batch by themselves: only jobs that fail again get an error."""
        jobs = _by_job(rows)
        for own in jobs:
            if len(jobs) == 1:
                model.fail(own, error)
                continue
            begun = time.perf_counter()
            try:
                results = _results(model, own, _pack(own))
            except Exception as found:  # as above
                model.fail(own, found)
            else:
                self._deliver(model, own, results, begun)

    def _deliver(self, model: ModelQueue, rows: list[Taken], results: list[object], begun: float) -> None:
        try:
            model.deliver(rows, results, begun, time.perf_counter())
        except Exception as error:  # none of them may wait for ever
            for own in _by_job(rows):
                model.fail(own, error)


def one_line(error: BaseException) -> str:
    """Return an error's class and message in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _by_job(rows: list[Taken]) -> list[list[Taken]]:
    """Return the rows of each job, in order."""
    rows_of: dict[QueuedTask, list[Taken]] = {}
    for row in rows:
        rows_of.setdefault(row[0], []).append(row)
    return list(rows_of.values())


def _pack(rows: list[Taken]) -> Packed:
    return Packed.from_lists([text.rows[index] for _, (text, index) in rows])


def _results(model: ModelQueue, rows: list[Taken], packed: Packed) -> list[object]:
    packed = packed.to(model.device)
    with torch.inference_mode():
        if model.encoder is not None:
            results = _mixed(model.encoder, rows, packed)
        else:
            results = list(rows[0][0].task.compute(packed, [place for _, place in rows]))
    if len(results) != len(rows):
        raise ValueError(f"{len(results)} results for {len(rows)} rows")
    return results


def _mixed(encoder: Encoder, rows: list[Taken], packed: Packed) -> list[object]:
    """Return the results of rows of several adapters: one pass of the encoder, then the heads of each."""
    states = encoder(replace(packed, adapters=[job.task.adapter for job, _ in rows]))
    groups: dict[Any, list[int]] = {}  # rows of each head; handlers are as many as heads
    for number, (job, _) in enumerate(rows):
        groups.setdefault(job.task.compute, []).append(number)
    results: list[object] = [None] * len(rows)
    for compute, numbers in groups.items():
        part, places = packed.part(numbers)
        found = compute(part, [rows[number][1] for number in numbers], states=states[places])
        for number, result in zip(numbers, found, strict=True):
            results[number] = result
    return results
