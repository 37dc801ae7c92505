"""The one reader of rows: JSON lines, JSON lists, CSV, TSV, Parquet and lines of text as dicts with their numbers.

    for number, row in read_rows("train.csv.gz", RowFaults("data.train")):
        ...

The number is that of the line where a row begins, in a JSON list and in Parquet that of the row, both from 1. An empty
cell and NaN are null, as pandas writes them. Columns without a name (pandas' index, or a comma at the end of each line)
are passed over. A line of a text file is a row with the field ``text``; blank lines are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from mmbert.errors import DataError, first_line, import_extra
from mmbert.io.delimited import refuse_twice, table_rows
from mmbert.io.find import bare_name, packed
from mmbert.io.row_errors import FIX_LINE, LastLine, Numbered, Row, RowFaults, shown
from mmbert.io.stream import AGAIN, BOM, LONGEST, Advance, decode, join, open_file, read_lines

TABLES = (*packed(".jsonl", ".ndjson", ".json", ".csv", ".tsv"), ".parquet")
"""Endings of what ``read_rows`` reads as rows of several fields."""

TEXTS = packed(".txt")
"""Endings of files of text, whose rows have the field ``text`` alone."""

Choose = Callable[[list[str]], list[str]]
"""Names of columns -> those to read."""

_ROWS = 1024
"""Rows of Parquet held at a time."""
_EXACT = 2.0**53
"""From here on not every whole number is a float, and orjson reads one of more than 64 bits as a float."""
_BLANK = object()
_FLOATS = ("double", "float", "halffloat")


def read_rows(
    path: str | Path,
    faults: RowFaults | None = None,
    choose: Choose = lambda names: names,
    opened: Callable[[], Any] | None = None,
) -> Iterator[Numbered]:
    """Yield the rows of a file, by the ending of its name. Raises DataError with file and line.

    choose  the columns of Parquet that are read
    opened  opens a file that is elsewhere; default: the one at ``path`` on this machine
    """
    name, faults = bare_name(Path(path).name), faults or RowFaults(str(path))
    opened = opened or partial(open_file, path)
    if name.endswith(".parquet"):
        return parquet_rows(opened, str(path), faults, choose)
    lines = read_lines(opened, str(path))
    if name.endswith(".txt"):
        return text_rows(lines, str(path))
    if name.endswith((".csv", ".tsv")):
        return table_rows(lines, str(path), faults, "\t" if name.endswith(".tsv") else ",")
    return json_rows(lines, str(path), faults)


def json_rows(lines: Iterator[bytes], path: str, faults: RowFaults) -> Iterator[Numbered]:
    """Yield the objects in lines: one a line, blank lines passed over, or those of one list, by how the text begins."""
    # begun: a list can only start the text; behind an object a line with "[" is an error of its own.
    begun, last = False, LastLine(faults)
    for number, line in enumerate(lines, 1):
        if last.held is not None:
            last.go_on()
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:  # a blank line, a mark, half a surrogate, NaN, or a fault: the other one says
            try:
                if (row := _parse(line, path, number)) is _BLANK:
                    continue
            except DataError as error:
                if not begun and line.removeprefix(BOM.encode()).lstrip().startswith(b"["):
                    yield from _json_list(_list_text(line, lines, path), path, faults)
                    return
                last.held = error
                continue
        if not isinstance(row, dict):
            if not begun and isinstance(row, list):
                yield from _json_list(_list_text(line, lines, path), path, faults)
                return
            last.held = DataError(f"{path}:{number}: {shown(row)} is not a JSON object with named fields: {FIX_LINE}")
            continue
        begun = True
        for value in row.values():
            if type(value) is float and not -_EXACT < value < _EXACT:  # NaN too
                row = _exact(_parse(line, path, number))
                break
        yield number, row
    last.end()


def text_rows(lines: Iterator[bytes], path: str) -> Iterator[Numbered]:
    """Yield each line that is not blank as a row with the field ``text``. Raises DataError for what is not UTF-8."""
    for number, line in enumerate(lines, 1):
        if text := decode(line, path, number).strip():
            yield number, {"text": text}


def _list_text(first: bytes, lines: Iterator[bytes], path: str) -> bytes:
    """Return the text of a JSON list, which is parsed as a whole: at most four times the longest line."""
    return join(chain([first], lines), path, b"\n", 4 * LONGEST)


def _json_list(data: bytes, path: str, faults: RowFaults) -> Iterator[Numbered]:
    text = decode(data, path)
    try:
        # json, not orjson: its whole numbers have any number of digits.
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        fix = "fix it" if text.rstrip().endswith("]") else f"the list has no end: {AGAIN}"
        raise DataError(f"{path} is not a JSON list ({first_line(error)}): {fix}") from error
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict):
            yield number, _exact(row)
        else:
            faults.add(DataError(f"{path}:{number}: {shown(row)} is not a JSON object with named fields: {FIX_LINE}"))


def _parse(line: bytes, path: str, number: int) -> Any:
    """Return what Python's own reader makes of a line, ``_BLANK`` of a blank one. Raises DataError."""
    text = decode(line, path, number)
    if not text or text.isspace():
        return _BLANK
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}:{number}: not JSON ({first_line(error)}): {FIX_LINE}") from error


def _exact(row: Row) -> Row:
    """Return a row with null for NaN."""
    return {name: None if value != value else value for name, value in row.items()}


def import_pyarrow() -> Any:
    """Return pyarrow with its module ``parquet``. Raises MissingExtra."""
    import_extra("pyarrow.parquet", "data")
    return import_extra("pyarrow", "data")


def parquet_rows(
    open: Callable[[], BinaryIO],
    path: str,
    faults: RowFaults,
    choose: Choose = lambda names: names,
    advance: Advance = lambda size: None,
) -> Iterator[Numbered]:
    """Yield the rows of a Parquet file; of its columns those that ``choose`` takes of their names are read."""
    pyarrow = import_pyarrow()
    number = 0
    try:
        with open() as raw:
            size = raw.seek(0, 2)
            file = pyarrow.parquet.ParquetFile(raw, page_checksum_verification=True)  # of files that have checksums
            names = [name for name in file.schema_arrow.names if name and not name.startswith("__index_level_")]
            refuse_twice(names, path)
            names = choose(names)
            # By group, so that progress can be told after each: compressed pages tell no place in the file.
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(_ROWS, row_groups=[group], columns=names):
                    bad: dict[int, DataError] = {}
                    columns = [_values(batch.column(name), name, path, number, bad) for name in names]
                    for values in zip(*columns, strict=True):
                        number += 1
                        if number in bad:
                            faults.add(bad[number])
                        else:
                            yield number, dict(zip(names, values, strict=True))
                advance(size // file.num_row_groups)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is corrupt or no Parquet, after row {number} ({first_line(error)}): {AGAIN}"
        ) from error


def _values(column: Any, name: str, path: str, before: int, bad: dict[int, DataError]) -> list[Any]:
    """Return the values of a column, NaN as null; those that Python cannot hold are noted in ``bad`` by row."""
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):  # no UTF-8, a date before the year 1, a time in nanoseconds
        values = []
        for number, scalar in enumerate(column, before + 1):
            try:
                values.append(scalar.as_py())
            except (ValueError, OverflowError) as error:
                values.append(None)
                what = f"column {name!r} holds a {column.type} that cannot be read ({first_line(error)})"
                bad.setdefault(number, DataError(f"{path}:{number}: {what}: fix or remove the row"))
    return [None if value != value else value for value in values] if str(column.type) in _FLOATS else values
