"""Records for an index, out of files: lines, JSON lines, tables, and folders of texts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mmbert.cli.lines import STDIN, Line, open_lines
from mmbert.errors import DataError
from mmbert.io.find import bare_name, packed, walk
from mmbert.io.row_errors import RowFaults
from mmbert.io.stream import read_text

_TEXTS = (".txt", ".text", ".md")
_LINES = (".jsonl", ".ndjson")


def read_records(
    paths: list[str], text_field: str, id_field: str, skip_bad_rows: bool = False
) -> Iterator[dict[str, Any]]:
    """Records of files, in their order.

    A line is a record, named by its place (``FILE:NUMBER``); blank ones are left out. Of a line that is a JSON object,
    or of a row, one field is the text, one the id (its place, without one), and the others are metadata. Of a folder
    every text file is a record, named by its path within, and every file of JSON lines is read as such, at any depth.
    Raises DataError, naming file and line; with ``skip_bad_rows`` rows that cannot be read are passed over and counted.
    """
    faults = RowFaults(", ".join(paths), skip_bad_rows)
    make = partial(_record, text_field=text_field, id_field=id_field)
    for path in paths:
        if path == STDIN or not Path(path).is_dir():
            yield from faults.keep(_lines(path, faults), make)
            continue
        folder = Path(path)
        files = walk(folder, packed(*_TEXTS, *_LINES))
        if not files:
            raise DataError(f"no {', '.join((*_TEXTS, *_LINES))} in {folder}")
        for file in files:
            if bare_name(file.name).endswith(_LINES):
                yield from faults.keep(_lines(str(file), faults), make)
            elif (text := read_text(file)).strip():
                yield {"id": file.relative_to(folder).as_posix(), "text": text}
    faults.report()


def _lines(path: str, faults: RowFaults) -> Iterator[Line]:
    return (line for line in open_lines(path, faults=faults) if not isinstance(line.value, str) or line.value.strip())


def _record(line: Line, text_field: str, id_field: str) -> dict[str, Any]:
    if isinstance(line.value, str):
        return {"id": line.where, "text": line.value}
    text = line.text(text_field)
    if not text.strip():
        raise DataError(f"{line.where}: its {text_field} is empty: leave the line out, or choose another --text-field")
    name = line.key(id_field)
    metadata = {key: value for key, value in line.value.items() if key not in (text_field, id_field)}
    return {"id": line.where if name is None else name, "text": text, "metadata": metadata}
