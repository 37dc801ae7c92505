"""What commands write: one answer for each line of input, as JSON lines or a Parquet file, resumable with ``-o``.

While a command works, ``NAME.partial`` (for Parquet ``NAME.jsonl.partial``) holds the answers so far as JSON lines,
``NAME.json.partial`` the options that made them, and ``NAME.sums.partial`` the CRC-32 of each line. At the end the
first one becomes the file and the others are removed.
"""

from __future__ import annotations

import logging
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, BinaryIO
from zlib import crc32

import orjson
import typer

from mmbert.errors import ConfigError, DataError, MMBertError
from mmbert.files import PARTIAL, atomic_file, disk_errors, read_json, sync_file, sync_folder, write_json
from mmbert.io.lines import Line
from mmbert.io.row_errors import RowFaults
from mmbert.io.rows import import_pyarrow
from mmbert.locks import LOCK, lock_file

log = logging.getLogger(__name__)

PARQUET = ".parquet"

ROW_GROUP = 4096
"""Rows of a Parquet row group, which are in memory at a time."""

_NUMBER = re.compile(r"(text|question|context|query) (\d+)\b")


def check_out(out: Path | None) -> None:
    """Raise before anything is computed: for a path that exists, or for Parquet without pyarrow."""
    if out is None:
        return
    with disk_errors(out):
        if out.exists():
            raise ConfigError(f"{out} exists already: delete it, or choose another name")
    if out.suffix == PARQUET:
        import_pyarrow()


def predict_lines(
    lines: Iterable[Line],
    item: Callable[[Line], Any],
    predict: Callable[[Iterator[Any]], Iterator[dict[str, Any]]],
    out: Path | None,
    stamp: Callable[[], dict[str, Any]],
    faults: RowFaults,
    show: Callable[[Any, dict[str, Any]], Iterator[str]] | None = None,
) -> None:
    """Write one JSON line for each line of input, in order, with the ``id`` of a line that has one.

    item     makes the input of the model from a line
    predict  makes answers from a stream of such inputs
    out      a .parquet or JSON lines file; None: standard output. An interrupted command resumes at the next line
    stamp    returns what makes the answers: a partial file with another stamp is refused
    faults   decides about lines that cannot be used
    show     formats an input and its answer for a terminal, instead of JSON
    """
    with _sink(out, stamp) as (write, done):
        waiting: deque[tuple[Line, Any, Any]] = deque()
        recent: deque[tuple[int, str]] = deque(maxlen=1 << 16)

        def prepared(line: Line) -> tuple[Line, Any, Any]:
            return line, line.key(), item(line)

        def inputs() -> Iterator[Any]:
            for number, (line, key, value) in enumerate(islice(faults.keep(lines, prepared), done, None)):
                waiting.append((line, key, value))
                recent.append((number, line.where))
                yield value
            faults.report()

        try:
            for answer in predict(inputs()):
                line, key, value = waiting.popleft()
                if show is not None and out is None:
                    echo_lines(show(value, _plain(answer)))
                    continue
                has_id = isinstance(line.value, dict) and "id" in line.value
                write({"id": key, **answer} if has_id else answer)
        except MMBertError as error:
            raise _with_place(error, dict(recent)) from error


def echo_lines(lines: Iterable[str]) -> None:
    """Print each line."""
    for line in lines:
        typer.echo(line)


def write_lines(values: Iterable[dict[str, Any]], out: Path | None) -> None:
    """Write a complete result at once: JSON lines to standard output, or a file that is whole or absent."""
    if out is None:
        for value in values:
            typer.echo(orjson.dumps(value))
        return
    rows = list(values)
    with atomic_file(out) as file:
        if out.suffix == PARQUET:
            _write_parquet(lambda: map(_plain, rows), file)
            return
        for value in rows:
            _write(file, value)


def _with_place(error: MMBertError, places: dict[int, str]) -> MMBertError:
    """Return the error with the place of the line instead of the text's number in the stream."""
    found = _NUMBER.match(str(error))
    where = places.get(int(found[2])) if found else None
    return type(error)(where + ": " + _NUMBER.sub(r"the \1", str(error), count=1)) if where else error


