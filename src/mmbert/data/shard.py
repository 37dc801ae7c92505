"""The file format of token ids: a flat array with document ends and checksums.

    00003.tokens   uint32, little-endian, documents end to end, without <bos> and <eos>
    00003.index    a line naming form and version, a line of JSON, the document ends as int64, a CRC-32 of every 1,024
                   tokens as uint32 (not in version 1), SHA-256 of all before

The index is written last: a shard without an index is not finished. Lengths are compared whenever a shard is opened,
contents by ``verify``; training reads through ``reader``, which compares the checksums of just what it reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from mmbert.errors import BadShard, DataError
from mmbert.files import atomic_file, sha256

VERSION = 2
MAX_TOKENS = 2**28
"""Default length of a shard: 1 GiB of ids."""

CHUNK = 1024
"""Tokens under one checksum: as many as one block of a short context, so that little is read for its sake alone."""
FIX = "delete it and run `mmbert data prepare` again"

_MAGIC = b"mmbert shard "
_ALIGN = 64
"""The ends start at a multiple of this, so that the map is aligned."""


@dataclass(frozen=True)
class Index:
    """The contents of an index file, and the offsets of its arrays."""

    path: Path
    info: dict[str, Any]
    """Its JSON."""
    ends_at: int
    """Where the document ends start, in bytes."""
    sums_at: int | None
    """Where the checksums of the chunks start; None in version 1, which has none."""


class Shard:
    """A finished shard, memory-mapped.

    ``tokens``: (num_tokens,) uint32; ``ends``: (num_documents,) int64, where each document stops; ``info``: the JSON.
    """

    def __init__(self, path: Path, index: Index) -> None:
        self.path = path
        self.info = index.info
        self.tokens: NDArray[np.uint32] = np.memmap(path, dtype="<u4", mode="r", shape=(self.info["tokens"],))
        shape = (self.info["documents"],)
        self.ends: NDArray[np.int64] = np.memmap(index.path, dtype="<i8", mode="r", offset=index.ends_at, shape=shape)
        self._index = index

    @classmethod
    def open(cls, path: Path) -> Self:
        """Map the shard whose ``.tokens`` or ``.index`` file is ``path``. Raises BadShard if it is not whole."""
        path = path.with_suffix(".tokens")
        index = read_index(path)
        check_length(path, index)
        return cls(path, index)

    def verify(self) -> None:
        """Read all of it and compare checksums. Raises BadShard naming the file and, where known, the place."""
        check_index(self._index)
        if sha256(self.path) != self.info["sha256"]:
            # SHA-256 tells that it is damaged, the CRCs of the chunks only where.
            raise BadShard(self.path, f"{self.path} is damaged{self._place()} (its checksum does not match)", FIX)

    def _place(self) -> str:
        """Describe the first damaged chunk for messages."""
        if self._index.sums_at is None:
            return ""
        data = self._index.path.read_bytes()[self._index.sums_at : -32]
        for number, expected in enumerate(np.frombuffer(data, "<u4").tolist()):
            begin = number * CHUNK
            part = self.tokens[begin : begin + CHUNK]
            if crc32(part.tobytes()) != expected:
                return f" at {place_of(begin, begin + len(part), self.ends, 0)}"
        return ""


def place_of(begin: int, end: int, ends: NDArray[np.int64], first: int) -> str:
    """Describe tokens ``begin`` to ``end - 1``; ``ends`` are those of documents ``first`` and following."""
    documents = [first + int(ends.searchsorted(token, "right")) for token in (begin, end - 1)]
    return f"{_span('token', begin, end - 1)}, {_span('document', *documents)}"


def _span(name: str, first: int, last: int) -> str:
    return f"{name} {first}" if first == last else f"{name}s {first} to {last}"


def check_length(path: Path, index: Index) -> None:
    """Raises BadShard unless the file of tokens ``path`` has the length that its index says."""
    try:
        size = path.stat().st_size  # a cut file is found without reading it; changed bytes only by the checksums
    except FileNotFoundError as error:
        raise BadShard(path, f"no such file: {path}", "run `mmbert data prepare` again") from error
    if size != 4 * index.info["tokens"]:
        raise BadShard(path, f"{path} has {size} bytes instead of {4 * index.info['tokens']}", FIX)


def check_index(index: Index) -> bytes:
    """Read all of an index, which is returned, and compare its checksum. Raises BadShard if it is damaged."""
    body = index.path.read_bytes()
    if hashlib.sha256(body[:-32]).digest() != body[-32:]:
        raise _bad_index(index.path, f"{index.path} is damaged (its checksum does not match)")
    return body


def write_shard(path: Path, documents: Sequence[NDArray[np.uint32]], info: dict[str, Any]) -> dict[str, Any]:
    """Write ``path`` (``.tokens``) and its index, each whole or absent; returns the index's JSON.

    ``info`` is kept beside the counts. Documents must not be empty.
    """
    digest, sums = hashlib.sha256(), _ChunkSums()
    # The tokens are written first and the index last: a shard without an index does not count as finished.
    ends = np.cumsum([len(document) for document in documents], dtype="<i8")
    with atomic_file(path) as file:
        for document in documents:
            data = np.asarray(document, dtype="<u4").tobytes()
            digest.update(data)
            sums.update(data)
            file.write(data)
    info = {**info, "tokens": int(ends[-1]), "documents": len(documents), "sha256": digest.hexdigest()}
    head = _MAGIC + f"{VERSION}\n".encode()
    line = json.dumps(info, ensure_ascii=False).encode()
    # Spaces pad the line so that the ends begin at a multiple of _ALIGN and can be memory-mapped.
    line += b" " * (-(len(head) + len(line) + 1) % _ALIGN) + b"\n"
    body = head + line + ends.tobytes() + sums.tobytes()
    with atomic_file(index_path(path)) as file:
        file.write(body + hashlib.sha256(body).digest())
    return info


class _ChunkSums:
    """The CRC-32 of every ``CHUNK`` tokens."""

    def __init__(self) -> None:
        self._sums: list[int] = []
        self._crc = self._filled = 0

    def update(self, data: bytes) -> None:
        """Add the next bytes."""
        rest = memoryview(data)
        while rest:
            part = rest[: 4 * CHUNK - self._filled]
            rest = rest[len(part) :]
            self._crc = crc32(part, self._crc)
            self._filled += len(part)
            # Chunks do not follow documents: a CRC goes on over their borders.
            if self._filled == 4 * CHUNK:
                self._sums.append(self._crc)
                self._crc = self._filled = 0

    def tobytes(self) -> bytes:
        """Return all checksums; the last is that of a shorter chunk."""
        return np.array([*self._sums, self._crc] if self._filled else self._sums, dtype="<u4").tobytes()


def read_index(path: Path) -> Index:
    """Return the index of the shard ``path``. Raises BadShard if it is not whole, DataError for a newer version."""
    index = index_path(path)
    try:
        with index.open("rb") as file:
            head, line = file.readline(64), file.readline()
            size = file.seek(0, 2)
    except FileNotFoundError as error:
        raise _bad_index(index, f"no such file: {index}", "run `mmbert data prepare` again") from error
    if not head.startswith(_MAGIC) or not head.endswith(b"\n"):
        raise _bad_index(index, f"{index} is not the index of a shard, or is damaged")
    version = head[len(_MAGIC) :].strip().decode("ascii", "replace")
    if version not in ("1", str(VERSION)):
        raise DataError(f"{index} has version {version}, and only 1 and 2 can be read: update mmbert, or {FIX}")
    try:
        info = json.loads(line)
        tokens, documents = info["tokens"], info["documents"]
        if not all(isinstance(count, int) and count > 0 for count in (tokens, documents)):
            raise ValueError("wrong counts")
        if not isinstance(info["sha256"], str):
            raise ValueError("no checksum")
    except (ValueError, KeyError, TypeError) as error:
        raise _bad_index(index, f"{index} is damaged") from error
    start = len(head) + len(line)  # layout: head, JSON line, ends (8 bytes each), sums (4 bytes each), SHA-256
    end = start + 8 * documents
    sums_at = None if version == "1" else end  # without sums, readers notice only ids beyond the vocabulary
    expected = end + (0 if sums_at is None else 4 * -(-tokens // CHUNK)) + 32
    if size != expected:
        raise _bad_index(index, f"{index} has {size} bytes instead of {expected}")
    return Index(index, info, start, sums_at)


def index_path(path: Path) -> Path:
    """Return the index file of the shard ``path``."""
    return path.with_suffix(".index")


def _bad_index(index: Path, fault: str, fix: str = FIX) -> BadShard:
    return BadShard(index.with_suffix(".tokens"), fault, fix)


class ShardWriter:
    """Appends documents, and writes a shard when the next document would exceed ``max_tokens``.

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
        # A document is never divided, so a shard may exceed max_tokens only by a single long document.
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
        self._number += 1  # a stopped stream goes on with the first number that has no index
        self._clear()

    def _clear(self) -> None:
        self._documents: list[NDArray[np.uint32]] = []
        self._tokens = self._characters = self._bytes = 0
