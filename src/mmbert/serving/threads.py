"""A pool of threads that tokenise and make answers, with one thread reserved for small requests.

Large requests never take the last thread, so that a small one waits for small ones only. ``ThreadPoolExecutor`` cannot
reserve a thread, and the interpreter waits for its threads at exit; these are daemons, which :meth:`Threads.stop`
abandons after a deadline.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

log = logging.getLogger(__name__)


class Threads:
    """``count`` threads, at least two; all but one of them also do large work."""

    def __init__(self, count: int, name: str = "tokenise") -> None:
        self._changed = threading.Condition()
        self._small: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._large: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._large_running = 0
        self._most_large = max(1, count - 1)
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(max(2, count))
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[..., None], *arguments: Any, large: bool = False) -> None:
        """Call a function in a thread; large and small ones each in the order in which they come."""
        with self._changed:
            (self._large if large else self._small).append((function, arguments))
            self._changed.notify()

    def stop(self, seconds: float) -> list[str]:
        """Do the submitted work, then end. Return the names of threads that still run after ``seconds``."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        return join_threads(self._threads, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._small or self._may_take_large() or self._stopping)
                large = not self._small and self._may_take_large()
                if not large and not self._small:
                    return  # stopping; large work that waits is done by the threads that do some now
                function, arguments = (self._large if large else self._small).popleft()
                self._large_running += large
            try:
                function(*arguments)
            except BaseException:  # the panic of a Rust library is no Exception, and must not end the thread
                log.exception("an error in thread %s", threading.current_thread().name)
            finally:
                if large:
                    with self._changed:
                        self._large_running -= 1
                        self._changed.notify_all()

    def _may_take_large(self) -> bool:
        return bool(self._large) and self._large_running < self._most_large


def join_threads(threads: Sequence[threading.Thread], seconds: float) -> list[str]:
    """Wait for threads, ``seconds`` for all together. Return the names of those that still run."""
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return [thread.name for thread in threads if thread.is_alive()]
