"""Lines of text or JSON, of a file or standard input: the one way in which commands that use a model read them."""

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
from typing import Annotated, Any, BinaryIO

import orjson
import typer

from mmbert.errors import ConfigError, DataError
from mmbert.io.find import bare_name
from mmbert.io.row_errors import RowFaults
from mmbert.io.rows import json_rows, read_rows
from mmbert.io.stream import BOM, decode, open_file, split_lines, utf8_chunks

STDIN = "-"

_FILE_NAME = re.compile(r"\S+\.(txt|text|md|jsonl?|ndjson|csv|tsv|parquet)(\.gz|\.zst)?", re.IGNORECASE)

SkipBadRows = Annotated[
    bool, typer.Option("--skip-bad-rows", help="Pass over rows that cannot be read, and count them. Default: stop.")
]


@dataclass(frozen=True)
class Line:
    """One line of input: where it stands, the text or the JSON object in it, and its number, counted from 1."""

    where: str
    value: str | dict[str, Any]
    number: int

    def field(self, name: str, option: str) -> Any:
        """A field of the object. Raises DataError naming the option that chooses it."""
        if isinstance(self.value, str):
            raise DataError(f"{self.where} is not a JSON object: this command takes lines with a field {name!r}")
        if name not in self.value:
            there = ", ".join(map(str, self.value)) or "none"
            raise DataError(f"{self.where} has no field {name!r} (it has {there}): choose it with {option}")
        return self.value[name]

    def text(self, name: str = "text", option: str = "--text-field") -> str:
        """The line itself, or its field ``name``. Raises DataError for a field that is no text, or not of Unicode."""
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
        """The field that names the line, 1 for 1.0; None without one. Raises DataError for what JSON cannot write."""
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
    """Lines of a file, also a compressed one, or of standard input, ``-``; only ``\\n`` divides them.

    They are JSON objects if ``objects`` says so, if the name is ``.jsonl`` or ``.ndjson``, or if the first line that is
    not blank is one; blank lines between objects are passed over. The rows of a file in .csv, .tsv, .json or .parquet
    are objects too.
    Raises DataError, at once if there is no such file, later naming file and line, unless ``faults`` passes over it.
    """
    if path != STDIN and not _is_file(path):
        hint = f" (a text itself is given as {text_option} TEXT)" if text_option else ""
        raise DataError(f"{path} is a folder, not a file" if os.path.isdir(path) else f"no such file: {path}{hint}")
    return _lines(path, objects, faults or RowFaults(path))


def text_lines(source: str, texts: Iterable[str], option: str = "--text") -> Iterator[Line]:
    """Lines of texts that stand on the command line, in place of a file. Raises ConfigError if one is a file."""
    if source != STDIN:
        raise ConfigError(f"{source} and {option} are two inputs: give one of them")
    given = [text_given(text, option, "FILE as an argument, without the option") for text in texts]
    return iter([Line(f"{option} {number}", text, number) for number, text in enumerate(given, 1)])


def text_given(text: str, option: str, instead: str) -> str:
    """The text of an option. Raises ConfigError if it is the name of a file, or looks like one."""
    if _FILE_NAME.fullmatch(text) or _is_file(text):
        raise ConfigError(f"{option} takes the text itself, and {text} looks like a file: give {instead}")
    return text


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # too long for a name, or with a null character: a text
        return False


def _lines(path: str, objects: bool, faults: RowFaults) -> Iterator[Line]:
    name, suffix = "stdin" if path == STDIN else path, Path(bare_name(path)).suffix
    if suffix in (".csv", ".tsv", ".json", ".parquet"):
        rows = read_rows(path, faults)
    else:
        lines = split_lines(utf8_chunks(partial(_open, path), name), name)
        begin: list[bytes] = []  # up to the first line that is not blank, which tells what the lines are
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
