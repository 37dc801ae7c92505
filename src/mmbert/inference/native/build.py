"""From C files to a loaded library: compiled on first use, kept in the user's cache folder, never required."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mmbert.files import cache_folder

log = logging.getLogger(__name__)

COMPILERS = ("gcc", "cc", "g++", "clang")
"""Asked in this order; the first that can compile the file is taken."""

_SIZE = 32  # of the digest behind a kept library


class NoLibrary(Exception):
    """Why there is none, in a few words."""


def load_library(sources: tuple[Path, ...], flags: tuple[str, ...]) -> ctypes.CDLL:
    """The library of some C files and their headers: the kept one, or compiled now and kept. Raises NoLibrary.

    ``flags`` name what the processor must have, not ``native``, so that machines of several kinds can share a home.
    """
    try:
        kept = _place(sources, flags)
        if _is_whole(kept):
            try:
                return ctypes.CDLL(str(kept))
            except OSError as error:  # made on another system, or what it was linked with is gone
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
    """Named by all that the content depends on but the compiler, which need not be there the second time."""
    system = f"{sys.platform} {platform.machine()}"
    read = [source.read_bytes() for source in sources]
    digest = hashlib.sha256(b"\0".join([*read, " ".join(flags).encode(), system.encode()]))
    return cache_folder() / f"{sources[0].parent.name}-{digest.hexdigest()[:16]}.so"


def _signed(library: bytes) -> bytes:
    """With its SHA-256 behind it, which a loader does not look at: loading a torn file would end the process."""
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
    for compiler in found:
        command = [compiler, *flags, "-shared", "-fPIC", "-x", "c", *given, "-o", str(made)]
        try:
            result = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120)
        except subprocess.TimeoutExpired:
            continue
        if result.returncode == 0:
            return made
        log.debug("%s: %s", compiler, result.stderr)
    raise NoLibrary(f"{Path(found[0]).name} cannot compile the kernels: gcc 11 or later can")
