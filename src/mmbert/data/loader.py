"""Prefetch steps in a thread, so that training does not wait for them.

with Loader(Steps(recipe, "pretrain", folder, tokenizer), cursor) as loader:
    for step in loader: ...

The thread changes nothing: the steps are those of ``Steps.after``, in their order.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Self

from mmbert.data.pack import Cursor
from mmbert.data.steps import Step, Steps
from mmbert.errors import TrainingError

_AHEAD = 2
"""Finished steps that wait."""
_SHUTDOWN_SECONDS = 30.0


class Loader:
    """Iterates over the steps of a phase after a cursor, to its end."""

    def __init__(self, steps: Steps, cursor: Cursor) -> None:
        self._steps = steps.after(cursor)
        self._stop = threading.Event()
        self._queue: queue.Queue[Step | BaseException | None] = queue.Queue(_AHEAD)
        self._thread = threading.Thread(target=self._work, name=f"loader {steps.name}", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        while not self._stop.is_set():
            item = self._queue.get()
            if isinstance(item, Step):
                return item
            self.close()
            if item is not None:
                raise item
        raise StopIteration

    def close(self) -> None:
        """Stop the thread and wait for it. The loader is at its end afterwards."""
        self._stop.set()
        self._thread.join(_SHUTDOWN_SECONDS)
        if self._thread.is_alive():
            raise TrainingError(f"{self._thread.name} does not stop: is the disk of the shards reachable?")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _work(self) -> None:
        """Make steps in the thread until told to stop. The last item is None at the end of the phase, or an error."""
        last: BaseException | None = None
        try:
            for step in self._steps:
                if not self._put(step):
                    return
        except BaseException as error:  # handed over and raised in the consumer's thread
            last = error
        self._put(last)

    def _put(self, item: Step | BaseException | None) -> bool:
        """Put an item into the queue. Return False if the loader was closed."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
