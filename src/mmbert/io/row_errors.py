"""Errors in rows: raised at the first one, or on request skipped and counted. Also formats values for messages."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Any, TypeVar

from mmbert.errors import DataError

log = logging.getLogger(__name__)

Row = dict[str, Any]
Numbered = tuple[int, Row]
Made = TypeVar("Made")

FIX_LINE = "fix or remove the line"


class RowFaults:
    """Errors in rows: the first is raised, or with ``skip`` bad rows are skipped, counted and reported.

    Of files only rows are passed over: one that is cut short or corrupt is always an error.
    """

    def __init__(self, option: str, skip: bool = False) -> None:
        self.option = option
        self.skip = skip
        self.count = self.good = 0
        self._first: DataError | None = None

    def add(self, fault: DataError) -> None:
        """Note a row that cannot be used. Raises it unless such rows are passed over."""
        if not self.skip:
            raise fault
        self.count += 1
        # Only the first is kept: a file of another form has as many faults as rows.
        self._first = self._first or fault

    def keep(self, rows: Iterable[Made], make: Callable[[Made], Any]) -> Iterator[Any]:
        """Yield what ``make`` makes of each row, noting those that it refuses with a DataError."""
        # Without ``skip`` the first error ends the work, so nothing has to be counted: map is faster.
        return self._keep(rows, make) if self.skip else map(make, rows)

    def _keep(self, rows: Iterable[Made], make: Callable[[Made], Any]) -> Iterator[Any]:
        for row in rows:
            try:
                value = make(row)
            except DataError as error:
                self.add(error)
                continue
            self.good += 1
            yield value

    def report(self) -> None:
        """Log how many rows were passed over. Raises the first fault where no row was good: the cause is another."""
        first, self._first = self._first, None
        if first is None:
            return
        # Every row is bad: the option is wrong (a field, a format), not the data.
        if not self.good:
            raise DataError(f"all {self.count:,} rows are bad, the first: {first}") from first
        log.warning("%s: %s bad rows of %s passed over; the first: %s", self.option, f"{self.count:,}",
                    f"{self.count + self.good:,}", first)  # fmt: skip


class LastLine:
    """Holds an error until it is known whether more lines follow: the last line of a file may be incomplete."""

    def __init__(self, faults: RowFaults) -> None:
        self._faults = faults
        self.held: DataError | None = None

    def go_on(self) -> None:
        """Report the held fault: another line follows."""
        held, self.held = self.held, None
        if held is not None:
            self._faults.add(held)

    def end(self) -> None:
        """Report the held fault as that of a last line, which may have been cut."""
        if self.held is not None:
            # Messages end in ": what to do", which is replaced here.
            what = str(self.held).rpartition(": ")[0]
            self.held = DataError(f"{what}: if the file was cut here, copy it again; else {FIX_LINE}")
            self.go_on()


def no_text(row: Row, name: str, where: str, fix: str) -> DataError:
    """Return the error for a row whose field is no text."""
    if name in row:
        return DataError(f"{where}: field {name!r} holds {shown(row[name])}, not text: {fix}")
    return DataError(f"{where}: no field {name!r}, there are {', '.join(map(repr, row)) or 'none'}: {fix}")


def as_name(value: Any) -> str:
    """Return an id or a label as text, however it is written: 1, 1.0 and True are "1", "1" and "true"."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    # pandas turns a column of whole numbers with a gap into floats: 3.0 and 3 are the same label.
    return str(int(value)) if isinstance(value, (float, Decimal)) and value % 1 == 0 else str(value)


def shown(value: Any) -> str:
    """Return a value for a message: as JSON, or as Python writes it with its type, cut after 40 characters."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = f"{type(value).__name__} {value!r}"
    return text if len(text) <= 40 else text[:39] + "…"
