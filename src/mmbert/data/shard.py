"""Token ids on disk: flat, memory-mapped, with document ends and checksums.

    00003.tokens   uint32, little-endian, documents end to end, without <bos> and <eos>
    00003.index    a line naming form and version, a line of JSON, the document ends as int64, SHA-256 of all before

The index is written last: a shard without an index is not finished. Lengths are compared whenever a shard is opened,
contents by ``verify``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mmbert.errors import DataError
from mmbert.files import atomic_file, sha256

VERSION = 1
MAX_TOKENS = 2**28
"""Default length of a shard: 1 GiB of ids."""

_MAGIC = b"mmbert shard "
_CURE = "delete it and run `mmbert data prepare` again"
_ALIGN = 64
"""The ends start at a multiple of this, so that the map is aligned."""


class Shard:
    """One finished shard, mapped into memory, not read.

    ``tokens``: (num_tokens,) uint32; ``ends``: (num_documents,) int64, where each document stops; ``info``: the JSON.
    """

    def __init__(self, path: Path, tokens: NDArray[np.uint32], ends: NDArray[np.int64], info: dict[str, Any]) -> None:
        self.path = path
        self.tokens = tokens
        self.ends = ends
        self.info = info

    @classmethod
    def open(cls, path: Path) -> Self:
        """Map the shard whose ``.tokens`` or ``.index`` file is ``path``. Raises DataError if it is not whole."""
        path = path.with_suffix(".tokens")
        info, start = read_index(path)
        try:
            size = path.stat().st_size
        except FileNotFoundError as error:
            raise DataError(f"no such file: {path}: run `mmbert data prepare` again") from error
        if size != 4 * info["tokens"]:
            raise DataError(f"{path} has {size} bytes instead of {4 * info['tokens']}: {_CURE}")
        tokens = np.memmap(path, dtype="<u4", mode="r", shape=(info["tokens"],))
        ends = np.memmap(_index(path), dtype="<i8", mode="r", offset=start, shape=(info["documents"],))
        return cls(path, tokens, ends, info)

    def verify(self) -> None:
        """Read all of it and compare checksums. Raises DataError naming the file."""
        index = _index(self.path)
        body = index.read_bytes()
        if hashlib.sha256(body[:-32]).digest() != body[-32:]:
            raise DataError(f"{index} is damaged (its checksum does not match): {_CURE}")
        if sha256(self.path) != self.info["sha256"]:
            raise DataError(f"{self.path} is damaged (its checksum does not match): {_CURE}")


def write_shard(path: Path, documents: Sequence[NDArray[np.uint32]], info: dict[str, Any]) -> dict[str, Any]:
    """Write ``path`` (``.tokens``) and its index, each whole or absent; returns the index's JSON.

    ``info`` is kept beside the counts. Documents must not be empty.
    """
    digest = hashlib.sha256()
    ends = np.cumsum([len(document) for document in documents], dtype="<i8")
    with atomic_file(path) as file:
        for document in documents:
            data = np.asarray(document, dtype="<u4").tobytes()
            digest.update(data)
            file.write(data)
    info = {**info, "tokens": int(ends[-1]), "documents": len(documents), "sha256": digest.hexdigest()}
    head = _MAGIC + f"{VERSION}\n".encode()
    line = json.dumps(info, ensure_ascii=False).encode()
    line += b" " * (-(len(head) + len(line) + 1) % _ALIGN) + b"\n"
    body = head + line + ends.tobytes()
    with atomic_file(_index(path)) as file:
        file.write(body + hashlib.sha256(body).digest())
    return info


def read_index(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON of a shard's index, and where in it the document ends start. Raises DataError if it is not whole."""
    index = _index(path)
    try:
        with index.open("rb") as file:
            head, line = file.readline(64), file.readline()
            size = file.seek(0, 2)
    except FileNotFoundError as error:
        raise DataError(f"no such file: {index}: run `mmbert data prepare` again") from error
    if not head.startswith(_MAGIC) or not head.endswith(b"\n"):
        raise DataError(f"{index} is not the index of a shard, or is damaged: {_CURE}")
    version = head[len(_MAGIC) :].strip().decode("ascii", "replace")
    if version != str(VERSION):
        raise DataError(f"{index} has version {version}, and only {VERSION} can be read: update mmbert, or {_CURE}")
    try:
        info = json.loads(line)
        counts = info["tokens"], info["documents"]
        if not all(isinstance(count, int) and count > 0 for count in counts) or not isinstance(info["sha256"], str):
            raise ValueError("wrong counts")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{index} is damaged: {_CURE}") from error
    start = len(head) + len(line)
    if size != start + 8 * counts[1] + 32:
        raise DataError(f"{index} has {size} bytes instead of {start + 8 * counts[1] + 32}: {_CURE}")
    return info, start


class ShardWriter:
    """Append documents; a shard is written whenever the next document would make it longer than ``max_tokens``.

    A document is never divided between shards, so one longer than ``max_tokens`` makes a longer shard. The tokens of
    the shard at hand are held in memory. ``first`` lets a stopped stream go on with its next shard.
    """

    def __init__(self, folder: Path, info: dict[str, Any], *, max_tokens: int = MAX_TOKENS, first: int = 0) -> None:
        self.folder = folder
        self._info = info
        self._max_tokens = max_tokens
        self._number = first
        self._clear()

    def add(self, tokens: NDArray[np.uint32], characters: int, size: int) -> None:
        """Append one document: its ids, and the characters and UTF-8 bytes of its text."""
        if not len(tokens):
            raise ValueError("a document without tokens")
        if self._documents and self._tokens + len(tokens) > self._max_tokens:
            self._write(last=False)
        self._documents.append(tokens)
        self._tokens += len(tokens)
        self._characters += characters
        self._bytes += size

    def close(self) -> None:
        """Write the last shard, which marks the stream as complete."""
        self._write(last=True)

    def _write(self, *, last: bool) -> None:
        if not self._documents:
            raise ValueError("a stream without documents")
        info = {**self._info, "characters": self._characters, "bytes": self._bytes, "last": last}
        write_shard(self.folder / f"{self._number:05d}.tokens", self._documents, info)
        self._number += 1
        self._clear()

    def _clear(self) -> None:
        self._documents: list[NDArray[np.uint32]] = []
        self._tokens = self._characters = self._bytes = 0


def _index(path: Path) -> Path:
    return path.with_suffix(".index")
