"""Files that are whole or absent: written beside their place, flushed to disk, then renamed into it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from mmbert.errors import MMBertError
from mmbert.io.stream import read_text

PARTIAL = ".partial"
"""Suffix of anything not finished; whatever carries it may be deleted at any time."""


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open ``path`` for binary writing; it appears, complete, only when the block ends without an error."""
    partial = path.with_name(path.name + PARTIAL)
    with disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            sync_folder(path.parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes ``path`` when the block ends without an error.

    A folder already at ``path`` is replaced, and is there until the new one is complete.
    """
    partial = path.with_name(path.name + PARTIAL)
    with disk_errors(path):
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            yield partial
            publish_folder(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def publish_folder(partial: Path, path: Path) -> None:
    """Rename a finished folder to ``path``, flushed to disk before; one that is there gives way."""
    for file in partial.rglob("*"):
        if file.is_file():
            sync_file(file)
    sync_folder(partial)
    if path.exists():
        old = path.with_name(path.name + ".old" + PARTIAL)
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
        partial.rename(path)
        shutil.rmtree(old)
    else:
        partial.rename(path)
    sync_folder(path.parent)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Say in one line what a full disk or a missing permission means for the user."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MMBertError(
                f"no space left on the disk of {path}: nothing there was changed; "
                "make room and run the same command again"
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS):
            raise MMBertError(f"cannot write {path}: {error.strerror}; choose another folder") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG):
            raise MMBertError(f"cannot write {path}: {error.strerror}; choose another name") from error
        raise


def sync_file(path: Path) -> None:
    """Force a file's content to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Force a folder's entries (renames in it) to disk."""
    sync_file(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON, atomically, readable by people. Raises MMBertError for NaN and infinity, which JSON does not have."""
    try:
        text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    except ValueError as error:
        raise MMBertError(f"{path} would hold a number that is NaN or infinite: it was not written") from error
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path) as file:
        file.write(text.encode())


def read_json(path: Path) -> Any:
    """Read JSON; raises MMBertError naming the file if it is absent or not JSON."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise MMBertError(f"{path} is not valid JSON ({error}): delete it or restore it") from error


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """For what can be made again at any time: ``$XDG_CACHE_HOME/mmbert``, or ``~/.cache/mmbert``. It need not exist.

    Raises OSError for a user without a home.
    """
    named = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(named) if named else Path("~/.cache").expanduser()) / "mmbert"
    except RuntimeError as error:
        raise FileNotFoundError("no home folder") from error


def environment(name: str) -> str | None:
    """An environment variable. The only other readers are ``log`` and ``training.distributed``."""
    return os.environ.get(name)
