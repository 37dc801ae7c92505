"""Damaged shards that a run leaves out: ``bad_shards.json`` in the folder of the run.

With ``runtime.on_bad_shard: skip`` a damaged shard, found by the check before the first step or later by its reader, is
left out from the step on at which it was found: its blocks are empty, and every other draw keeps its position. So the
order of data is still a function, of the recipe, the cursor and this file. A resumed run leaves out the same shards
from the same steps on, even if they have been repaired since or ``on_bad_shard`` is now ``stop``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mmbert.data.manifest import Manifest
from mmbert.errors import BadShard, DataError
from mmbert.files import read_json, write_json

log = logging.getLogger(__name__)

FILE = "bad_shards.json"
VERSION = 1


class LeftOut(BaseModel):
    """A shard that a run leaves out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    """Relative to the folder of shards."""
    documents: int
    tokens: int
    fault: str
    phase: str | None = None
    """The phase in which it was found, None before any: other phases leave it out altogether."""
    draw: int = 0
    """Where in that phase the first step without it begins, as in a cursor."""
    offset: int = 0


class _BadShardList(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    shards: tuple[LeftOut, ...] = ()


class BadShards:
    """The shards that the run in ``folder`` leaves out. Raises DataError if their list is damaged."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._record = _BadShardList()
        if self._path.is_file():
            try:
                self._record = _BadShardList.model_validate(read_json(self._path))
            except ValidationError as error:
                raise DataError(f"{self._path} is damaged: restore it, or begin the run in another --out") from error

    @property
    def shards(self) -> tuple[LeftOut, ...]:
        """Return all bad shards, in the order in which they were found."""
        return self._record.shards

    def at(self, phase: str, draw: int, offset: int) -> frozenset[str]:
        """Return the files that the step of a phase which begins here is trained without."""
        here = (draw, offset)
        return frozenset(s.file for s in self.shards if s.phase != phase or (s.draw, s.offset) <= here)

    def add(self, found: Sequence[LeftOut]) -> None:
        """Add bad shards; they are on disk when this returns."""
        self._record = _BadShardList(shards=(*self.shards, *found))
        write_json(self._path, self._record.model_dump(mode="json"))
        for shard in found:
            log.warning("left out: %s; %d documents, %d tokens", shard.fault, shard.documents, shard.tokens)


def record_bad_shards(shards: Path, run: Path, *, verify: bool, skip: bool) -> None:
    """Look at every shard before training: at its length, with ``verify`` at its contents.

    skip  whether damaged ones are left out of the run in the folder ``run``
    Raises BadShard for the first damaged one that is not left out.
    """
    manifest, known = Manifest.read(shards), BadShards(run)
    passed = frozenset(shard.file for shard in known.shards)
    if known.shards:
        tokens = sum(shard.tokens for shard in known.shards)
        log.warning("%s: %d shards with %d tokens are left out, see %s", run, len(passed), tokens, run / FILE)
    found = []
    for shard, error in manifest.find_bad(shards, verify=verify, without=passed):
        if not skip:
            raise advised(error)
        found.append(LeftOut(file=shard.file, documents=shard.documents, tokens=shard.tokens, fault=error.fault))
    if found:
        known.add(found)


def advised(error: BadShard) -> BadShard:
    """Return the same error with the advice to go on without the shard."""
    return BadShard(error.path, error.fault, f"{error.fix}, or go on without it: runtime.on_bad_shard=skip")
