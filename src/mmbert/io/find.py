"""The files that a path, folder or glob names, the same for every reader and in the same order on every machine."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from mmbert.errors import DataError

PACKED = ("", ".gz", ".zst", ".zstd", ".xz", ".bz2")
"""Endings of compressed files. They choose what is read from a folder; how to unpack it is told by its content."""

_WILD = "*?["
_HIDDEN = (".", "__")
"""What macOS and notebooks leave beside data begins so: ``._a.csv``, ``.ipynb_checkpoints``, ``__MACOSX``."""


def packed(*suffixes: str) -> tuple[str, ...]:
    """Return the suffixes, each alone and with every ending of a compressed file."""
    return tuple(suffix + ending for ending in PACKED for suffix in suffixes)


def bare_name(name: str) -> str:
    """Return a file's name in lower case, without the ending that says that it is compressed."""
    name = name.lower()
    return next((name.removesuffix(ending) for ending in PACKED[1:] if name.endswith(ending)), name)


def is_hidden(name: str) -> bool:
    """Return whether a relative path has a part that begins with ``.`` or ``__``."""
    return any(part.startswith(_HIDDEN) for part in name.split("/"))


def walk(folder: Path, suffixes: tuple[str, ...] = ("",), *, deep: bool = True) -> list[Path]:
    """Return the files below a folder (not ``deep``: in it) with one of the suffixes in any case, sorted by name.

    Hidden ones are left out, links are followed. Raises DataError for a link to nothing.
    """
    paths = [path for path in _walk(folder, (), deep) if path.name.lower().endswith(suffixes)]
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} is a link to {os.readlink(path)}, which is not there: fix or remove the link")
    # As text: pathlib compares part by part and by the rules of the system, and the order of data must not depend on
    # it.
    return sorted((path for path in paths if path.is_file()), key=lambda path: path.relative_to(folder).as_posix())


def _walk(folder: Path, above: tuple[str, ...], deep: bool) -> Iterator[Path]:
    # Only folders above it can make a circle; two links to a folder elsewhere are read twice.
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that it lies in
        return
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror}") from error
    for path in entries:
        if path.name.startswith(_HIDDEN):
            continue
        if not path.is_dir():
            yield path
        elif deep:
            yield from _walk(path, (*above, real), deep)


def find_files(place: str, suffixes: tuple[str, ...], option: str) -> tuple[Path, list[Path]]:
    """Return the files that ``place`` names, sorted, and the folder that their names are relative to.

    A path that exists is taken as it is, whatever characters it has. In a glob this holds for its leading folders, and
    for all of its brackets if they match nothing as a pattern. ``suffixes`` choose among the files of a folder; a file
    or a glob may be named anything. Raises DataError, naming ``option``, if there is no file.
    """
    path = Path(place)
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        files = walk(path, suffixes)
        if not files:
            raise DataError(f"{path} holds no file ending in {', '.join(suffixes)} ({option})")
        return path, files
    if not any(character in place for character in _WILD):
        raise DataError(f"no such file or folder: {path.absolute()} ({option})")
    root, pattern = Path(path.anchor), list(path.parts[1:] if path.anchor else path.parts)
    # A folder whose name holds brackets is a folder, not a pattern: the leading parts that exist are taken literally.
    while len(pattern) > 1 and (not set(_WILD) & set(pattern[0]) or (root / pattern[0]).exists()):
        root /= pattern.pop(0)
    rest = "/".join(pattern)
    # [[] matches a bracket itself.
    files = _matches(root, rest) or _matches(root, rest.replace("[", "[[]"))
    if not files:
        raise DataError(f"no file matches {place} ({option})")
    return root, files


def _matches(root: Path, pattern: str) -> list[Path]:
    """Return the files that match below ``root``; hidden ones only where the pattern names them."""
    names = sorted(glob.glob(pattern, root_dir=root, recursive=True))
    return [root / name for name in names if (root / name).is_file() and (is_hidden(pattern) or not is_hidden(name))]
