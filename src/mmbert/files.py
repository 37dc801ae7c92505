"""Files that are whole or absent: written beside their place, flushed to disk, then renamed."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

from mmbert.errors import DataError, MMBertError
from mmbert.io.stream import read_text

PARTIAL = ".partial"
"""Suffix of anything not finished; whatever carries it may be deleted at any time."""


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open ``path`` for binary writing; it appears, complete, only when the block ends without an error.

    Of two processes that write it at once, each writes a file of its own, and the last to end leaves its content.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, descriptor = _claim_partial(path, lambda place: os.open(place, os.O_RDWR | os.O_CREAT, 0o666))
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.truncate(0)  # of a killed process
                yield file
                file.flush()
                # Content before name: after a power cut a renamed file without its content would look complete.
                os.fsync(file.fileno())
                partial.replace(path)  # still locked: nobody else takes the name up before it is free
            sync_folder(path.parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes ``path`` when the block ends without an error.

    A folder already at ``path`` is replaced, and is there until the new one is complete. Two processes at once: as
    ``atomic_file``.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, descriptor = _claim_partial(path, _open_folder)
        try:
            for left in partial.iterdir():  # by a killed process
                _remove(left)
            yield partial
            publish_folder(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        finally:
            os.close(descriptor)


def _claim_partial(path: Path, open_place: Callable[[Path], int]) -> tuple[Path, int]:
    """Return a name beside ``path`` that no living process writes, and the locked descriptor of what is there."""
    for number in itertools.count(1):
        partial = path.with_name(path.name + (f".{number}" if number > 1 else "") + PARTIAL)
        descriptor = lock_descriptor(partial, open_place)
        if descriptor is not None:
            return partial, descriptor
    raise AssertionError("the count has no end")


def lock_descriptor(place: Path, open_place: Callable[[Path], int]) -> int | None:
    """Return a descriptor that holds the system's lock (``flock``) on ``place``, None if another one does.

    open_place  opens ``place``, which it makes if it is not there, and returns the descriptor
    """
    while True:
        descriptor = open_place(place)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another process holds it: the caller takes another name, or reports who holds it.
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                os.close(descriptor)
                raise
        # The holder before may have renamed or removed it between our opening and our locking: take what is there now.
        with suppress(FileNotFoundError):
            # A lock belongs to the file, not to its name: only if the name still leads to this file does the lock guard
            # it.
            if os.path.samestat(os.fstat(descriptor), place.stat()):
                return descriptor
        os.close(descriptor)


_WITHOUT_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF)
"""What file systems without locks answer (Lustre mounted without ``flock``), or without locks of folders (NFS)."""


def _open_folder(place: Path) -> int:
    while True:
        with suppress(FileExistsError):
            os.mkdir(place)
        with suppress(FileNotFoundError):
            return os.open(place, os.O_RDONLY | os.O_DIRECTORY)


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


def publish_folder(partial: Path, path: Path) -> None:
    """Rename a finished folder to ``path``, flushed to disk before; one that is there gives way."""
    for file in partial.rglob("*"):
        if file.is_file():
            sync_file(file)
    sync_folder(partial)
    while True:
        try:
            # rename replaces an empty folder atomically, but refuses one that holds something.
            partial.rename(path)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        # Two renames, so for a moment there is no folder at ``path``; the old one is still whole beside it.
        old = path.with_name(f"{path.name}.old-{os.getpid()}{PARTIAL}")
        with suppress(FileNotFoundError):  # another process moved it away first
            path.rename(old)
            shutil.rmtree(old)
    sync_folder(path.parent)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise MMBertError, with a fix, for a full disk or a missing permission."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MMBertError(
                f"no space left on the disk of {path}: nothing there was changed; "
                "free some space and run the same command again"
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS):
            raise MMBertError(f"cannot write {path}: {error.strerror}; choose another folder") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG):
            raise MMBertError(f"cannot write {path}: {error.strerror}; choose another name") from error
        raise


def sync_file(path: Path) -> None:
    """Flush a file's content to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries (renames in it) to disk."""
    sync_file(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON, atomically, readable by people. Raises MMBertError for NaN and infinity, which JSON does not have."""
    try:
        # Python would write NaN, which no other reader of JSON takes.
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


def write_checked_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object that we read again ourselves: one more key, ``crc32``, holds a checksum of the others."""
    write_json(path, {**values, CRC: _json_crc32(values)})


def read_checked_json(path: Path) -> Any:
    """Return what :func:`write_checked_json` wrote, without the checksum; files of older versions have none.

    Raises MMBertError naming the file if it is absent or not JSON, DataError if it does not match its checksum.
    """
    values = read_json(path)
    stated = values.pop(CRC, None) if isinstance(values, dict) else None
    # Over sorted keys, not over the file's bytes: the file may be indented anew by hand.
    if stated is not None and stated != _json_crc32(values):
        raise DataError(f"{path} is damaged (its checksum does not match): delete it or restore it")
    return values


CRC = "crc32"


def _json_crc32(values: Mapping[str, Any]) -> int:
    return crc32(json.dumps(values, sort_keys=True).encode())


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


SUMS = "SHA256SUMS"
"""The file of a folder that holds the checksums of the others, as ``sha256sum`` writes and checks it."""


def write_sums(folder: Path, known: Mapping[str, str] | None = None) -> None:
    """Write the SHA-256 of each file in a folder; ``known`` are those that need no reading."""
    names = sorted(file.name for file in folder.iterdir() if file.is_file() and file.name != SUMS)
    digests = {name: (known or {}).get(name) or sha256(folder / name) for name in names}
    write_text(folder / SUMS, "".join(f"{digest}  {name}\n" for name, digest in digests.items()))


def damage(folder: Path, needed: Callable[[set[str]], bool] = bool) -> str | None:
    """Return what is wrong with the files that a folder's checksums name, None if nothing is.

    needed  whether these names are all that there must be
    """
    try:
        # Two spaces, as sha256sum writes for text mode.
        lines = [line.split("  ", 1) for line in (folder / SUMS).read_text(encoding="utf-8").splitlines()]
        expected = {name: digest for digest, name in lines}
    except (OSError, ValueError) as error:
        return f"{SUMS}: {error}"
    if not needed(set(expected)):
        return f"{SUMS} is incomplete"
    for name, digest in expected.items():
        try:
            if sha256(folder / name) != digest:
                return f"the checksum of {name} does not match"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return None


def file_crc32(path: Path) -> int:
    """Return the CRC-32 of a file, read in blocks (some 4 GB/s), to detect damage in our own files."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            crc = crc32(block, crc)
    return crc


def cache_folder() -> Path:
    """Return the cache folder: ``$XDG_CACHE_HOME/mmbert`` or ``~/.cache/mmbert``. It need not exist.

    Raises OSError for a user without a home.
    """
    named = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(named) if named else Path("~/.cache").expanduser()) / "mmbert"
    except RuntimeError as error:
        raise FileNotFoundError("no home folder") from error


def environment(name: str) -> str | None:
    """Return an environment variable. The only other reader is ``log``; docs/environment.md lists all variables."""
    return os.environ.get(name)


def wait_for_main(ready: Callable[[], bool]) -> None:
    """Wait, in a process that is not the main one, until what the main process makes is there.

    Not a barrier of torch.distributed: those give up after some minutes, and a teacher may take hours.
    """
    while not is_main_process() and not ready():
        time.sleep(0.5)


def secret(name: str) -> str | None:
    """Return an environment variable that holds a key, which belongs in no recipe and no file; None if not set."""
    return os.environ.get(name) or None


def is_main_process() -> bool:
    """Return whether this process writes files: the only one, or the first of those that ``torchrun`` started."""
    return environment("RANK") in (None, "0")


def world_size() -> int:
    """Return the number of processes that ``torchrun`` started; 1 without it."""
    return int(environment("WORLD_SIZE") or 1)


def set_environment(**values: str) -> None:
    """Set environment variables for libraries that are imported later, and for the processes that they start.

    A variable that the user has set stays.
    """
    for name, value in values.items():
        os.environ.setdefault(name, value)
