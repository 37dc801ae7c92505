"""Talk to the person at the terminal: log lines and progress bars, on stderr only. Data goes to stdout."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sized
from typing import Generic, TypeVar

from rich.console import Console
from rich.logging import RichHandler
from tqdm import tqdm

T = TypeVar("T")


def setup(*, verbose: bool = False) -> None:
    """Send the package's log lines to stderr; called by the command line only, never on import."""
    logger = logging.getLogger("mmbert")
    if logger.handlers:
        return
    console = Console(stderr=True, soft_wrap=True)
    handler: logging.Handler
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, show_level=False, rich_tracebacks=False, markup=False)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False


class progress(Generic[T]):  # noqa: N801  (reads as the built-in it stands for: ``for x in progress(xs)``)
    """A bar on a terminal; elsewhere (CI, a file) a line every 15 seconds, so that logs stay short.

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
        interactive = sys.stderr.isatty()
        self._items = iterable
        if total is None and isinstance(iterable, Sized):
            total = len(iterable) or None
        self._bar = tqdm(
            total=total,
            desc=desc,
            unit=unit,
            initial=initial,
            unit_scale=True,
            file=sys.stderr,
            dynamic_ncols=interactive,
            mininterval=0.2 if interactive else 15.0,
            maxinterval=1.0 if interactive else 15.0,
            ascii=None if interactive else True,
            leave=interactive,
            disable=os.environ.get("MMBERT_QUIET") == "1",
            bar_format=None
            if interactive
            else "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]\n",
        )

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
