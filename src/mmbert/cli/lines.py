"""Lines in, JSON lines out, for commands that put every line to a model; with ``-o`` they go on where they stopped."""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import orjson
import typer
import zstandard

from mmbert.errors import ConfigError, DataError, MMBertError
from mmbert.files import PARTIAL, atomic_file, disk_errors, read_json, sync_file, sync_folder, write_json

STDIN = "-"

_NUMBER = re.compile(r"(?:text|question|context|query) (\d+)\b")


@dataclass(frozen=True)
class Line:
    """One line of input: where it stands, and the text or the JSON object in it."""

    where: str
    value: str | dict[str, Any]

    def field(self, name: str, option: str) -> Any:
        """A field of the object. Raises DataError naming the option that chooses it."""
        if isinstance(self.value, str):
            raise DataError(f"{self.where} is not a JSON object: this command takes lines with a field {name!r}")
        if name not in self.value:
            there = ", ".join(map(str, self.value)) or "none"
            raise DataError(f"{self.where} has no field {name!r} (it has {there}): choose it with {option}")
        return self.value[name]

    def text(self, name: str = "text", option: str = "--text-field") -> Any:
        """The line itself, or its field ``name``."""
        return self.value if isinstance(self.value, str) else self.field(name, option)


def open_lines(path: str, out: Path | None = None) -> Iterator[Line]:
    """Lines of a file (``.gz`` and ``.zst`` too) or of standard input, ``-``; only ``\\n`` divides them.

    They are JSON objects if the first one that is not blank is; blank lines between objects are passed over.
    Raises DataError, at once if there is no such file, later naming file and line; ConfigError if the file for answers
    is there already.
    """
    if path != STDIN and not Path(path).is_file():
        raise DataError(f"no such file: {path}")
    if out is not None and out.exists():
        raise ConfigError(f"{out} is there already: delete it, or choose another name")
    return _lines(path)


def _lines(path: str) -> Iterator[Line]:
    name = "stdin" if path == STDIN else path
    objects: bool | None = None
    blank: list[Line] = []  # before it is known what the lines are
    for number, raw in enumerate(_raw_lines(path, name), 1):
        where = f"{name}:{number}"
        try:
            text = raw.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not UTF-8 at byte {error.start + 1}: convert it first") from error
        text = text.removeprefix("\ufeff") if number == 1 else text
        if objects is None and not text.strip():
            blank.append(Line(where, text))
            continue
        if objects is None:
            objects = text.lstrip().startswith("{") and _parses(text)
            if not objects:
                yield from blank
        if not objects:
            yield Line(where, text)
        elif text.strip():
            yield Line(where, _object(text, where))
    if objects is None:
        yield from blank


def _raw_lines(path: str, name: str) -> Iterator[bytes]:
    try:
        with _open(path) as file:
            yield from file
    except (OSError, EOFError, zstandard.ZstdError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"cannot read {name}: {reason}") from error


@contextmanager
def _open(path: str) -> Iterator[IO[bytes]]:
    if path == STDIN:
        yield sys.stdin.buffer
        return
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".zst": zstandard.open}
    with openers.get(Path(path).suffix, open)(path, "rb") as file:
        yield file


def _parses(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error}): the lines before it are") from error
    if not isinstance(found, dict):
        raise DataError(f"{where} is not a JSON object: the lines before it are")
    return found


def judge_lines(
    lines: Iterable[Line],
    item: Callable[[Line], Any],
    judge: Callable[[Iterator[Any]], Iterator[dict[str, Any]]],
    out: Path | None,
    stamp: Callable[[], dict[str, Any]],
) -> None:
    """One JSON line out for every line in, in order, with the ``id`` of a line that has one.

    item   what a line asks
    judge  a stream of that -> a stream of answers
    out    a file; without one, standard output. Stopped, the same command goes on with the line it had reached
    stamp  what makes the answers: a begun file with another one is refused
    """
    with _sink(out, stamp) as (write, done):
        waiting: deque[Line] = deque()
        recent: deque[tuple[int, str]] = deque(maxlen=1 << 16)

        def items() -> Iterator[Any]:
            for number, line in enumerate(islice(lines, done, None)):
                waiting.append(line)
                recent.append((number, line.where))
                _check_id(line)
                yield item(line)

        try:
            for answer in judge(items()):
                line = waiting.popleft()
                known = isinstance(line.value, dict) and "id" in line.value
                write({"id": line.value["id"], **answer} if known else answer)  # type: ignore[index]
        except MMBertError as error:
            raise _placed(error, dict(recent)) from error


def write_lines(values: Iterable[dict[str, Any]], out: Path | None) -> None:
    """JSON lines of what is known as a whole: to standard output, or a file that is whole or absent."""
    if out is None:
        for value in values:
            typer.echo(orjson.dumps(value))
        return
    with atomic_file(out) as file:
        for value in values:
            _write(file, value)


def _check_id(line: Line) -> None:
    if isinstance(line.value, dict) and "id" in line.value:
        try:
            orjson.dumps(line.value["id"])
        except TypeError as error:
            raise DataError(f"{line.where}: its id cannot be written as JSON ({error})") from error


def _placed(error: MMBertError, places: dict[int, str]) -> MMBertError:
    """The error with the line instead of the text's number in the stream."""
    found = _NUMBER.match(str(error))
    where = places.get(int(found[1])) if found else None
    return type(error)(f"{where}: {error}") if where else error


@contextmanager
def _sink(
    out: Path | None, stamp: Callable[[], dict[str, Any]]
) -> Iterator[tuple[Callable[[dict[str, Any]], None], int]]:
    """(write one object, how many are there already)."""
    if out is None:
        yield (lambda value: typer.echo(orjson.dumps(value))), 0
        return
    partial, begun = out.with_name(out.name + PARTIAL), out.with_name(out.name + ".json" + PARTIAL)
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        done = _resume(partial, begun, stamp())
        with partial.open("ab") as file:
            yield (lambda value: _write(file, value)), done
        sync_file(partial)
        partial.replace(out)
        begun.unlink(missing_ok=True)
        sync_folder(out.parent)


def _write(file: IO[bytes], value: dict[str, Any]) -> None:
    file.write(orjson.dumps(value) + b"\n")


def _resume(partial: Path, begun: Path, stamp: dict[str, Any]) -> int:
    """Whole lines of a begun file, what follows them cut off. Raises ConfigError if it was begun otherwise."""
    if partial.exists() and begun.exists():
        stated = read_json(begun)
        changed = [key for key in stamp if stated.get(key) != stamp[key]]
        if changed:
            raise ConfigError(f"{partial} was begun with another {', '.join(changed)}: delete it to begin anew")
    else:
        partial.unlink(missing_ok=True)
        write_json(begun, stamp)
        return 0
    lines = whole = 0
    with partial.open("rb+") as file:
        for line in file:
            if line.endswith(b"\n"):
                lines, whole = lines + 1, whole + len(line)
        file.truncate(whole)
    return lines
