"""An answer for every line: JSON lines or a Parquet file out; with ``-o`` a command goes on where it was stopped.

While it works, ``NAME.partial`` (of a Parquet file: ``NAME.jsonl.partial``) holds the answers so far as JSON lines,
``NAME.json.partial`` what makes them, and ``NAME.sums.partial`` the CRC-32 of each line. At the end the first becomes
the file and the others go.
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
from typing import IO, Any
from zlib import crc32

import orjson
import typer

from mmbert.cli.lines import Line
from mmbert.cli.parquet import PARQUET, check_parquet, write_parquet
from mmbert.errors import ConfigError, MMBertError
from mmbert.files import PARTIAL, atomic_file, disk_errors, read_json, sync_file, sync_folder, write_json
from mmbert.io.row_errors import RowFaults
from mmbert.locks import LOCK, lock_file

log = logging.getLogger(__name__)

_NUMBER = re.compile(r"(text|question|context|query) (\d+)\b")


def check_out(out: Path | None) -> None:
    """Raises before anything is computed: for a file that is there, a folder, or Parquet without pyarrow."""
    if out is None:
        return
    with disk_errors(out):
        if out.exists():
            raise ConfigError(f"{out} is there already: delete it, or choose another name")
    if out.suffix == PARQUET:
        check_parquet()


def judge_lines(
    lines: Iterable[Line],
    item: Callable[[Line], Any],
    judge: Callable[[Iterator[Any]], Iterator[dict[str, Any]]],
    out: Path | None,
    stamp: Callable[[], dict[str, Any]],
    faults: RowFaults,
    show: Callable[[Any, dict[str, Any]], Iterator[str]] | None = None,
) -> None:
    """One JSON line out for every line in, in order, with the ``id`` of a line that has one.

    item   what a line asks
    judge  a stream of that -> a stream of answers
    out    a file, .parquet or of JSON lines; without one, standard output. Stopped, the same command goes on with the
           line it had reached
    stamp  what makes the answers: a begun file with another one is refused
    faults what becomes of a line that asks nothing
    show   what a line asks and its answer -> lines for people, on standard output instead of JSON
    """
    with _sink(out, stamp) as (write, done):
        waiting: deque[tuple[Line, Any, Any]] = deque()
        recent: deque[tuple[int, str]] = deque(maxlen=1 << 16)

        def asked(line: Line) -> tuple[Line, Any, Any]:
            return line, line.key(), item(line)

        def items() -> Iterator[Any]:
            for number, (line, key, what) in enumerate(islice(faults.keep(lines, asked), done, None)):
                waiting.append((line, key, what))
                recent.append((number, line.where))
                yield what
            faults.report()

        try:
            for answer in judge(items()):
                line, key, what = waiting.popleft()
                if show is not None and out is None:
                    echo_lines(show(what, _plain(answer)))
                    continue
                known = isinstance(line.value, dict) and "id" in line.value
                write({"id": key, **answer} if known else answer)
        except MMBertError as error:
            raise _placed(error, dict(recent)) from error


def echo_lines(lines: Iterable[str]) -> None:
    """Print each."""
    for line in lines:
        typer.echo(line)


def write_lines(values: Iterable[dict[str, Any]], out: Path | None) -> None:
    """What is known as a whole: JSON lines to standard output, or a file that is whole or absent."""
    if out is None:
        for value in values:
            typer.echo(orjson.dumps(value))
        return
    rows = list(values)
    with atomic_file(out) as file:
        if out.suffix == PARQUET:
            write_parquet(lambda: map(_plain, rows), file)
            return
        for value in rows:
            _write(file, value)


def _placed(error: MMBertError, places: dict[int, str]) -> MMBertError:
    """The error with the line instead of the text's number in the stream."""
    found = _NUMBER.match(str(error))
    where = places.get(int(found[2])) if found else None
    return type(error)(where + ": " + _NUMBER.sub(r"the \1", str(error), count=1)) if where else error


@contextmanager
def _sink(
    out: Path | None, stamp: Callable[[], dict[str, Any]]
) -> Iterator[tuple[Callable[[dict[str, Any]], None], int]]:
    """(write one object, how many are there already)."""
    if out is None:
        yield (lambda value: typer.echo(orjson.dumps(value))), 0
        return
    table = out.suffix == PARQUET
    partial = out.with_name(out.name + (".jsonl" if table else "") + PARTIAL)
    begun, sums = (out.with_name(out.name + name + PARTIAL) for name in (".json", ".sums"))
    with disk_errors(out), lock_file(out.with_name(out.name + LOCK), what=out):
        done = _resume(partial, begun, sums, stamp())
        # Sums are not buffered: where the process is killed, there is one for every line that reached the disk.
        with partial.open("ab") as answers, sums.open("ab", buffering=0) as checks:

            def write(value: dict[str, Any]) -> None:
                checks.write(_sum(_write(answers, value)))

            yield write, done
        if table:
            with atomic_file(out) as file:
                write_parquet(lambda: _read(partial), file)
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
    """Without dataclasses."""
    plain: dict[str, Any] = orjson.loads(orjson.dumps(value))
    return plain


def _read(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            yield orjson.loads(line)


def _resume(partial: Path, begun: Path, sums: Path, stamp: dict[str, Any]) -> int:
    """Return how many lines of a begun file match their sums; what follows them is cut off.

    Raises ConfigError if the file was begun otherwise.
    """
    if not (partial.exists() and begun.exists()):
        for left in (partial, sums):
            left.unlink(missing_ok=True)
        write_json(begun, stamp)
        return 0
    stated = read_json(begun)
    changed = [key for key in stamp if not isinstance(stated, dict) or stated.get(key) != stamp[key]]
    if changed:
        raise ConfigError(f"{partial} was begun with another {', '.join(changed)}: delete it to begin anew")
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
