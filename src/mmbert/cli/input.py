"""What commands read: lines of text or JSON of a file or standard input, and the records of an index."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from mmbert.errors import ConfigError, DataError
from mmbert.io.find import bare_name, packed, walk
from mmbert.io.lines import Line, lines_of
from mmbert.io.row_errors import RowFaults
from mmbert.io.stream import open_file, read_text

log = logging.getLogger(__name__)

STDIN = "-"

_FILE_NAME = re.compile(r"\S+\.(txt|text|md|jsonl?|ndjson|csv|tsv|parquet)(\.gz|\.zst)?", re.IGNORECASE)


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
    faults = faults or RowFaults(path)
    if path == STDIN:
        return lines_of(partial(_open, path), "stdin", faults, objects=objects)
    return _told_if_empty(lines_of(partial(_open, path), path, faults, objects=objects), path, faults)


def _told_if_empty(lines: Iterator[Line], path: str, faults: RowFaults) -> Iterator[Line]:
    """Yield the lines; of a file that has none it is said, since it may have been cut."""
    empty = True
    for line in lines:
        empty = False
        yield line
    if empty and not faults.count:
        log.warning("%s is empty", path)


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
