"""Lines of input for a model: a text or a JSON object each, of a file of any form, with their numbers.

Predictors read these, from standard input as from the shards of a folder. Rows of tables are objects too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePath
from typing import Any

import orjson

from mmbert.errors import DataError
from mmbert.io.find import bare_name
from mmbert.io.row_errors import RowFaults
from mmbert.io.rows import json_rows, read_rows
from mmbert.io.stream import BOM, decode, read_lines


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


def lines_of(opened: Callable[[], Any], name: str, faults: RowFaults, *, objects: bool = False) -> Iterator[Line]:
    """Yield the lines of a file, plain or compressed. Only ``\\n`` ends a line.

    opened   opens the file; ``name`` tells its form by its ending, and is its name in messages
    objects  lines are JSON objects, whatever the ending
    Raises DataError with file and line unless ``faults`` skips the row.
    """
    suffix = PurePath(bare_name(name)).suffix
    if suffix in (".csv", ".tsv", ".json", ".parquet"):
        rows = read_rows(name, faults, opened=opened)
    else:
        lines = read_lines(opened, name)
        begin: list[bytes] = []  # up to the first line that is not blank: it decides whether lines are text or JSON
        if not objects and suffix not in (".jsonl", ".ndjson"):
            begin = list(_until_text(lines))
            if not begin or not _is_object(begin[-1]):
                yield from _texts(chain(begin, lines), name, faults)
                return
        rows = json_rows(chain(begin, lines), name, faults)
    for number, row in rows:
        yield Line(f"{name}:{number}", row, number)


def _texts(lines: Iterator[bytes], name: str, faults: RowFaults) -> Iterator[Line]:
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
