"""Bulk inference on Ray: each worker is an actor with a model, and makes the results of whole shards.

Ray's actors, not Ray Data: Ray Data cuts files into blocks of bytes and writes a file for each block. Here a result
belongs to one shard, with its rows in order, so that a finished one is never computed again; and a worker takes from
its shard no more than the engine batches, which is counted in tokens. Nothing but names and counts goes through Ray.

A worker that dies (a machine that is taken back, or too little memory) loses the shard that it was at: another one
computes it from its beginning. A shard at which three workers died is left out, and named at the end.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmbert.bulk.cluster import Cluster, Placement, connected, place
from mmbert.bulk.jobs import Embed, Job
from mmbert.bulk.places import ResultFolder, Shard, find_shards
from mmbert.bulk.run_folder import RANGES, RunFolder, record_of
from mmbert.bulk.shard_worker import ShardWorker, result_name
from mmbert.errors import DataError, MMBertError
from mmbert.formatting import count, duration
from mmbert.inference.load import hash_folder
from mmbert.io.remote import is_remote
from mmbert.locks import lock_folder
from mmbert.log import progress
from mmbert.model.weights import model_folder

log = logging.getLogger(__name__)

DEATHS = 3
"""Workers that may die at one shard, or one after the other while they load the model."""


@dataclass
class Summary:
    """What a run did. ``rows``, ``tokens`` and ``seconds`` are of this call, ``all_rows`` and ``rejected`` of all."""

    folder: str
    files: int = 0
    skipped: int = 0
    workers: int = 0
    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0
    """From when the first worker was ready."""
    all_rows: int = 0
    rejected: int = 0

    def lines(self, price: float | None = None) -> list[str]:
        """Return the summary for people. ``price``: dollars an hour of all machines together."""
        before = f", {self.skipped:,} of them finished before" if self.skipped else ""
        found = [f"{self.all_rows:,} rows of {self.files:,} files in {self.folder}{before}"]
        if self.rejected:
            found.append(f"{self.rejected:,} rows left out: see {self.folder}/_rejected")
        if self.rows and self.seconds:
            rates = f"{count(self.tokens / self.seconds)} tokens/s, {count(self.rows / self.seconds)} rows/s"
            found.append(
                f"{self.rows:,} rows, {count(self.tokens)} tokens in {duration(self.seconds)}: {rates}, "
                f"{self.workers} workers"
            )
            if price is not None:
                dollars = price * self.seconds / 3600 / self.rows * 1e6
                found.append(f"${dollars:,.2f} per million texts at ${price:,.2f} an hour")
        return found


def run_on_ray(
    job: Job,
    inputs: Sequence[str],
    out: str,
    *,
    cluster: Cluster | None = None,
    ranges: np.ndarray | None = None,
    id_field: str = "id",
    keep: tuple[str, ...] = (),
) -> Summary:
    """Run a job over all files of ``inputs``, into the folder ``out``; finished files are skipped.

    inputs  files, folders, globs, or URLs of fsspec
    out     a folder that all machines reach: a path on a common disk, or a URL
    ranges  of int8 and uint8; default: measured from the first texts, and kept in ``out/ranges.npy``
    keep    fields of the input that results have too
    Raises ConfigError, DataError or WeightsError before anything runs; MMBertError at the end for files that failed.
    """
    folder = ResultFolder.at(out)
    inputs = [place if is_remote(place) else str(Path(place).absolute()) for place in inputs]
    run = RunFolder(folder, find_shards(inputs))
    lock = nullcontext() if is_remote(folder.place) else lock_folder(Path(folder.place))
    model = Path(job.model)
    record = record_of(job, inputs, id_field, keep) | {"model_hash": hash_folder(model_folder(job.model))}
    if model.is_dir():  # workers have other working folders
        job = type(job)(**{**vars(job), "model": str(model.absolute())})
    with lock:
        job_id, pending = run.claim(record), run.find_done()
        skipped = len(run.done)
        if not pending:
            run.check_done(job_id)
            return _summary(run, Summary(folder.place, skipped=skipped))
        with connected(cluster or Cluster()) as ray:
            where = place(ray.nodes(), cluster or Cluster(), job.device)
            pool = _Pool(ray, job, run, where, pending, id_field, keep)
            try:
                return _summary(run, pool.run(record, ranges, Summary(folder.place, skipped=skipped)))
            finally:
                pool.stop()


def _summary(run: RunFolder, summary: Summary) -> Summary:
    summary.files = len(run.done)
    summary.all_rows, summary.rejected = (
        sum(footer[key] for footer in run.done.values()) for key in ("rows", "rejected")
    )
    return summary


@dataclass
class _Pool:
    """The workers of a run, and the shard that each one is at."""

    ray: Any
    job: Job
    run_folder: RunFolder
    where: Placement
    pending: list[Shard]
    id_field: str
    keep: tuple[str, ...]
    starting: dict[Any, Any] = field(default_factory=dict)
    """Reference to what ``load`` returns -> actor."""
    working: dict[Any, tuple[Any, Shard]] = field(default_factory=dict)
    """Stream of reports -> actor and its shard."""
    deaths: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    noted: set[str] = field(default_factory=set)
    record: dict[str, Any] = field(default_factory=dict)
    ranges: np.ndarray | None = None
    job_id: str = ""

    def run(self, record: dict[str, Any], ranges: np.ndarray | None, summary: Summary) -> Summary:
        """Compute what is pending."""
        self.record, self.ranges = record, ranges
        # The largest first, so that no worker begins one when the others have nothing left.
        self.pending.sort(key=lambda shard: -shard.size)
        wanted = min(self.where.workers, len(self.pending))
        if wanted < self.where.workers:
            log.info("%d files for %d workers: divide the input for more", wanted, self.where.workers)
        summary.workers = wanted
        for _ in range(wanted):
            self._start()
        size, started = sum(shard.size for shard in self.pending), 0.0
        total = len(self.pending)
        with progress[Any](desc=f"{self.job.name}, {wanted} workers", unit="row") as bar:
            while self.pending or self.working:
                ready, _ = self.ray.wait([*self.starting, *self.working], num_returns=1, timeout=1.0)
                rows = 0
                for reference in ready:
                    if reference in self.starting:
                        self._begin(reference)
                        started = started or time.monotonic()
                    else:
                        report = self._report(reference)
                        rows += report.get("rows", 0)
                        summary.tokens += report.get("tokens", 0)
                summary.rows += rows
                if started:
                    summary.seconds = time.monotonic() - started
                    left = sum(shard.size for shard in [*self.pending, *(shard for _, shard in self.working.values())])
                    done = total - len(self.pending) - len(self.working)
                    bar.note(**_figures(done, total, size, left, summary))
                bar.update(rows)
        self.run_folder.write(self.record, complete=not self.failed)
        if self.failed:
            name, why = next(iter(self.failed.items()))
            raise MMBertError(f"{len(self.failed)} of {total} files failed, the first is {name}: {why}")
        return summary

    def stop(self) -> None:
        """End all workers."""
        for actor in [*self.starting.values(), *(actor for actor, _ in self.working.values())]:
            self.ray.kill(actor)

    def _start(self) -> None:
        threads = self.where.cpus
        remote = self.ray.remote(ShardWorker).options(num_cpus=threads, num_gpus=self.where.gpus, max_restarts=0)
        actor = remote.remote(self.job, self.run_folder.folder, id_field=self.id_field, keep=self.keep, threads=threads)
        self.starting[actor.load.remote()] = actor

    def _begin(self, reference: Any) -> None:
        """Give its first shard to a worker that has its model."""
        actor = self.starting.pop(reference)
        try:
            stated = self._answer(self.ray.get(reference))
            if not self.job_id:
                self._claim(actor, stated)
            elif different := [key for key in stated if self.record.get(key) != stated[key]]:
                key = different[0]
                raise MMBertError(
                    f"workers differ in {key}, {self.record.get(key)!r} and {stated[key]!r}: install one version of "
                    "mmbert and one model on all machines, and name the --precision"
                )
            if self.ranges is not None:
                self.ray.get(actor.set_ranges.remote(self.ranges))
        except self.ray.exceptions.RayActorError as error:
            self._count_death("", error)
            self._start()
            return
        self._next(actor)

    def _claim(self, actor: Any, stated: dict[str, Any]) -> None:
        """Check the folder against the loaded model, and write its manifest. Ranges come from the folder or a shard."""
        record = self.record | stated
        if isinstance(self.job, Embed) and self.job.output in ("int8", "uint8"):
            self._find_ranges(actor)
            assert self.ranges is not None
            record["ranges"] = self.ranges.tolist()
        self.job_id, self.record = self.run_folder.claim(record), record
        self.run_folder.check_done(self.job_id)
        self.run_folder.write(record, complete=False)

    def _find_ranges(self, actor: Any) -> None:
        folder = self.run_folder.folder
        if RANGES in folder.names():
            with folder.open(RANGES) as file:
                kept = np.load(io.BytesIO(file.read()), allow_pickle=False)
            self.ranges = kept if self.ranges is None else self.ranges  # others than the kept ones are refused
            return
        if self.ranges is None:
            first = self.run_folder.shards[0]
            self.ranges = np.asarray(self._answer(self.ray.get(actor.measure_ranges.remote(first)))["ranges"])
        with folder.writing(RANGES) as file:
            np.save(file, self.ranges)

    def _answer(self, answer: dict[str, Any]) -> dict[str, Any]:
        if "error" in answer:
            raise MMBertError(answer["error"])
        return answer

    def _next(self, actor: Any) -> None:
        """Give a worker the next shard, or end it."""
        if not self.pending:
            self.ray.kill(actor)
            return
        shard = self.pending.pop(0)
        stream = actor.run.options(num_returns="streaming").remote(shard, self.job_id)
        self.working[stream] = (actor, shard)

    def _report(self, stream: Any) -> dict[str, Any]:
        """Return the next report of a worker; at the end of its shard, give it the next one."""
        actor, shard = self.working[stream]
        try:
            report: dict[str, Any] = self.ray.get(next(stream))
        except StopIteration:
            del self.working[stream]
            self._next(actor)
            return {}
        except self.ray.exceptions.RayActorError as error:
            del self.working[stream]
            self._count_death(shard.name, error)
            if shard.name not in self.failed:
                self.pending.insert(0, shard)
            if self.pending:
                self._start()
            return {}
        for note in report.get("notes", ()):
            if note not in self.noted:
                self.noted.add(note)
                log.warning("%s: %s", shard.name, note)
        if "error" in report:
            self.failed[shard.name] = report["error"]
            log.warning("%s", report["error"])
        if "done" in report:
            self._check_visible(shard)
            self.run_folder.done[shard.name] = report["done"]
        return report

    def _check_visible(self, shard: Shard) -> None:
        folder = self.run_folder.folder
        if not is_remote(folder.place) and not (Path(folder.place) / result_name(shard.name)).is_file():
            raise DataError(
                f"a worker wrote {folder.place}/{result_name(shard.name)}, which is not there on this machine: choose "
                "a folder on a disk that all machines share, or on an object store"
            )

    def _count_death(self, name: str, error: Exception) -> None:
        """Note that a worker died at a shard, or ("") while it loaded the model. Raises MMBertError for too many."""
        self.deaths[name] = self.deaths.get(name, 0) + 1
        where = f"at {name}" if name else "while it loaded the model"
        log.warning("a worker died %s: another one takes its place", where)
        if self.deaths[name] < DEATHS:
            return
        why = f"{DEATHS} workers died {where}, of too little memory maybe (fewer --workers, more --cpus-per-worker)"
        if not name:
            raise MMBertError(f"{why}: {' '.join(str(error).split())[:200]}")
        self.failed[name] = why


def _figures(done: int, total: int, size: int, left: int, summary: Summary) -> dict[str, str]:
    """Return what is shown behind the bar: files, tokens a second, and the time that is left by the bytes of files."""
    rate = count(summary.tokens / summary.seconds) if summary.seconds > 1 else ""
    fraction = (size - left) / size if size else 0
    time_left = {"left": duration(summary.seconds * (1 - fraction) / fraction)} if fraction > 0.02 else {}
    return {"files": f"{done}/{total}", "tokens/s": rate, **time_left}
