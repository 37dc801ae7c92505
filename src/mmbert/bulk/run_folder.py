"""The folder of a bulk run: ``run.json``, a Parquet file for each shard, ``_rejected/`` with the rows left out.

A result says in its footer which shard it was made from and by which run, so that the same command computes what is
missing only, and refuses a folder of another model, of other options or of another input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from mmbert.bulk.jobs import Job
from mmbert.bulk.places import ResultFolder, Shard
from mmbert.bulk.shard_worker import REJECTED, result_name
from mmbert.bulk.shard_writer import FOOTER
from mmbert.errors import ConfigError, DataError, first_line
from mmbert.io.rows import import_pyarrow

MANIFEST = "run.json"

RANGES = "ranges.npy"
"""Value ranges of int8 and uint8, which are written before the manifest."""

_FREE = ("model", "mmbert", "complete", "files", "rows", "rejected", "tokens")
"""Keys of the manifest that may differ: the model is told by its hash."""


@dataclass
class RunFolder:
    """The results in a folder, and what is to be made."""

    folder: ResultFolder
    shards: list[Shard]
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name of a shard -> what the footer of its result says."""

    def claim(self, stated: dict[str, Any]) -> str:
        """Write the manifest, or check it against ``stated``, or as much as is known. Return the id of the run.

        Raises ConfigError for a folder that was begun with other options, another model or other inputs.
        """
        found = self.manifest()
        changed = [key for key in stated if key in found and key not in _FREE and found[key] != stated[key]]
        if changed:
            key = changed[0]
            raise ConfigError(
                f"{self.folder.place} was begun with {key} {found[key]!r}, now it is {stated[key]!r}: finish it as it "
                "was begun, or choose another folder"
            )
        there = [name for name in self.folder.names() if not name.startswith(".") and name != RANGES]
        if there and not found:
            raise ConfigError(
                f"{self.folder.place} has no {MANIFEST} but other files ({sorted(there)[0]}): choose another folder"
            )
        return _hash({key: value for key, value in (found | stated).items() if key not in _FREE})

    def manifest(self) -> dict[str, Any]:
        """Return ``run.json``, {} if there is none."""
        if MANIFEST not in self.folder.names():
            return {}
        found = self.folder.read_json(MANIFEST)
        if not isinstance(found, dict):
            raise DataError(f"{self.folder.place}/{MANIFEST} is no JSON object: delete it or restore it")
        return found

    def find_done(self) -> list[Shard]:
        """Note what is done, and return the other shards.

        Raises ConfigError for a result of a shard that changed since, or of none of the shards.
        """
        by_result = {result_name(shard.name): shard for shard in self.shards}
        if len(by_result) < len(self.shards):
            names = [result_name(shard.name) for shard in self.shards]
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigError(f"two files of the input would be written to {self.folder.place}/{twice}: rename one")
        results = [name for name in self.folder.names() if name.endswith(".parquet") and not name.startswith(REJECTED)]
        for name in sorted(results):
            footer, shard = self._footer(name), by_result.get(name)
            if shard is None:
                raise ConfigError(f"{self.folder.place}/{name} belongs to no file of the input: delete it")
            if footer is None:
                continue
            if [footer["size"], footer["stamp"]] != [shard.size, shard.stamp]:
                raise ConfigError(f"{shard.place} changed since {self.folder.place}/{name} was made: delete that file")
            self.done[shard.name] = footer
        return [shard for shard in self.shards if shard.name not in self.done]

    def check_done(self, job_id: str) -> None:
        """Raise ConfigError for a result that another run made."""
        for name, footer in self.done.items():
            if footer["job"] != job_id:
                place = f"{self.folder.place}/{result_name(name)}"
                raise ConfigError(f"{place} was made by a run with other options or another model: delete it")

    def write(self, record: dict[str, Any], *, complete: bool) -> None:
        """Write the manifest, with the sums over all results."""
        sums = {key: sum(footer[key] for footer in self.done.values()) for key in ("rows", "rejected", "tokens")}
        self.folder.write_json(MANIFEST, {**record, "complete": complete, "files": len(self.done), **sums})

    def _footer(self, name: str) -> dict[str, Any] | None:
        """Return what a result says of itself; None for a damaged one, which is made again."""
        arrow = import_pyarrow()
        try:
            with self.folder.open(name) as file:
                metadata = arrow.parquet.read_metadata(file).metadata or {}
        except (arrow.ArrowException, OSError):
            return None
        try:
            footer: dict[str, Any] = orjson.loads(metadata[FOOTER])
            return footer
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"{self.folder.place}/{name} was not made by a bulk run ({first_line(error)}): choose another folder"
            ) from error


def record_of(job: Job, inputs: Iterable[str], id_field: str, keep: tuple[str, ...]) -> dict[str, Any]:
    """Return what the manifest says before a model is loaded."""
    return {
        "format": 1, "command": job.name, "model": job.model, "inputs": sorted(inputs), **job.options(),
        "id_field": id_field, "keep": list(keep),
    }  # fmt: skip


def _hash(values: dict[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(values, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
