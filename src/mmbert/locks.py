"""Locks for folders with one writer at a time. A lock names its holder and ends with the holder's process.

    with lock_folder(Path("runs/nano")):    # raises MMBertError if another process writes there
        ...

The operating system holds the lock (``flock`` on the file ``.lock`` in the folder), so that a killed process leaves no
lock behind. The file names the holder, for the error message of a second process. If a killed process left the file,
the next holder logs it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmbert.errors import MMBertError
from mmbert.files import disk_errors, lock_descriptor

log = logging.getLogger(__name__)

LOCK = ".lock"
"""The file in a folder that is being written."""

_held: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())
"""Lock files of this call chain: ``run`` holds its folder, and ``pretrain`` inside of it passes through."""


@contextmanager
def lock_folder(folder: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Hold a folder that a command writes; it is made if it is not there. A call inside of the block passes through.

    wait  seconds to try again while another process holds it
    Raises MMBertError naming the process that holds it, its host and since when.
    """
    with lock_file(folder / LOCK, what=folder, wait=wait):
        yield


@contextmanager
def lock_file(path: Path, *, what: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold ``path`` as the lock of ``what``, which the message names. Else as ``lock_folder``."""
    # flock counts by open file: a second lock of the same process would wait for the first one.
    place, held = path.absolute(), _held.get()
    if place in held:
        yield
        return
    # monotonic: the clock of the day may be set meanwhile.
    until = time.monotonic() + wait
    while True:
        with try_lock(path) as descriptor:
            if descriptor is not None:
                token = _held.set(held | {place})
                try:
                    _sign(descriptor, path)
                    yield
                finally:
                    _held.reset(token)
                    if descriptor in _descriptors:
                        path.unlink(missing_ok=True)
                return
        if time.monotonic() >= until:
            holder = _who(_read(path))
            raise MMBertError(f"{what} is being written by {holder}: wait until it is done, then run the same again")
        # Polled: flock with a time limit would need a signal.
        time.sleep(0.1)


@contextmanager
def try_lock(path: Path) -> Iterator[int | None]:
    """Hold ``path`` as a lock if nobody else does: yields its descriptor, or None."""
    with disk_errors(path):
        descriptor = lock_descriptor(path, _open)
    if descriptor is None:
        yield None
        return
    _descriptors.add(descriptor)
    try:
        yield descriptor
    finally:
        if descriptor in _descriptors:  # not in a forked child
            _descriptors.remove(descriptor)
            os.close(descriptor)


_descriptors: set[int] = set()
"""Of the locks that this process holds."""


def _close_inherited() -> None:
    """Close, in a forked child, what it inherited: the lock must end with the process that took it."""
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()


os.register_at_fork(after_in_child=_close_inherited)


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


def _sign(descriptor: int, path: Path) -> None:
    """Write who holds the lock, after saying who ended without giving it back."""
    if left := _read(path):
        log.info("%s was not given back by %s, which is gone: going on from what it finished", path, _who(left))
    record = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200],
    }
    # Through the locked descriptor: writing by name could reach a file that somebody else made meanwhile.
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps(record, ensure_ascii=False).encode())


def _who(record: dict[str, Any]) -> str:
    if not record:  # between locking and signing
        return "another process"
    return f"process {record.get('pid')} on {record.get('host')} since {record.get('since')} ({record.get('command')})"


def _read(path: Path) -> dict[str, Any]:
    """Return what stands in a lock, {} if that is nothing or not ours."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
