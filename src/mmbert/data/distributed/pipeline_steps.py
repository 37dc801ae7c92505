"""The first stage as datatrove steps: read, clean, check languages, write spill files with hashes.

Each step counts what it drops by language; the counts of all steps and ranks make ``text/report.json``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import zstandard
from datatrove.data import Document as Item
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.typeshelper import StatHints

from mmbert.data.dedup import text_hash
from mmbert.data.distributed.task_plan import TaskPlan, load_plan
from mmbert.data.document import Document
from mmbert.data.prepare import drop_reason, is_held_out
from mmbert.data.store import SourceReport
from mmbert.files import atomic_file, read_json, write_json
from mmbert.io.stream import split_lines

RECORD = np.dtype([("low", "<u8"), ("high", "<u8"), ("number", "<u4"), ("held", "?")])
"""A document as the search for copies sees it: its hash, its number in the rank, whether it is to be held out."""


class DataStep(PipelineStep):  # type: ignore[misc]  # datatrove has no types
    """A step that loads the plan from its data folder. Only the name of the folder is pickled."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    @property
    def plan(self) -> TaskPlan:
        """Return the plan in the data folder."""
        return load_plan(Path(self.folder))

    def report(self, rank: int) -> SourceReport:
        """Return empty counts for a rank."""
        return SourceReport(fingerprint=self.plan.fingerprints[self.plan.ranks[rank].source])

    def write_report(self, rank: int, report: SourceReport) -> None:
        """Save the counts of this step for the final report."""
        write_json(self.plan.place("reports", type(self).__name__, f"{rank:05d}.json"), report.model_dump(mode="json"))

    def drop(self, report: SourceReport, item: Item, reason: str) -> None:
        """Count a dropped document, but not in files that are held out as a whole, as ``prepare`` does."""
        self.stat_update(StatHints.dropped, f"dropped_{reason}")
        if not item.metadata["heldout_only"]:
            report.language(item.metadata["language"]).drop(reason)


class Read(DataStep):
    """Reads the documents of a rank's files."""

    name = "Read"
    type = "📖 - READER"

    def run(self, data: Iterable[Item] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Item]:
        """Yield documents with ``language``, ``heldout_only`` (their file is) and ``held`` (they are)."""
        plan = self.plan
        work = plan.ranks[rank]
        source, cleaning = plan.recipe.sources[work.source], plan.recipe.cleaning
        for unit in work.units:
            for document in plan.documents(unit, work.source):
                self.stat_update(StatHints.total)
                held = unit.heldout_only or is_held_out(document, source, cleaning)
                metadata = {
                    "language": document.language, "heldout_only": unit.heldout_only, "held": held,
                    "source": work.source,
                }  # fmt: skip
                yield Item(document.text, document.id, metadata=metadata)


class Clean(DataStep):
    """Drops documents for the reasons of ``prepare.drop_reason``."""

    name = "Clean"
    type = "🔻 - FILTER"

    def run(self, data: Iterable[Item], rank: int = 0, world_size: int = 1) -> Iterator[Item]:
        """Yield the documents that are kept, and count the others."""
        cleaning = self.plan.recipe.cleaning
        report = self.report(rank)
        for item in data:
            self.stat_update(StatHints.total)
            report.language(item.metadata["language"])
            with self.track_time():
                document = Document(item.text, item.id, item.metadata["language"], item.metadata["source"])
                reason = drop_reason(document, cleaning)
            if reason is None:
                self.stat_update(StatHints.forwarded)
                yield item
            else:
                self.drop(report, item, reason)
        self.write_report(rank, report)


class Spill(DataStep):
    """Writes a rank's documents, and their hashes for the search of exact copies."""

    name = "Spill"
    type = "💽 - WRITER"

    def run(self, data: Iterable[Item], rank: int = 0, world_size: int = 1) -> None:
        """Write ``spill``, ``hashes`` and ``held`` of this rank."""
        plan = self.plan
        hashes = bytearray()
        held: list[list[Any]] = []
        flags = bytearray()
        with atomic_file(spill_path(plan, rank)) as file:
            compressor = zstandard.ZstdCompressor(level=1, write_checksum=True)
            with compressor.stream_writer(file, closefd=False) as stream:
                for number, item in enumerate(data):
                    self.stat_update(StatHints.total)
                    stream.write(orjson.dumps([item.id, item.text, item.metadata]) + b"\n")
                    hashes += text_hash(item.text)
                    flags.append(item.metadata["held"])
                    if item.metadata["held"]:
                        held.append([number, item.metadata["language"], len(item.text), item.metadata["heldout_only"]])
        records = np.empty(len(flags), dtype=RECORD)
        words = np.frombuffer(bytes(hashes), dtype="<u8").reshape(-1, 2)
        records["low"], records["high"] = words[:, 0], words[:, 1]
        records["number"] = np.arange(len(flags))
        records["held"] = np.frombuffer(bytes(flags), dtype=bool)
        for part in range(plan.partitions):
            save_array(
                plan.place("hashes", part, f"{rank:05d}.npy"), records[records["high"] % plan.partitions == part]
            )
        write_json(held_path(plan, rank), {"documents": len(flags), "held": held})


def spill_path(plan: TaskPlan, rank: int) -> Path:
    """Return the file of the documents that a rank has written for later stages."""
    return plan.place("spill", f"{rank:05d}.jsonl.zst")


def held_path(plan: TaskPlan, rank: int) -> Path:
    """Return the file with the number of these documents and the list of those to be held out."""
    return plan.place("spill", f"{rank:05d}.json")


def read_spill(plan: TaskPlan, rank: int) -> Iterator[Item]:
    """Yield the documents of a rank's spill file, in order."""
    with spill_path(plan, rank).open("rb") as file:
        for line in split_lines(zstandard.ZstdDecompressor().read_to_iter(file)):
            id, text, metadata = orjson.loads(line)
            yield Item(text, id, metadata=metadata)


def fresh_folder(plan: TaskPlan, name: str, rank: int) -> Path:
    """Return an empty folder for what a rank writes, without what an interrupted attempt left there."""
    folder = plan.place(name, rank)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def reports(plan: TaskPlan, source: str) -> SourceReport:
    """Return the counts of all steps and ranks of a source."""
    total = SourceReport(fingerprint=plan.fingerprints[source])
    for step in sorted(plan.place("reports").iterdir()):
        for rank in plan.sources[source]:
            path = step / f"{rank:05d}.json"
            if path.is_file():
                total.merge(SourceReport.model_validate(read_json(path)))
    total.sort()
    return total


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a NumPy file that is whole or absent."""
    with atomic_file(path) as file:
        np.save(file, array)
