"""Lines for stderr, written by a thread of their own, so that a slow reader of stderr never blocks a request."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator

_PAUSE = 0.02
"""Seconds between two writes: many lines become one write, and a busy server rarely wakes the thread."""


class Lines:
    """Writes lines in order. At most ``most`` wait; a line reports how many others were dropped.

    It writes to the file descriptor instead of ``sys.stderr``: a thread that blocks in ``sys.stderr`` holds its lock,
    and the interpreter cannot exit without that.
    """

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._waiting: deque[str] = deque()
        self._dropped = 0
        self._come, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="lines", daemon=True)

    def start(self) -> None:
        """Start to write, first the lines that wait."""
        self._thread.start()

    def put(self, line: str) -> None:
        """Add a line, without waiting."""
        # Dropped and counted rather than waited for: a log that nobody reads must not stop the server.
        if len(self._waiting) >= self._most:
            self._dropped += 1
            return
        self._waiting.append(line)
        self._come.set()

    def close(self, seconds: float = 1.0) -> None:
        """Write the lines that wait, for ``seconds`` at most."""
        self._ended.set()
        self._come.set()
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        while not (self._ended.is_set() and not self._waiting):
            self._come.wait()
            # Cleared before the lines are taken: one that is put meanwhile sets it again and is not missed.
            self._come.clear()
            lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
            dropped, self._dropped = self._dropped, 0
            if dropped:
                lines.append(f'{{"dropped_lines": {dropped}}}')
            if lines and not _write("".join(f"{line}\n" for line in lines)):
                self._dropped += dropped + len(lines) - bool(dropped)
            self._ended.wait(_PAUSE)


def _write(text: str) -> bool:
    """Return whether the text was written: the disk may be full, the reader gone."""
    try:
        descriptor = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # none, closed, or a stand-in of a notebook or a test
        with contextlib.suppress(AttributeError, ValueError):
            sys.stderr.write(text)
        return True
    data = text.encode("utf-8", "replace")
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except BlockingIOError:  # another process made it non-blocking
        time.sleep(0.1)
        return False
    except OSError:
        return False
    return True


class _Handler(logging.Handler):
    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines = lines
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.put(self.format(record))


@contextlib.contextmanager
def log_through(lines: Lines) -> Iterator[None]:
    """Send the log of the package, uvicorn and asyncio through ``lines``, unless a program handles it."""
    before = []
    for name in ("mmbert", "uvicorn", "asyncio"):
        logger = logging.getLogger(name)
        if not logger.hasHandlers() or (logger.handlers and not logger.propagate):  # as mmbert.log leaves it
            before.append((logger, logger.handlers, logger.propagate))
            logger.handlers, logger.propagate = [_Handler(lines)], False
    try:
        yield
    finally:
        for logger, handlers, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate
