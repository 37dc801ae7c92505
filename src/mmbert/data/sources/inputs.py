"""The files of a source in an order that does not depend on the machine, with the language of each."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from mmbert import languages
from mmbert.data.sources import mds
from mmbert.errors import ConfigError, DataError
from mmbert.files import read_json
from mmbert.io.find import find_files, packed
from mmbert.io.stream import open_file
from mmbert.recipe import Source

SUFFIXES = {
    "jsonl": (*packed(".jsonl", ".ndjson"), *packed(".json")[1:]),
    "text": packed(".txt"),
    "parquet": (".parquet",),
    "mds": mds.SUFFIXES,
}
"""What is read from a folder; a file or a glob may be named anything."""

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z]{2,4}([-_][A-Za-z]{4})?([-_]([A-Za-z]{2}|[0-9]{3}))?")


@dataclass(frozen=True, slots=True)
class Input:
    """One file of a source."""

    name: str
    """Relative to the source's folder, with ``/``: it names documents that bring no id."""
    path: str
    """For messages."""
    form: str
    """A key of ``SUFFIXES``."""
    language: str | None
    """Canonical code; None where each document names its own."""
    size: int
    """In bytes."""
    stamp: str
    """Changes when the content does."""
    open: Callable[[], BinaryIO]
    revision: str | None = None
    """The commit of a file on the hub; None for one on this machine."""
    shard: dict[str, Any] | None = None
    """What its ``index.json`` says of a shard of the form ``mds``."""

    def record(self) -> dict[str, Any]:
        """Return JSON values for ``mmbert.data.sources.hub_datasets.restore``."""
        return {field: getattr(self, field) for field in self.__dataclass_fields__ if field != "open"}


def local_inputs(source_name: str, source: Source, *, heldout: bool = False) -> list[Input]:
    """Return the files of ``source.path`` (or ``source.heldout``) on this machine, sorted by language and name.

    Raises DataError if there is none, or if a name gives no language.
    """
    place = source.heldout if heldout else source.path
    assert place is not None, "a source on disk has a path"
    option = f"sources.{source_name}.{'heldout' if heldout else 'path'}"
    root, paths = find_files(place, SUFFIXES[source.kind], option)
    entries: dict[str, mds.Entry] = {}
    if source.kind == "mds":
        entries = _entries(root, paths, complete=Path(place).is_dir())
        paths = [Path(path) for path in entries]
    inputs = []
    for path in paths:
        name = path.relative_to(root).as_posix()
        stat = path.stat()
        language = input_language(source_name, source, name, str(path))
        opener, stamp = partial(open_file, str(path)), str(stat.st_mtime_ns)
        entry = entries.get(str(path))
        inputs.append(Input(name, str(path), source.kind, language, stat.st_size, stamp, opener, shard=entry))
    return sorted(inputs, key=lambda input: (input.language or "", input.name))


def _entries(root: Path, paths: list[Path], *, complete: bool) -> dict[str, mds.Entry]:
    """Return the path of each shard to read with its entry in the ``index.json`` files beside and above the shards.

    complete  no shard that is listed may be missing
    """
    folders = {folder for path in paths for folder in path.parents if folder == root or root in folder.parents}
    indexes = [folder / mds.INDEX for folder in sorted(folders) if (folder / mds.INDEX).is_file()]
    known = mds.listed({str(path): read_json(path) for path in indexes})
    there = set(map(str, paths))
    return mds.choose(there, known if complete else {pair: known[pair] for pair in known if there & set(pair)})


def input_language(source_name: str, source: Source, name: str, path: str) -> str | None:
    """Return the language of a file by the source's options or its name; None if ``language_field`` tells it.

    ``fao_Latn.jsonl.gz`` by its name; else by the last folder that names a script, ``data/fao_Latn/train/0.parquet``.
    """
    if source.language is not None:
        return canonical_code(source.language, f"sources.{source_name}.language")
    if source.language_field is not None:
        return None
    *folders, file = PurePosixPath(name).parts
    stem = file.split(".")[0]
    candidates = [stem, *(folder for folder in reversed(folders) if "_" in folder or "-" in folder)]
    fix = f"name it as fao_Latn{file[len(stem) :]}"
    if file.endswith(mds.SUFFIXES):  # all are called shard, in a folder such as fao_Latn-tokenized-chunked-8192
        candidates = [folder.partition("-tokenized")[0] for folder in reversed(folders)] or [stem]
        fix = "put it into a folder named as fao_Latn"
    faults = []
    for candidate in candidates:
        try:
            return named_language(candidate)
        except ConfigError as error:
            faults.append(str(error))
    raise DataError(
        f"{path}: the file's name gives no language ({faults[0]}): {fix}, "
        f"or set sources.{source_name}.language or .language_field"
    )


def named_language(name: str) -> str:
    """Return the canonical code that a file or folder name is. Raises ConfigError, also for ``fra_Latn_removed``."""
    language = _normalise(name)
    if not _NAME.fullmatch(languages.expand(name) if "-" in name or "_" in name else name):
        raise ConfigError(f"{name!r} says more than a language, its script and its country")
    return language


def canonical_code(code: str, where: str) -> str:
    """Return ``languages.normalise(code)``. Raises DataError with the place of a wrong code."""
    try:
        return _normalise(code)
    except ConfigError as error:
        raise DataError(f"{where}: {error}") from error


@cache
def _normalise(code: str) -> str:
    canonical = languages.normalise(code)
    if (other := languages.other_meaning(code)) is not None:
        meant, also = languages.name(canonical), languages.name(other)
        log.warning(
            "%s is read as %s (ISO 639-3); for Wikipedia's %s, which is %s, write %s", code, meant, code, also, other
        )
    return canonical
