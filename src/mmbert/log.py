"""Log lines and progress bars, on stderr only. Data goes to stdout."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, Generic, TypeVar

from rich.console import Console
from rich.logging import RichHandler
from tqdm import tqdm

T = TypeVar("T")


class _AboveBars(RichHandler):
    """Log lines on a terminal with progress bars: the bar is cleared before a line and drawn again after it."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=sys.stderr):
            super().emit(record)


def setup(*, verbose: bool = False, quiet: bool = False) -> None:
    """Send the package's log lines to stderr; called by the command line only, never on import.

    verbose  details too;  quiet  warnings and errors only, and no progress bars
    Called again, it changes the level.
    """
    logger = logging.getLogger("mmbert")
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    if logger.handlers:
        return
    console = Console(stderr=True, soft_wrap=True)
    handler: logging.Handler
    if console.is_terminal:
        handler = _AboveBars(
            console=console, show_path=False, show_level=False, markup=False, log_time_format="%H:%M:%S"
        )
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logger.addHandler(handler)
    logger.propagate = False


EVERY = 15.0
"""Seconds between two lines of a progress that is not shown on a terminal."""


class _Lines:
    """A progress bar as log lines: none in the first seconds, then one every ``EVERY`` seconds."""

    def __init__(self, total: float | None, desc: str, initial: float) -> None:
        self._total, self._desc, self._done = total, desc, initial
        self._initial, self._figures = initial, ""
        self._began = self._last = time.monotonic()
        self._written: float | None = None

    def update(self, n: float) -> None:
        self._done += n
        if time.monotonic() - self._last >= EVERY:
            self._write()

    def set_postfix(self, figures: dict[str, str | float | int], refresh: bool = False) -> None:
        self._figures = "".join(f", {name}={value}" for name, value in figures.items())

    def close(self) -> None:
        if self._written not in (None, self._done):
            self._write()

    def _write(self) -> None:
        self._last, self._written = time.monotonic(), self._done
        elapsed = self._last - self._began
        done = tqdm.format_sizeof(self._done)
        if self._total:
            left = elapsed * (self._total - self._done) / max(self._done - self._initial, 1e-9)
            done = f"{self._done / self._total:4.0%} {done}/{tqdm.format_sizeof(self._total)}"
            clock = f"{tqdm.format_interval(elapsed)}<{tqdm.format_interval(left)}"
        else:
            clock = tqdm.format_interval(elapsed)
        sys.stderr.write(f"{self._desc}: {done} [{clock}{self._figures}]\n")


class progress(Generic[T]):  # noqa: N801  (reads as the built-in it stands for: ``for x in progress(xs)``)
    """A progress bar on a terminal; elsewhere (CI, a file, a notebook) a line every 15 seconds.

    None of both with ``MMBERT_QUIET=1``, or where the package's logger leaves out what is no warning.

    ``with progress(total=n, desc="...") as bar: bar.update(k); bar.note(loss=2.1)`` or ``for x in progress(xs): ...``.
    """

    def __init__(
        self,
        iterable: Iterable[T] = (),
        *,
        total: float | None = None,
        desc: str = "",
        unit: str = "it",
        initial: float = 0,
    ) -> None:
        self._items = iterable
        if total is None and isinstance(iterable, Sized):
            total = len(iterable) or None
        quiet = os.environ.get("MMBERT_QUIET") == "1" or logging.getLogger("mmbert").level >= logging.WARNING
        self._bar: Any
        if quiet or sys.stderr.isatty():
            self._bar = tqdm(
                total=total, desc=desc, unit=unit, initial=initial, unit_scale=True, file=sys.stderr,
                dynamic_ncols=True, mininterval=0.2, maxinterval=1.0, disable=quiet,
            )  # fmt: skip
        else:
            self._bar = _Lines(total, desc, initial)

    def update(self, n: float = 1) -> None:
        """Advance by ``n`` units."""
        self._bar.update(n)

    def note(self, **values: str | float | int) -> None:
        """Show figures behind the bar."""
        self._bar.set_postfix(values, refresh=False)

    def close(self) -> None:
        self._bar.close()

    def __enter__(self) -> progress[T]:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[T]:
        with self:
            for item in self._items:
                yield item
                self.update()
