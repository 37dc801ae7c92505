"""One worker of a bulk run: it holds a model, and makes a Parquet file of each shard that it is given.

The worker reads its shard itself, as a stream: the engine takes a window of 4,096 texts or 4 million characters at
most, tokenises the next one meanwhile, and forms batches by tokens. So two windows are in memory, whatever the size of
the shard, and nothing is queued in front of a worker. Answers come in the order of the rows.

A row that cannot be read, or that the model has no answer for, is left out and written to ``_rejected/NAME.jsonl``
with its reason; Parquet readers pass over names that begin with ``_``.
"""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import orjson

from mmbert.bulk.jobs import Embed, Job
from mmbert.bulk.places import ResultFolder, Shard
from mmbert.bulk.shard_writer import Row, ShardWriter
from mmbert.errors import DataError, MMBertError, NotFiniteOutput
from mmbert.files import set_environment
from mmbert.io.lines import Line, lines_of
from mmbert.io.remote import is_remote, is_store_error, not_reached
from mmbert.io.row_errors import RowFaults, as_name
from mmbert.version import __version__

log = logging.getLogger(__name__)

SAMPLE = 4096
"""Texts from which the ranges of int8 and uint8 are measured."""

REJECTED = "_rejected"

_EVERY = 1.0
"""Seconds between two reports of a worker."""

_NUMBER = re.compile(r"text (\d+)\b")


def result_name(shard: str) -> str:
    """Return the name of the result of a shard: ``a.jsonl.gz`` -> ``a.jsonl.gz.parquet``."""
    return shard if shard.endswith(".parquet") else f"{shard}.parquet"


class Rejects(RowFaults):
    """The rows of a shard that were left out, as JSON values."""

    def __init__(self, shard: Shard) -> None:
        super().__init__(shard.place, skip=True)
        self.rows: list[dict[str, Any]] = []
        self._place = re.compile(re.escape(shard.place) + r":(\d+): ?")

    def add(self, fault: Exception, row: Row | None = None) -> None:
        """Note a row with the number that the message names, or with that of ``row``."""
        super().add(fault if isinstance(fault, DataError) else DataError(str(fault)))
        found = self._place.match(str(fault))
        number = row.line.number if row else int(found[1]) if found else None
        reason = str(fault)[found.end() :] if found else str(fault)
        self.rows.append({"row": number, "id": row and row.id, "reason": reason})


