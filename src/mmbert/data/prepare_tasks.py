"""The tasks of preparing a source, and the fingerprint of everything on which their result depends."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from mmbert.data.document import Document
from mmbert.data.ids import holds_ids
from mmbert.data.langid import model_hash
from mmbert.data.sources import catalogs
from mmbert.data.sources.inputs import Input
from mmbert.data.sources.read import read_inputs, source_inputs
from mmbert.files import write_text
from mmbert.io.stream import Advance
from mmbert.recipe import Cleaning, Source

_FORM = 1
"""Raised when the same input would give other text: what was prepared before is then prepared again."""
_TASK = 32 << 20
"""Bytes of input, as stored, of the languages that are finished together."""
_LATER: dict[str, dict[str, Any]] = {
    "source": {"ids_field": "input_ids", "skip_bad_rows": False},
    "cleaning": {"language_id": None, "near_duplicates": None},
}
"""Options that came later and their defaults, which are left out: what was prepared before them stays as it is."""


@dataclass(frozen=True)
class PrepareTask:
    """A part of a source that is finished as a whole. Tasks of a source share no language except in held-out text."""

    name: str
    documents: Callable[[Advance], Iterator[Document]]
    size: int
    """Bytes of input, for the progress bar."""
    heldout_only: bool = False
    """All of it is held out."""
    inputs: tuple[Input, ...] = ()
    """The files it reads, one after the other; none for catalogs."""


class Work(NamedTuple):
    """The work on one source."""

    tasks: list[PrepareTask]
    """In order, held-out text first; none for a source of token ids, which has no text."""
    fingerprint: str
    ids: tuple[Input, ...] = ()
    """The files of a source of token ids."""


def plan_work(name: str, source: Source, cleaning: Cleaning, folder: Path) -> Work:
    """Plan the work on one source. Raises DataError if its files are missing or their languages unknown."""
    wanted = text_options(source, cleaning)
    # A source or a model may move, and a recipe be told so: what counts are the files found.
    wanted["source"] = {key: value for key, value in wanted["source"].items() if key not in ("path", "heldout")}
    if cleaning.language_id is not None:
        wanted["cleaning"]["language_id"] |= {"model": model_hash(cleaning.language_id.model)}
    ids: tuple[Input, ...] = ()
    if source.kind == "catalogs":
        wanted["packages"] = catalogs.package_versions(source.packages)
        tasks = _catalog_tasks(name, source, cleaning, folder)
    else:
        inputs = source_inputs(name, source)
        heldout_only = source_inputs(name, source, heldout=True) if source.heldout is not None else []
        wanted["inputs"] = [[(f.name, f.language, f.size, f.stamp) for f in files] for files in (inputs, heldout_only)]
        if holds_ids(name, source, inputs):
            ids, tasks = tuple(inputs), []
        else:
            tasks = [input_task("heldout", name, source, heldout_only, heldout_only=True)] if heldout_only else []
            tasks += [input_task(f"{i:05d}", name, source, files) for i, files in enumerate(_runs(inputs))]
    return Work(tasks, hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16], ids)


def text_options(source: Source, cleaning: Cleaning) -> dict[str, Any]:
    """Return the options on which the prepared text depends, besides the files."""
    options: dict[str, Any] = {"form": _FORM}
    for key, spec in (("source", source), ("cleaning", cleaning)):
        later = _LATER[key]
        values = spec.model_dump(mode="json")
        options[key] = {name: value for name, value in values.items() if name not in later or value != later[name]}
    return options


def input_task(
    name: str, source_name: str, source: Source, inputs: list[Input], *, heldout_only: bool = False
) -> PrepareTask:
    """Return the task of reading some files."""

    def documents(advance: Advance) -> Iterator[Document]:
        return read_inputs(source_name, source, inputs, advance)

    return PrepareTask(name, documents, sum(file.size for file in inputs), heldout_only, tuple(inputs))


def _catalog_tasks(name: str, source: Source, cleaning: Cleaning, folder: Path) -> list[PrepareTask]:
    parts: list[tuple[catalogs.Catalogs, catalogs.Catalogs]] = []

    def split() -> tuple[catalogs.Catalogs, catalogs.Catalogs]:
        if not parts:
            parts.append(catalogs.split(catalogs.load_catalogs(source.packages), cleaning.holdout))
        return parts[0]

    def heldout(advance: Advance) -> Iterator[Document]:
        _write_pairs(folder / "parallel", split()[1])
        for language, messages in split()[1].items():
            yield from catalogs.documents(name, language, messages)
        advance(1)

    def kept(advance: Advance) -> Iterator[Document]:
        for language, messages in split()[0].items():
            yield from catalogs.documents(name, language, messages)
        advance(1)

    return [PrepareTask("heldout", heldout, 1, heldout_only=True), PrepareTask("00000", kept, 1)]


def _write_pairs(folder: Path, messages: catalogs.Catalogs) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for language, found in messages.items():
        lines = [json.dumps(pair._asdict(), ensure_ascii=False) for pair in catalogs.pairs(found)]
        if lines:
            write_text(folder / f"{language}.jsonl", "\n".join(lines) + "\n")


def _runs(inputs: list[Input]) -> Iterator[list[Input]]:
    """Group whole languages until they have ``_TASK`` bytes. Files that mix languages stay together."""
    run: list[Input] = []
    for _, files in groupby(inputs, key=lambda file: file.language):
        run += files
        if sum(file.size for file in run) >= _TASK and run[0].language is not None:
            yield run
            run = []
    if run:
        yield run
