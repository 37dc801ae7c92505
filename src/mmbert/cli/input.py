"""What commands read: lines of text or JSON of a file or standard input, and the records of an index."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from mmbert.errors import ConfigError, DataError
from mmbert.io.find import bare_name, packed, walk
from mmbert.io.row_errors import RowFaults
from mmbert.io.rows import json_rows, read_rows
from mmbert.io.stream import BOM, decode, open_file, read_lines, read_text

STDIN = "-"

_FILE_NAME = re.compile(r"\S+\.(txt|text|md|jsonl?|ndjson|csv|tsv|parquet)(\.gz|\.zst)?", re.IGNORECASE)


@dataclass(frozen=True)
class Line:
    """One line of input: its place for messages, its text or JSON object, and its number from 1."""

    where: str
    value: str | dict[str, Any]
    number: int

    def field(self, name: str, option: str) -> Any:
        """Return a field of the object. Raises DataError that names the option which chooses the field."""
        if isinstance(self.value, str):
            raise DataError(f"{self.where} is not a JSON object: this command takes lines with a field {name!r}")
        if name not in self.value:
            there = ", ".join(map(str, self.value)) or "none"
            raise DataError(f"{self.where} has no field {name!r} (it has {there}): choose it with {option}")
        return self.value[name]

    def text(self, name: str = "text", option: str = "--text-field") -> str:
        """Return the line itself, or its field ``name``. Raises DataError for a field that is not valid text."""
        found = self.value if isinstance(self.value, str) else self.field(name, option)
        if not isinstance(found, str):
            raise DataError(f"{self.where}: {name} is {type(found).__name__}, not text: choose the field with {option}")
        if isinstance(self.value, dict):
            try:
                found.encode()
            except UnicodeEncodeError as error:
                place = f"holds a lone surrogate at character {error.start}"
                raise DataError(f"{self.where}: {name} {place}: decode it as UTF-8 first") from error
        return found

    def key(self, name: str = "id") -> Any:
        """Return the id of the line (1 for 1.0), or None. Raises DataError for an id that JSON cannot represent."""
        found = self.value.get(name) if isinstance(self.value, dict) else None
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        try:
            orjson.dumps(found)
        except TypeError as error:
            raise DataError(f"{self.where}: its {name} cannot be written as JSON ({error})") from error
        return found


def open_lines(
    path: str, *, objects: bool = False, faults: RowFaults | None = None, text_option: str | None = None
) -> Iterator[Line]:
    """Yield the lines of a file, plain or compressed, or of standard input (``-``). Only ``\\n`` ends a line.

    Lines are JSON objects if ``objects`` is set, if the file is ``.jsonl`` or ``.ndjson``, or if the first line that is
    not blank is an object; blank lines between objects are skipped. The rows of .csv, .tsv, .json and .parquet files
    are objects too.
    Raises DataError: immediately if the file does not exist, later with file and line unless ``faults`` skips the row.
    """
    if path != STDIN and not _is_file(path):
        hint = f" (a text itself is given as {text_option} TEXT)" if text_option else ""
        raise DataError(f"{path} is a folder, not a file" if os.path.isdir(path) else f"no such file: {path}{hint}")
    return _lines(path, objects, faults or RowFaults(path))


def text_lines(source: str, texts: Iterable[str], option: str = "--text") -> Iterator[Line]:
    """Return texts of the command line as lines. Raises ConfigError if there is also a file, or if a text names one."""
    if source != STDIN:
        raise ConfigError(f"{source} and {option} are two inputs: give one of them")
    given = [text_given(text, option, "FILE as an argument, without the option") for text in texts]
    return iter([Line(f"{option} {number}", text, number) for number, text in enumerate(given, 1)])


def text_given(text: str, option: str, instead: str) -> str:
    """Return the text of an option. Raises ConfigError if it is the name of a file or looks like one."""
    if _FILE_NAME.fullmatch(text) or _is_file(text):
        raise ConfigError(f"{option} takes the text itself, and {text} looks like a file: give {instead}")
    return text


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # too long for a file name, or with a null character: it is a text
        return False


def _lines(path: str, objects: bool, faults: RowFaults) -> Iterator[Line]:
    name, suffix = "stdin" if path == STDIN else path, Path(bare_name(path)).suffix
    if suffix in (".csv", ".tsv", ".json", ".parquet"):
        rows = read_rows(path, faults)
    else:
        lines = read_lines(partial(_open, path), name)
        begin: list[bytes] = []  # up to the first line that is not blank: it decides whether lines are text or JSON
        if not objects and suffix not in (".jsonl", ".ndjson"):
            begin = list(_until_text(lines))
            if not begin or not _is_object(begin[-1]):
                yield from _texts(chain(begin, lines), name, faults)
                return
        rows = json_rows(chain(begin, lines), name, faults)
    for number, row in rows:
        yield Line(f"{name}:{number}", row, number)


def _texts(lines: Iterable[bytes], name: str, faults: RowFaults) -> Iterator[Line]:
    for number, line in enumerate(lines, 1):
        try:
            text = decode(line, name, number).removesuffix("\r")
        except DataError as error:
            faults.add(error)
            continue
        yield Line(f"{name}:{number}", text, number)


def _until_text(lines: Iterator[bytes]) -> Iterator[bytes]:
    for line in lines:
        yield line
        if line.strip():
            return


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line.removeprefix(BOM.encode())), dict)
    except (ValueError, RecursionError):
        return False


def _open(path: str) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdin.buffer) if path == STDIN else open_file(path)


_TEXT_FILES = (".txt", ".text", ".md")
_LINE_FILES = (".jsonl", ".ndjson")


def read_records(
    paths: list[str], text_field: str, id_field: str, skip_bad_rows: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield the records of files and folders for an index, in their order.

    Each line is a record whose id is its place (``FILE:NUMBER``); blank lines are skipped. In a JSON object or a table
    row one field is the text, one the id (default: the place), and all others are metadata. In a folder, at any depth,
    each text file is a record whose id is its relative path, and each file of JSON lines is read like a file.
    Raises DataError with file and line; ``skip_bad_rows`` skips and counts rows that cannot be read.
    """
    faults = RowFaults(", ".join(paths), skip_bad_rows)
    make = partial(_record, text_field=text_field, id_field=id_field)
    for path in paths:
        if path == STDIN or not Path(path).is_dir():
            yield from faults.keep(_filled_lines(path, faults), make)
            continue
        folder = Path(path)
        files = walk(folder, packed(*_TEXT_FILES, *_LINE_FILES))
        if not files:
            raise DataError(f"no {', '.join((*_TEXT_FILES, *_LINE_FILES))} in {folder}")
        for file in files:
            if bare_name(file.name).endswith(_LINE_FILES):
                yield from faults.keep(_filled_lines(str(file), faults), make)
            elif (text := read_text(file)).strip():
                yield {"id": file.relative_to(folder).as_posix(), "text": text}
    faults.report()


def _filled_lines(path: str, faults: RowFaults) -> Iterator[Line]:
    return (line for line in open_lines(path, faults=faults) if not isinstance(line.value, str) or line.value.strip())


def _record(line: Line, text_field: str, id_field: str) -> dict[str, Any]:
    if isinstance(line.value, str):
        return {"id": line.where, "text": line.value}
    text = line.text(text_field)
    if not text.strip():
        raise DataError(f"{line.where}: its {text_field} is empty: remove the line, or choose another --text-field")
    name = line.key(id_field)
    metadata = {key: value for key, value in line.value.items() if key not in (text_field, id_field)}
    return {"id": line.where if name is None else name, "text": text, "metadata": metadata}