@contextmanager
def _sink(
    out: Path | None, stamp: Callable[[], dict[str, Any]]
) -> Iterator[tuple[Callable[[dict[str, Any]], None], int]]:
    """Yield a function that writes one object, and the number of objects written by an earlier attempt."""
    if out is None:
        yield (lambda value: typer.echo(orjson.dumps(value))), 0
        return
    table = out.suffix == PARQUET
    partial = out.with_name(out.name + (".jsonl" if table else "") + PARTIAL)
    begun, sums = (out.with_name(out.name + name + PARTIAL) for name in (".json", ".sums"))
    with disk_errors(out), lock_file(out.with_name(out.name + LOCK), what=out):
        done = _resume(partial, begun, sums, stamp())
        # Sums are not buffered: when the process is killed, every line that reached the disk has its sum.
        with partial.open("ab") as answers, sums.open("ab", buffering=0) as checks:

            def write(value: dict[str, Any]) -> None:
                checks.write(_sum(_write(answers, value)))

            yield write, done
        if table:
            with atomic_file(out) as file:
                _write_parquet(lambda: _read(partial), file)
            partial.unlink()
        else:
            sync_file(partial)
            partial.replace(out)
        sums.unlink()
        begun.unlink(missing_ok=True)
        sync_folder(out.parent)


def _write(file: IO[bytes], value: dict[str, Any]) -> bytes:
    line = orjson.dumps(value) + b"\n"
    file.write(line)
    return line


def _sum(line: bytes) -> bytes:
    return crc32(line).to_bytes(4, "little")


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Return a value with its dataclasses as dicts."""
    plain: dict[str, Any] = orjson.loads(orjson.dumps(value))
    return plain


def _read(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            yield orjson.loads(line)


def _resume(partial: Path, begun: Path, sums: Path, stamp: dict[str, Any]) -> int:
    """Return how many lines of a partial file match their sums; the rest of the file is cut off.

    Raises ConfigError if the file was begun with other options.
    """
    if not (partial.exists() and begun.exists()):
        for left in (partial, sums):
            left.unlink(missing_ok=True)
        write_json(begun, stamp)
        return 0
    stated = read_json(begun)
    changed = [key for key in stamp if not isinstance(stated, dict) or stated.get(key) != stamp[key]]
    if changed:
        raise ConfigError(f"{partial} was begun with another {', '.join(changed)}: delete it to start again")
    lines = whole = 0
    with partial.open("rb+") as file, sums.open("ab+") as checks:
        checks.seek(0)
        for line in file:
            if _sum(line) != checks.read(4):
                break
            lines, whole = lines + 1, whole + len(line)
        if rest := file.seek(0, os.SEEK_END) - whole:
            log.info("%s: its last %d bytes are unfinished or damaged: computing them again", partial, rest)
        file.truncate(whole)
        checks.truncate(4 * lines)
    return lines


def _write_parquet(rows: Callable[[], Iterable[dict[str, Any]]], file: BinaryIO) -> None:
    """Write JSON objects as Parquet rows; lists and objects become lists and structs.

    ``rows`` is called twice, to find the columns and to write them, so that only one row group is in memory. A column
    ``id`` has integers if all ids are integers, else strings. Raises DataError for another column of several types.
    """
    arrow = import_pyarrow()
    numbers = all(type(row.get("id", 0)) is int for row in rows())
    schema = arrow.schema([])
    try:
        for group in _row_groups(rows(), numbers):
            found = arrow.Table.from_pylist(group).schema
            schema = arrow.unify_schemas([schema, found], promote_options="permissive")
        with arrow.parquet.ParquetWriter(file, schema, write_page_checksum=True) as writer:
            for group in _row_groups(rows(), numbers):
                writer.write_table(arrow.Table.from_pylist(group, schema=schema))
    except arrow.ArrowException as error:
        raise DataError(f"the answers do not make a table ({error}): write .jsonl instead") from error


def _row_groups(rows: Iterable[dict[str, Any]], numbers: bool) -> Iterator[list[dict[str, Any]]]:
    stream = iter(rows)
    while group := list(islice(stream, ROW_GROUP)):
        yield group if numbers else [{**row, "id": _as_text(row["id"])} if "id" in row else row for row in group]


def _as_text(value: Any) -> str | None:
    return None if value is None else str(value)
