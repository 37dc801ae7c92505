"""Lines of text or JSON, of a file or standard input: the one way in which commands that use a model read them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from mmbert.errors import DataError

STDIN = "-"

_CHUNK = 2**20


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
        """The field that names the line; None without one. Raises DataError for what JSON cannot write."""
        found = self.value.get(name) if isinstance(self.value, dict) else None
        try:
            orjson.dumps(found)
        except TypeError as error:
            raise DataError(f"{self.where}: its {name} cannot be written as JSON ({error})") from error
        return found


def open_lines(path: str, *, objects: bool = False) -> Iterator[Line]:
    """Lines of a file (``.gz`` and ``.zst`` too) or of standard input, ``-``; only ``\\n`` divides them.

    They are JSON objects if ``objects`` says so, if the name is ``.jsonl`` or ``.ndjson``, or if the first line that is
    not blank is one; blank lines between objects are passed over.
    Raises DataError, at once if there is no such file, later naming file and line.
    """
    if path != STDIN and not Path(path).is_file():
        raise DataError(f"{path} is a folder, not a file" if Path(path).is_dir() else f"no such file: {path}")
    name = path.removesuffix(".gz").removesuffix(".zst")
    return _lines(path, objects or Path(name).suffix in (".jsonl", ".ndjson"))


def _lines(path: str, stated: bool) -> Iterator[Line]:
    name = "stdin" if path == STDIN else path
    objects = True if stated else None
    blank: list[Line] = []  # before it is known what the lines are
    for number, raw in enumerate(_raw_lines(path, name), 1):
        where = f"{name}:{number}"
        try:
            text = raw.decode().removesuffix("\r")
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not UTF-8 at byte {error.start + 1}: convert it first") from error
        text = text.removeprefix("\ufeff") if number == 1 else text
        if objects is None and not text.strip():
            blank.append(Line(where, text, number))
            continue
        if objects is None:
            objects = text.lstrip().startswith("{") and _parses(text)
            if not objects:
                yield from blank
        if not objects:
            yield Line(where, text, number)
        elif text.strip():
            yield Line(where, _object(text, where), number)
    if objects is None:
        yield from blank


def _raw_lines(path: str, name: str) -> Iterator[bytes]:
    from mmbert.data.read import decompress, split_lines

    return split_lines(decompress(_chunks(path, name), path, name))


def _chunks(path: str, name: str) -> Iterator[bytes]:
    """As they come: a line that is typed is not waited with."""
    try:
        with _open(path) as file:
            while chunk := file.read1(_CHUNK):
                yield chunk
    except OSError as error:
        raise DataError(f"cannot read {name}: {error.strerror or error}") from error


@contextmanager
def _open(path: str) -> Iterator[Any]:
    if path == STDIN:
        yield sys.stdin.buffer
        return
    with Path(path).open("rb") as file:
        yield file


def _parses(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}): every line must be an object") from error
    if not isinstance(found, dict):
        raise DataError(f"{where} is not a JSON object: every line must be one")
    return found
