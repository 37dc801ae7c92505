"""From text to shards by many tasks: each part of the text becomes one shard, in whichever task.

Text that was prepared before by ``mmbert data prepare`` is tokenised language by language, token ids part by part.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mmbert.data.distributed.pipeline_steps import DataStep
from mmbert.data.distributed.task_plan import TaskPlan, plan_path
from mmbert.data.distributed.text_files import PART, TextPart, parts_of
from mmbert.data.ids import IdReader, shard_inputs
from mmbert.data.prepare import prepare_data
from mmbert.data.shard import MAX_TOKENS, Shard, write_shard
from mmbert.data.sources.read import read
from mmbert.data.store import SUFFIX, Report
from mmbert.data.tokenize import encode, finish_stream, source_ids
from mmbert.errors import DataError
from mmbert.recipe import Source
from mmbert.tokenizer.tokenizer import Tokenizer


class Job(NamedTuple):
    """A shard to make, or a stream of them."""

    size: int
    """Bytes of input."""
    path: Path | None
    """The shard; None for a stream."""
    info: dict[str, Any]
    make: Callable[[], object]


class Tokenise(DataStep):
    """Makes shards; each task makes some of them."""

    name = "Tokenise"
    type = "🔢 - TOKENIZER"

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> None:
        """Make the shards of this task that are not there."""
        plan = self.plan
        tokenizer = Tokenizer.load(plan.folder / "tokenizer")
        jobs = sorted(_jobs(plan, tokenizer), key=lambda job: -job.size)  # large ones first, dealt out in turn
        for job in jobs[rank::world_size]:
            if job.path is None or not _is_made(job.path, job.info):
                with self.track_time():
                    job.make()
                self.stat_update("shards")


def _is_made(path: Path, info: dict[str, Any]) -> bool:
    try:
        there = Shard.open(path).info
    except DataError:
        return False
    return all(there.get(key) == value for key, value in info.items())


def _jobs(plan: TaskPlan, tokenizer: Tokenizer) -> list[Job]:
    """Return all shards to make, the same list in every task."""
    jobs: list[Job] = []
    for name, source in Report.load(plan.folder).sources.items():
        info = {"source": name, "tokenizer": tokenizer.fingerprint, "text": source.fingerprint}
        place = plan.folder / "shards" / name
        if name in plan.fingerprints:
            jobs += _text_jobs(plan, tokenizer, info)
            continue
        for language, counts in source.languages.items():
            if counts.documents:
                stream = {**info, "language": language}
                make = partial(finish_stream, plan.folder, tokenizer, stream, counts, MAX_TOKENS, lambda size: None)
                jobs.append(Job(counts.bytes, None, stream, make))
        reader = IdReader(plan.recipe.sources[name], tokenizer)
        for part in shard_inputs(source_ids(plan.recipe.sources[name], plan.folder, name)):
            stream = {**info, "language": part.language}
            size = sum(file.size for file in part.inputs)
            path = place / part.language / f"{part.number:05d}.tokens"
            jobs.append(Job(size, path, stream, partial(reader.write, part, path.parent, stream)))
    return jobs


def _text_jobs(plan: TaskPlan, tokenizer: Tokenizer, info: dict[str, Any]) -> list[Job]:
    """Return the shards of one source: parts of a language together, up to ``PART`` bytes."""
    found: dict[str, list[list[tuple[int, TextPart]]]] = {}
    for rank, part in parts_of(plan, info["source"]):
        groups = found.setdefault(part.language, [])
        if not groups or sum(other.bytes for _, other in groups[-1]) + part.bytes > PART:
            groups.append([])
        groups[-1].append((rank, part))
    jobs = []
    for language, groups in found.items():
        place = plan.folder / "shards" / info["source"] / language
        for number, group in enumerate(groups):
            files = [plan.place("parts", rank, part.file + SUFFIX) for rank, part in group]
            stream = {**info, "language": language, "last": number == len(groups) - 1}
            path = place / f"{number:05d}.tokens"
            size = sum(part.bytes for _, part in group)
            jobs.append(Job(size, path, stream, partial(_write_shard, path, files, tokenizer, stream)))
    return jobs


def _write_shard(path: Path, files: list[Path], tokenizer: Tokenizer, info: dict[str, Any]) -> None:
    """Tokenise some files of text into one shard."""
    found = (
        document
        for file in files
        for document in read(info["source"], Source(kind="jsonl", path=str(file), language=info["language"]))
    )
    rows, characters, size = [], 0, 0
    for text, ids in encode(found, tokenizer):
        rows.append(ids)
        characters += len(text)
        size += len(text.encode())
    last = info["last"]
    bare = {key: value for key, value in info.items() if key != "last"}
    write_shard(path, rows, {**bare, "characters": characters, "bytes": size, "last": last})


class WriteManifest(DataStep):
    """Completes what is missing, writes the manifest and removes intermediate files; one task."""

    name = "Manifest"
    type = "✅ - REPORT"

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> None:
        """Run ``prepare_data``, which finds its work done and writes the manifest."""
        plan = self.plan
        prepare_data(plan.recipe, plan.folder)
        shutil.rmtree(plan.place(), ignore_errors=True)
        plan_path(plan.folder).unlink()
