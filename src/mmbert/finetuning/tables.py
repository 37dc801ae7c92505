"""Examples in files on this machine: which files a split has, in which language, and their rows with their places."""

from __future__ import annotations

import csv
import difflib
import glob
import gzip
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO

import zstandard

from mmbert import languages
from mmbert.errors import ConfigError, DataError, MissingExtra
from mmbert.finetuning.recipe_data import DataSpec

SPLITS = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}
"""Names that a file of a split may have, the likeliest first."""

SUFFIXES = (
    *(f".{form}{packed}" for form in ("jsonl", "json", "csv", "tsv") for packed in ("", ".gz", ".zst")),
    ".parquet",
)

_CODE = re.compile(r"[a-z]{2,3}[_-][A-Z][a-z]{3}")
"""A language with its script: sure enough to be read out of a file's name."""

_JSON_LIST = 64
"""Bytes of a .json file that are looked at for a list instead of lines."""


@dataclass(frozen=True)
class Table:
    """A file of rows and the house code of their language; None where nothing tells it."""

    path: Path
    language: str | None


def find_tables(spec: DataSpec, role: str) -> list[Table]:
    """The files of ``data.<role>``, sorted. Raises DataError naming what is not there, with the cure."""
    assert spec.path is not None, "a spec of files has a path"
    place, option = Path(spec.path), f"data.{role}.path"
    if place.is_dir():
        return _in_folder(place, spec, role)
    if place.is_file():
        paths = [place]
    else:
        paths = sorted(Path(found) for found in glob.glob(spec.path, recursive=True) if Path(found).is_file())
        if not paths:
            raise DataError(f"no file or folder {place.absolute()}: set {option}")
    for path in paths:
        if not path.name.lower().endswith(SUFFIXES):
            raise DataError(f"{path}: not a form that is read ({', '.join(SUFFIXES)}): convert it, or set {option}")
    tables = [Table(path, _stated(spec, role) or _of_name(path)) for path in paths]
    wanted = [house(code, f"data.{role}.languages") for code in spec.languages]
    kept = [
        table for table in tables if not wanted or table.language is None or languages.matches(table.language, wanted)
    ]
    if not kept:
        raise DataError(f"none of {place} is in {', '.join(wanted)}: check data.{role}.languages")
    return kept


def read_table(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file, each with its number: of the line, in Parquet of the row. Raises DataError."""
    name = path.name.lower()
    if name.endswith(".parquet"):
        yield from _parquet(path)
        return
    bare = name.removesuffix(".gz").removesuffix(".zst")
    try:
        if bare.endswith((".csv", ".tsv")):
            with io.TextIOWrapper(_open(path), encoding="utf-8-sig", newline="") as text:
                yield from _separated(path, text, "\t" if bare.endswith(".tsv") else ",")
        elif bare.endswith(".json") and _is_list(path):
            with io.TextIOWrapper(_open(path), encoding="utf-8") as text:
                yield from _list(path, text)
        else:
            with io.TextIOWrapper(_open(path), encoding="utf-8") as text:
                yield from _lines(path, text)
    except (OSError, EOFError, zstandard.ZstdError) as error:
        raise DataError(f"{path} cannot be read ({error}): copy it again") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason}): convert it") from error


def house(code: str, where: str) -> str:
    """House code of a language. Raises DataError with the place."""
    try:
        return languages.normalise(code)
    except ConfigError as error:
        raise DataError(f"{where}: {error}") from error


def _in_folder(folder: Path, spec: DataSpec, role: str) -> list[Table]:
    """``<language>/<split>.*`` or ``<split>.*``."""
    names = (spec.split,) if spec.split is not None else SPLITS.get(role, (role,))
    here = _split_file(folder, names)
    if here is not None:
        return [Table(here, _stated(spec, role))]
    found: dict[str, Path] = {}
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        path = _split_file(inner, names)
        if path is not None:
            found[house(inner.name, f"folder {inner} of data.{role} is not named as a language")] = path
    if not found:
        raise DataError(
            f"{folder} has no {names[0]}.jsonl (or {', '.join(SUFFIXES[1:])}), neither in itself nor in folders named "
            f"as languages: set data.{role}.path or data.{role}.split"
        )
    if not spec.languages:
        return [Table(path, code) for code, path in found.items()]
    return [Table(_known(found, code, folder, role), house(code, f"data.{role}.languages")) for code in spec.languages]


def _known(found: dict[str, Path], code: str, folder: Path, role: str) -> Path:
    wanted = house(code, f"data.{role}.languages")
    fitting = [known for known in found if languages.matches(known, [wanted])]
    if len(fitting) == 1:
        return found[fitting[0]]
    near = difflib.get_close_matches(wanted, found, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(list(found)[:12])}"
    raise DataError(f"{folder} has no {role} split in {code}: {hint} (data.{role}.languages)")


def _split_file(folder: Path, names: tuple[str, ...]) -> Path | None:
    for name in names:
        for suffix in SUFFIXES:
            if (folder / f"{name}{suffix}").is_file():
                return folder / f"{name}{suffix}"
    return None


def _stated(spec: DataSpec, role: str) -> str | None:
    return None if spec.language is None else house(spec.language, f"data.{role}.language")


def _of_name(path: Path) -> str | None:
    """The language that the file's name or its folder's tells: ``swh_Latn.jsonl``, ``swh_Latn/train.jsonl``."""
    for name in (path.name.split(".")[0], path.parent.name):
        if _CODE.fullmatch(name):
            return house(name, str(path))
    return None


def _open(path: Path) -> BinaryIO:
    if path.name.endswith(".gz"):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.name.endswith(".zst"):
        return io.BufferedReader(zstandard.open(path, "rb"))
    return path.open("rb")


def _is_list(path: Path) -> bool:
    with _open(path) as raw:
        return raw.read(_JSON_LIST).lstrip().startswith(b"[")


def _list(path: Path, text: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    """One list of objects; rows are numbered."""
    try:
        rows = json.load(text)
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}): mend it") from error
    yield from ((number, _object(path, number, row)) for number, row in enumerate(rows, 1))


def _lines(path: Path, text: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    """An object a line."""
    for number, line in enumerate(text, 1):
        if line.isspace():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not JSON ({error}): mend or remove the line") from error
        yield number, _object(path, number, row)


def _object(path: Path, number: int, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{path}:{number}: not an object with named fields: mend or remove it")
    return row


def _separated(path: Path, text: TextIO, comma: str) -> Iterator[tuple[int, dict[str, Any]]]:
    # in TSV a quotation mark is mostly text; in CSV it encloses
    quoting: Literal[0, 3] = csv.QUOTE_NONE if comma == "\t" else csv.QUOTE_MINIMAL
    reader = csv.DictReader(text, delimiter=comma, quoting=quoting, restkey="")
    try:
        for row in reader:
            if "" in row or None in row.values():
                columns = len(reader.fieldnames or ())
                raise DataError(
                    f"{path}:{reader.line_num}: {'more' if '' in row else 'fewer'} values than the {columns} columns "
                    f"of its first line: mend the line (separator {comma!r})"
                )
            yield reader.line_num, dict(row)
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}: mend the line") from error


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "finetune") from error
    try:
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches(1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not Parquet ({str(error).splitlines()[0]}): copy it again") from error
