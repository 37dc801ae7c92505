"""Two threads for all models of a server: one prepares a batch while the other computes the one before.

All models share the thread that computes. Torch spreads every product over all cores already (or fills the GPU): two
models at once would only take each other's cores and caches, and a batch would wait as long for the slower one.

A full batch is prepared ahead. One that is not full stays open until the thread is free, so that it takes in what
comes meanwhile. Models with work take turns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mmbert.packed import Packed
from mmbert.serving.line import Line, Taken


@dataclass(frozen=True)
class Lane:
    """A model's line, its device, and who is told of results.

    deliver  rows of a batch, their results, and when it began and ended
    fail     rows of one job, and what was raised
    noted    rows and tokens of a batch that is about to run
    """

    line: Line
    device: torch.device
    deliver: Callable[[list[Taken], list[object], float, float], None]
    fail: Callable[[list[Taken], Exception], None]
    noted: Callable[[int, int], None]


@dataclass(frozen=True)
class _Batch:
    lane: Lane
    rows: list[Taken]
    packed: Packed


class Worker:
    """Computes the batches of all lanes, one at a time, until :meth:`stop`."""

    def __init__(self) -> None:
        self.lock = threading.Condition()
        """Guards all lines and the counts of their engines; notified of what is new."""
        self._lanes: list[Lane] = []
        self._ready: _Batch | None = None
        self._idle = False
        self._stopping = False
        self._prepared_all = False
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in ((self._prepare, "prepare"), (self._compute, "compute"))
        ]
        for thread in self._threads:
            thread.start()

    def add(self, lane: Lane) -> None:
        with self.lock:
            self._lanes.append(lane)

    def stop(self) -> None:
        """Compute what waits, then end both threads."""
        with self.lock:
            self._stopping = True
            self.lock.notify_all()
        for thread in self._threads:
            thread.join()

    def _next(self) -> Lane | None:
        """Whose turn it is, if its batch is to be made now."""
        lane = next((lane for lane in self._lanes if lane.line.tokens), None)
        return lane if lane is not None and (lane.line.full or self._idle or self._stopping) else None

    def _prepare(self) -> None:
        while True:
            with self.lock:
                self.lock.wait_for(
                    lambda: self._ready is None and (self._next() is not None or (self._stopping and self._empty()))
                )
                lane = self._next()
                if lane is None:
                    self._prepared_all = True
                    self.lock.notify_all()
                    return
                rows = lane.line.take()
                self._lanes.remove(lane)
                self._lanes.append(lane)
            packed = Packed.from_lists([text.rows[index] for _, (text, index) in rows])
            with self.lock:
                self._ready = _Batch(lane, rows, packed)
                self.lock.notify_all()

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
        rows = [row for row in batch.rows if not row[0].future.cancelled()]
        if not rows:
            return
        batch.lane.noted(len(batch.rows), batch.packed.tokens)
        begun = time.perf_counter()
        try:
            results = _results(batch.lane, batch.rows, batch.packed)
        except Exception as error:  # whatever a kernel raises, the thread lives on and only its own requests fail
            self._retry(batch.lane, rows, error)
        else:
            batch.lane.deliver(batch.rows, results, begun, time.perf_counter())

    def _retry(self, lane: Lane, rows: list[Taken], error: Exception) -> None:
        """Each job's rows of a batch that failed, by themselves: only those that fail again are told so."""
        jobs = {job: [row for row in rows if row[0] is job] for job, _ in rows}
        for own in jobs.values():
            if len(jobs) == 1:
                lane.fail(own, error)
                continue
            begun = time.perf_counter()
            try:
                results = _results(lane, own, Packed.from_lists([text.rows[index] for _, (text, index) in own]))
            except Exception as found:  # as above
                lane.fail(own, found)
            else:
                lane.deliver(own, results, begun, time.perf_counter())


def _results(lane: Lane, rows: list[Taken], packed: Packed) -> list[object]:
    compute = rows[0][0].task.compute
    with torch.inference_mode():
        results = list(compute(packed.to(lane.device), [place for _, place in rows]))
    if len(results) != len(rows):
        raise ValueError(f"{len(results)} results for {len(rows)} rows")
    return results
