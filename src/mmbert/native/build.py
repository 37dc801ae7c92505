"""Compiles C files to a library at first use, and keeps it in the user's cache folder. It is never required."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import platform
import shutil
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

from mmbert.files import cache_folder

log = logging.getLogger(__name__)

COMPILERS = ("gcc", "cc", "g++", "clang")
"""Tried in this order, until one compiles the files."""

THREADS = ("-fopenmp", "-pthread")
"""Tried in this order: Apple's clang, and clang without libomp, have no OpenMP, and threads.h makes its own threads."""

_SIZE = 32  # of the digest behind a kept library


class NoLibrary(Exception):
    """The reason why there is no library."""


def load_library(sources: tuple[Path, ...], flags: tuple[str, ...]) -> ctypes.CDLL:
    """Return the library of C files and headers: the kept one, or a new one, which is kept. Raises NoLibrary.

    ``flags`` name the instruction sets instead of ``native``, so that different machines can share a home folder.
    """
    try:
        kept = _place(sources, flags)
        if _is_whole(kept):
            try:
                return ctypes.CDLL(str(kept))
            except OSError as error:  # built on another system, or a library it needs is gone
                log.debug("%s is built anew: %s", kept, error)
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            made = _compile(sources, flags, Path(folder))
            made.write_bytes(_signed(made.read_bytes()))
            return ctypes.CDLL(str(made.replace(kept)))
    except OSError as error:
        log.info("the native kernels cannot be kept, so each process builds its own: %s", error)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return ctypes.CDLL(str(_compile(sources, flags, Path(folder))))  # stays in memory when the file is gone
    except OSError as error:
        raise NoLibrary(f"the kernels cannot be built: {error}") from error


def _place(sources: tuple[Path, ...], flags: tuple[str, ...]) -> Path:
    """Return the path: its name depends on sources, flags and system, not on the compiler, which may be gone later."""
    system = f"{sys.platform} {platform.machine()}"
    read = [source.read_bytes() for source in sources]
    digest = hashlib.sha256(b"\0".join([*read, " ".join(flags).encode(), system.encode()]))
    return cache_folder() / f"{sources[0].parent.name}-{digest.hexdigest()[:16]}.so"


def _signed(library: bytes) -> bytes:
    """Return the library with its SHA-256 appended, which loaders ignore: loading a torn file would crash."""
    return library + hashlib.sha256(library).digest()


def _is_whole(path: Path) -> bool:
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return len(content) > _SIZE and _signed(content[:-_SIZE]) == content


def _compile(sources: tuple[Path, ...], flags: tuple[str, ...], folder: Path) -> Path:
    found = [path for path in map(shutil.which, COMPILERS) if path]
    if not found:
        raise NoLibrary("no C compiler: install gcc")
    log.info("building the native kernels, once on this machine")
    made = folder / "kernels.so"
    given = [str(source) for source in sources if source.suffix == ".c"]
    for compiler, threads in product(found, THREADS):
        command = [compiler, *flags, threads, "-shared", "-fPIC", "-x", "c", *given, "-o", str(made)]
        try:
            result = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120)
        except subprocess.TimeoutExpired:
            continue
        if result.returncode == 0:
            return made
        log.debug("%s: %s", compiler, result.stderr)
    raise NoLibrary(f"{Path(found[0]).name} cannot compile the kernels: gcc 11 or later can")
