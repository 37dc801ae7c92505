"""CSV and TSV rows, without the limits and guesses of the module ``csv``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from mmbert.errors import DataError
from mmbert.io.row_errors import FIX_LINE, LastLine, Numbered, RowFaults, shown
from mmbert.io.stream import AGAIN, LONGEST, decode, text_lines, too_long


def table_rows(lines: Iterable[bytes], path: str, faults: RowFaults, separator: str) -> Iterator[Numbered]:
    """Yield the rows of a table whose first line names its columns; lines without a value are passed over.

    With commas, quotation marks enclose a cell, are doubled in it, and it may have several lines; with tabs they are
    text. ``csv`` is not used: its longest cell has 131,072 characters unless a setting of the whole process is changed,
    and it takes what follows an open quotation mark for one cell.
    """
    names: list[str] = []
    last, bad = LastLine(faults), list[DataError]()
    numbered = _decoded(lines, path, bad)
    split = (
        _split_commas(numbered, path, bad)
        if separator == ","
        else ((number, line.removesuffix("\r").split(separator)) for number, line in numbered)
    )
    for number, cells in split:
        # A row follows, so the row before was not the last one: its error stands as it is.
        if last.held is not None:
            last.go_on()
        if bad:
            # Without a header there are no names for the other rows, so a bad one is never passed over.
            if not names:
                raise bad[0]
            last.held = bad[0]
            bad.clear()
        elif not any(cells):
            continue
        elif not names:
            # The first row with a value: blank lines before the header are passed over as anywhere else.
            names = _named(cells, path, number)
        # Only what holds something counts: a comma at the end of each line makes an empty cell without a name.
        elif any(cells[len(names) :]) or any(names[len(cells) :]):
            more = "more" if len(cells) > len(names) else "fewer"
            columns = f"{more} values than the {len(names)} columns of its first line"
            last.held = DataError(f"{path}:{number}: {columns} (separator {separator!r}): {FIX_LINE}")
        # With one column a value may well equal the column's name.
        elif cells == names and len(names) > 1:
            again = "the names of the columns again, as where files were put together"
            last.held = DataError(f"{path}:{number}: {again}: remove the line")
        else:
            yield number, {name: cell or None for name, cell in zip(names, cells, strict=False) if name}
    last.end()


def read_tsv(path: Path, comment: str | None = None) -> list[Numbered]:
    """Return the rows of a small table, whatever its name; lines that begin with ``comment`` are passed over."""
    lines = (b"" if comment and line.startswith(comment) else line.encode() for line in text_lines(path))
    return list(table_rows(lines, str(path), RowFaults(str(path)), "\t"))


def _decoded(lines: Iterable[bytes], path: str, faults: list[DataError]) -> Iterator[tuple[int, str]]:
    """Yield numbered lines; of one that is not UTF-8 the fault is noted, so that its whole row can be passed over."""
    for number, line in enumerate(lines, 1):
        try:
            yield number, decode(line, path, number)
        except DataError as error:
            faults.append(error)
            yield number, line.decode(errors="replace")


def _named(cells: list[str], path: str, number: int) -> list[str]:
    names = ["" if cell.isspace() else cell for cell in cells]
    if any("\r" in name.replace("\r\n", "") for name in names):
        raise DataError(f"{path}:{number}: its lines end in \\r alone: convert them to \\n")
    refuse_twice(names, path)
    return names


def refuse_twice(names: list[str], path: str) -> None:
    """Raise DataError if two columns have one name: which of them is meant cannot be told."""
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path} has two columns {twice!r}: rename or remove one")


def _split_commas(
    lines: Iterator[tuple[int, str]], path: str, faults: list[DataError]
) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row with the number of its first line."""
    for number, line in lines:
        # The common case, many times as fast as a walk over the characters.
        if '"' not in line:
            yield number, line.removesuffix("\r").split(",")
            continue
        cells: list[str] = []
        place = 0
        while True:
            if not line.startswith('"', place):
                end = line.find(",", place)
                cells.append(line[place:end] if end >= 0 else line[place:].removesuffix("\r"))
                if end < 0:
                    break
                place = end + 1
                continue
            cell, line, place = _quoted(line, place + 1, lines, f"{path}:{number}")
            cells.append(cell)
            if line[place:] in ("", "\r"):
                break
            if line[place] != ",":
                what = f"{shown(line[place : place + 20])} follows a closing quotation mark"
                faults.append(DataError(f"{path}:{number}: {what}: write a mark inside a cell twice, or {FIX_LINE}"))
                break
            place += 1
        yield number, cells


def _quoted(line: str, place: int, lines: Iterator[tuple[int, str]], where: str) -> tuple[str, str, int]:
    """Return a cell in quotation marks, the line where it ends, and the place behind its last mark."""
    parts: list[str] = []
    size = 0
    while True:
        # A quotation mark that is never closed would make the rest of the file one cell.
        if (size := size + len(line)) > LONGEST:
            raise too_long(where, "the cell that a quotation mark opens here")
        end = line.find('"', place)
        if end < 0:
            # The cell goes on in the next line; the line's own end is part of its text.
            parts += line[place:], "\n"
            if (following := next(lines, None)) is None:
                raise DataError(f"{where}: a quotation mark is opened here and never closed: close it, or {AGAIN}")
            line, place = following[1], 0
        # Two marks inside a cell stand for one (RFC 4180).
        elif line.startswith('"', end + 1):
            parts.append(line[place : end + 1])
            place = end + 2
        else:
            return "".join([*parts, line[place:end]]), line, end + 1
