"""Examples in files on this machine: which files a split has, and in which language."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mmbert import languages
from mmbert.errors import ConfigError, DataError
from mmbert.finetuning.recipe_data import DataSpec
from mmbert.io.find import find_files, is_hidden, walk
from mmbert.io.row_errors import Numbered, RowFaults
from mmbert.io.rows import TABLES, TEXTS, read_rows
from mmbert.io.rows import Choose as Columns

SPLITS = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}
"""Names that a file of a split may have, the likeliest first."""

FORMS = (*TABLES, *TEXTS)
"""Endings of files with examples. Lines of text have no labels: a teacher gives them."""

_CODE = re.compile(r"[a-z]{2,3}[_-][A-Z][a-z]{3}")
"""A language with its script: sure enough to be read out of a file's name."""


@dataclass(frozen=True)
class Table:
    """A file of rows and the canonical code of their language; None where it is unknown."""

    path: Path
    language: str | None
    names: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Files do not declare classes, as data sets of the hub do."""

    @property
    def place(self) -> str:
        """For messages."""
        return str(self.path)

    def read(self, faults: RowFaults, choose: Columns) -> Iterator[Numbered]:
        """Yield (number, row) with the columns that are chosen."""
        return read_rows(self.path, faults, choose)


def find_tables(spec: DataSpec, role: str) -> list[Table]:
    """Return the files of ``data.<role>``, sorted. Raises DataError naming what is not there, and the fix."""
    assert spec.path is not None, "a spec of files has a path"
    place, option = Path(spec.path), f"data.{role}.path"
    if place.is_dir():
        return _in_folder(place, spec, role)
    _, paths = find_files(spec.path, FORMS, option)
    for path in paths:
        if not path.name.lower().endswith(FORMS):
            raise DataError(f"{path}: not a form that is read ({', '.join(FORMS)}): convert it, or set {option}")
    tables = [Table(path, _stated(spec, role) or _of_name(path)) for path in paths]
    wanted = [canonical(code, f"data.{role}.languages") for code in spec.languages]
    kept = [
        table for table in tables if not wanted or table.language is None or languages.matches(table.language, wanted)
    ]
    if not kept:
        raise DataError(f"none of {place} is in {', '.join(wanted)}: check data.{role}.languages")
    return kept


def canonical(code: str, where: str) -> str:
    """Return the canonical code of a language. Raises DataError with the place."""
    try:
        return languages.normalise(code)
    except ConfigError as error:
        raise DataError(f"{where}: {error}") from error


def _in_folder(folder: Path, spec: DataSpec, role: str) -> list[Table]:
    """Return the files ``<language>/<split>.*`` or ``<split>.*`` of a folder."""
    names = (spec.split,) if spec.split is not None else SPLITS.get(role, (role,))
    here = _split_file(folder, names)
    if here is not None:
        return [Table(here, _stated(spec, role))]
    found: dict[str, Path] = {}
    for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)):
        path = _split_file(inner, names)
        if path is not None:
            found[canonical(inner.name, f"folder {inner} of data.{role} is not named as a language")] = path
    if not found:
        raise DataError(
            f"{folder} has no {names[0]}.jsonl (or {', '.join(FORMS[1:])}), neither in itself nor in folders named "
            f"as languages: set data.{role}.path or data.{role}.split"
        )
    if not spec.languages:
        return [Table(path, code) for code, path in found.items()]
    return [
        Table(_known(found, code, folder, role), canonical(code, f"data.{role}.languages")) for code in spec.languages
    ]


def _known(found: dict[str, Path], code: str, folder: Path, role: str) -> Path:
    wanted = canonical(code, f"data.{role}.languages")
    fitting = [known for known in found if languages.matches(known, [wanted])]
    if len(fitting) == 1:
        return found[fitting[0]]
    near = difflib.get_close_matches(wanted, found, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(list(found)[:12])}"
    raise DataError(f"{folder} has no {role} split in {code}: {hint} (data.{role}.languages)")


def _split_file(folder: Path, names: tuple[str, ...]) -> Path | None:
    there = {path.name.lower(): path for path in walk(folder, FORMS, deep=False)}
    wanted = (f"{name}{suffix}".lower() for name in names for suffix in FORMS)
    return next((there[name] for name in wanted if name in there), None)


def _stated(spec: DataSpec, role: str) -> str | None:
    return None if spec.language is None else canonical(spec.language, f"data.{role}.language")


def _of_name(path: Path) -> str | None:
    """Return the language in the name of a file or its folder: ``swh_Latn.jsonl``, ``swh_Latn/train.jsonl``."""
    for name in (path.name.split(".")[0], path.parent.name):
        if _CODE.fullmatch(name):
            return canonical(name, str(path))
    return None
