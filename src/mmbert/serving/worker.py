"""Two threads for all models of a server: one prepares a batch while the other computes the one before.

All models share the thread that computes. Torch spreads every product over all cores already (or fills the GPU): two
models at once would only take each other's cores and caches, and a batch would wait as long for the slower one.

A full batch is prepared ahead. One that is not full stays open until the thread is free, so that it takes in what
comes meanwhile. Models with work take turns.

An error of a batch fails its own requests, wherever it is raised. If one of the threads ends nevertheless, the worker
is dead: every request that waits is refused, and who made the worker is told, so that the process can be replaced.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mmbert.packed import Packed
from mmbert.serving.queue import QueuedTask, RequestQueue, Taken

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelQueue:
    """A model's line, its device, and who is told of results.

    deliver  rows of a batch, their results, and when it began and ended
    fail     rows of one job, and what was raised
    noted    rows and tokens of a batch that is about to run
    abandon  why none of its jobs will be computed any more
    """

    line: RequestQueue
    device: torch.device
    deliver: Callable[[list[Taken], list[object], float, float], None]
    fail: Callable[[list[Taken], Exception], None]
    noted: Callable[[int, int], None]
    abandon: Callable[[str], None]


@dataclass(frozen=True)
class _Batch:
    lane: ModelQueue
    rows: list[Taken]
    packed: Packed


class Worker:
    """Computes the batches of all lanes, one at a time, until :meth:`stop`. ``died``: told of the end of a thread."""

    def __init__(self, died: Callable[[str], None] = lambda reason: None) -> None:
        self.lock = threading.Condition()
        """Guards all lines and the counts of their engines; notified of what is new."""
        self.dead: str | None = None
        """Why nothing is computed any more."""
        self._died = died
        self._lanes: list[ModelQueue] = []
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

    def add(self, lane: ModelQueue) -> None:
        with self.lock:
            self._lanes.append(lane)

    def stop(self, seconds: float = 60.0) -> list[str]:
        """Compute what waits, then end both threads. Return the names of those that still run after so many seconds."""
        end = time.monotonic() + seconds
        with self.lock:
            self._stopping = True
            self.lock.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return [thread.name for thread in self._threads if thread.is_alive()]

    def _live(self, target: Callable[[], None]) -> None:
        """Run a thread. Whatever ends it but a stop ends the worker."""
        try:
            target()
        except BaseException as error:  # also what is no Exception: nobody else would hear of it
            log.exception("the worker died")
            reason = f"the worker died: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            with self.lock:
                self.dead = self.dead or reason
                self._stopping = self._prepared_all = True
                lanes = list(self._lanes)
                self.lock.notify_all()
            for lane in lanes:
                lane.abandon(reason)
            self._died(reason)

    def _next(self) -> ModelQueue | None:
        """Whose turn it is, if its batch is to be made now."""
        lane = next((lane for lane in self._lanes if lane.line.tokens), None)
        return lane if lane is not None and (lane.line.full or self._idle or self._stopping) else None

    def _prepare(self) -> None:
        while True:
            with self.lock:
                self.lock.wait_for(
                    lambda: (
                        self.dead is not None
                        or (self._ready is None and (self._next() is not None or (self._stopping and self._empty())))
                    )
                )
                lane = self._next()
                if lane is None or self.dead is not None:
                    self._prepared_all = True
                    self.lock.notify_all()
                    return
                rows = lane.line.take()
                self._lanes.remove(lane)
                self._lanes.append(lane)
            batch = self._packed(lane, rows)
            with self.lock:
                self._ready = batch
                self.lock.notify_all()

    def _packed(self, lane: ModelQueue, rows: list[Taken]) -> _Batch | None:
        """Return a batch of rows, without those of requests that make none, which are told so; None if none is left."""
        try:
            return _Batch(lane, rows, _pack(rows))
        except Exception as error:  # as for what computing raises: only the request that is at fault fails
            good: list[Taken] = []
            for own in _by_job(rows):
                try:
                    _pack(own)
                except Exception as found:
                    lane.fail(own, found)
                else:
                    good += own
            if len(good) < len(rows):
                return self._packed(lane, good) if good else None
            for own in _by_job(rows):  # each for itself, but not together
                lane.fail(own, error)
            return None

    def _empty(self) -> bool:
        return not any(lane.line.tokens for lane in self._lanes)

    def _compute(self) -> None:
        while True:
            with self.lock:
                self._idle = True
                self.lock.notify_all()
                self.lock.wait_for(lambda: self._ready is not None or self._prepared_all)
                batch, self._ready, self._idle = self._ready, None, False
                self.lock.notify_all()
            if batch is None:
                return
            self._run(batch)

    def _run(self, batch: _Batch) -> None:
        rows = [row for row in batch.rows if not row[0].future.done()]
        if not rows:
            return
        begun = time.perf_counter()
        try:
            batch.lane.noted(len(batch.rows), batch.packed.tokens)
            results = _results(batch.lane, batch.rows, batch.packed)
        except Exception as error:  # whatever a kernel raises, the thread lives on and only its own requests fail
            self._retry(batch.lane, rows, error)
        else:
            self._deliver(batch.lane, batch.rows, results, begun)

    def _retry(self, lane: ModelQueue, rows: list[Taken], error: Exception) -> None:
        """Each job's rows of a batch that failed, by themselves: only those that fail again are told so."""
        jobs = _by_job(rows)
        for own in jobs:
            if len(jobs) == 1:
                lane.fail(own, error)
                continue
            begun = time.perf_counter()
            try:
                results = _results(lane, own, _pack(own))
            except Exception as found:  # as above
                lane.fail(own, found)
            else:
                self._deliver(lane, own, results, begun)

    def _deliver(self, lane: ModelQueue, rows: list[Taken], results: list[object], begun: float) -> None:
        try:
            lane.deliver(rows, results, begun, time.perf_counter())
        except Exception as error:  # computed, but not noted: none of them may wait for ever
            for own in _by_job(rows):
                lane.fail(own, error)


def _by_job(rows: list[Taken]) -> list[list[Taken]]:
    """Rows of each job, in order."""
    found: dict[QueuedTask, list[Taken]] = {}
    for row in rows:
        found.setdefault(row[0], []).append(row)
    return list(found.values())


def _pack(rows: list[Taken]) -> Packed:
    return Packed.from_lists([text.rows[index] for _, (text, index) in rows])


def _results(lane: ModelQueue, rows: list[Taken], packed: Packed) -> list[object]:
    compute = rows[0][0].task.compute
    with torch.inference_mode():
        results = list(compute(packed.to(lane.device), [place for _, place in rows]))
    if len(results) != len(rows):
        raise ValueError(f"{len(results)} results for {len(rows)} rows")
    return results
