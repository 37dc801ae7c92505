"""One writer at a time: a file that the system unlocks when its process ends, however it ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmbert.errors import DataError
from mmbert.files import disk_errors

NAME = "lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder. Raises DataError if another writer does."""
    with try_lock(folder) as held:
        if not held:
            raise DataError(f"another process is writing {folder}: wait until it is done, then run the same again")
        yield


@contextmanager
def try_lock(folder: Path, name: str = NAME) -> Iterator[bool]:
    """Hold the folder, as far as ``name`` stands for, if nobody else does: says whether."""
    path = folder / name
    with disk_errors(path), path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