class _Notes(logging.Handler):
    """Keeps warnings of the package for the process that started the run."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def take(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines


class ShardWorker:
    """Made in a process of its own. Errors for a user are answers too, ``{"error": ...}``: not all can be pickled."""

    def __init__(
        self, job: Job, folder: ResultFolder, *, id_field: str = "id", keep: tuple[str, ...] = (), threads: int = 0
    ) -> None:
        self._job, self._folder, self._id_field, self._keep, self._threads = job, folder, id_field, keep, threads
        self._tokens = 0
        self._notes = _Notes()

    def load(self) -> dict[str, Any]:
        """Load the model, and return what it is, for the manifest: equal on all workers of a run."""
        # Before torch and the tokenizer are imported: each would take all cores of the machine. No bars in a log file.
        cores = {"OMP_NUM_THREADS": self._threads, "RAYON_NUM_THREADS": self._threads} if self._threads else {}
        set_environment(MMBERT_QUIET="1", **{name: str(number) for name, number in cores.items()})
        import torch

        logger = logging.getLogger("mmbert")
        logger.addHandler(self._notes)
        logger.propagate = False
        if self._threads:
            torch.set_num_threads(self._threads)
        try:
            self._predictor = self._job.load()
        except MMBertError as error:
            return {"error": str(error)}
        self._predictor.loaded.encoder.register_forward_pre_hook(self._count)
        stamp = self._job.model_stamp(self._predictor)
        columns = ["id", *(name for name, _ in self._job.fields(self._predictor)), *self._keep]
        hashed = self._predictor.loaded.model_hash
        return {"mmbert": __version__, "model_hash": hashed, **stamp, "columns": columns}

    def _count(self, _: Any, arguments: tuple[Any, ...]) -> None:
        self._tokens += len(arguments[0].ids)

    def set_ranges(self, ranges: Any) -> None:
        """Take the value ranges of int8 and uint8."""
        self._predictor.ranges = ranges

    def measure_ranges(self, shard: Shard) -> dict[str, Any]:
        """Return ``{"ranges": (2, d)}`` of the first texts of a shard."""
        assert isinstance(self._job, Embed)
        try:
            texts = [row.item for row in islice(self._rows(shard, Rejects(shard)), SAMPLE)]
            options = {"dimensions": self._job.dimensions, "normalize": self._job.normalize}
            return {"ranges": self._predictor.calibrate(texts, prompt=self._job.prompt, **options)}
        except MMBertError as error:
            return {"error": str(error)}

    def run(self, shard: Shard, job_id: str) -> Iterator[dict[str, Any]]:
        """Write the result of a shard. Yields ``{"rows", "tokens", "notes"}`` since the last report, every second.

        Then ``{"done": ...}`` or ``{"error": ...}``.
        """
        started, first, rejects = time.monotonic(), self._tokens, Rejects(shard)
        reported = rows = 0
        told, last = self._tokens, started
        try:
            with (
                self._folder.writing(result_name(shard.name)) as file,
                ShardWriter(file, shard, self._job, self._predictor, self._keep) as writer,
            ):
                for pair in answered(self._job, self._predictor, self._rows(shard, rejects), rejects):
                    writer.add(*pair)
                    rows += 1
                    if time.monotonic() - last >= _EVERY:
                        yield {"rows": rows - reported, "tokens": self._tokens - told, "notes": self._notes.take()}
                        reported, told, last = rows, self._tokens, time.monotonic()
                rejects.good = rows
                if rows == 0:
                    rejects.report()
                    log.warning("%s is empty", shard.place)
                self._write_rejects(shard, rejects)
                done = {
                    "job": job_id, "input": shard.place, "size": shard.size, "stamp": shard.stamp, "rows": rows,
                    "rejected": len(rejects.rows), "tokens": self._tokens - first,
                    "seconds": round(time.monotonic() - started, 3),
                }  # fmt: skip
                writer.finish(done)
        except MMBertError as error:
            yield {"error": str(error), "notes": self._notes.take()}
            return
        except Exception as error:
            if not is_store_error(error):
                raise
            # Of a file of this machine the reader has told what is wrong, so this is about the result.
            place = shard.place if is_remote(shard.place) else self._folder.place
            yield {"error": str(not_reached(place, error)), "notes": self._notes.take()}
            return
        yield {"rows": rows - reported, "tokens": self._tokens - told, "notes": self._notes.take(), "done": done}

    def _rows(self, shard: Shard, rejects: Rejects) -> Iterator[Row]:
        def row(line: Line) -> Row:
            key = line.key(self._id_field)
            name = f"{shard.name}:{line.number}" if key is None else as_name(key)
            return Row(line, name, self._job.item(line))

        objects = self._job.objects or (isinstance(self._job, Embed) and self._job.text_field is not None)
        return rejects.keep(lines_of(shard.open, shard.place, rejects, objects=objects), row)

    def _write_rejects(self, shard: Shard, rejects: Rejects) -> None:
        name = f"{REJECTED}/{shard.name}.jsonl"
        if not rejects.rows:
            self._folder.remove(name)  # of an earlier attempt
            return
        with self._folder.writing(name) as file:
            file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rejects.rows)


def answered(job: Job, predictor: Any, rows: Iterable[Row], rejects: Rejects) -> Iterator[tuple[Row, Any]]:
    """Yield each row with its answer, in order. A row that the model has no answer for is noted in ``rejects``.

    An error about one row ends the stream of answers: the rows that waited for theirs are computed again without it.
    """
    source, again = iter(rows), deque[Row]()
    while True:
        waiting: deque[Row] = deque()
        done = 0

        def items(again: deque[Row] = again, waiting: deque[Row] = waiting) -> Iterator[Any]:
            for row in chain(again, source):
                waiting.append(row)
                yield row.item

        try:
            for answer in job.answers(predictor, items()):
                row, done = waiting.popleft(), done + 1
                if isinstance(answer, MMBertError):
                    rejects.add(answer, row)
                else:
                    yield row, answer
            return
        except MMBertError as error:
            number = _number(error)
            if number is None or not 0 <= number - done < len(waiting):
                raise
            # Rows that were given again but not yet taken follow those that wait.
            left = deque(islice(again, done + len(waiting), None))
            bad = waiting[number - done]
            rejects.add(error, bad)
            again = deque(row for row in chain(waiting, left) if row is not bad)


def _number(error: MMBertError) -> int | None:
    """Return the number in its stream of the item that an error is about."""
    if isinstance(error, NotFiniteOutput):
        return error.number
    found = _NUMBER.match(str(error))
    return int(found[1]) if found else None
