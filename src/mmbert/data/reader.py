"""Read blocks of tokens from shards during training, check them, and report damage with its place.

Files are read, not memory-mapped: if a mapped file was cut short, or its disk fails, the first access kills the process
without a message. One in 256 document ends is kept in memory; those between are read with the block. Tokens are read in
whole chunks, and their checksums are compared when a block is first used. The checks take a tenth of the time of making
a batch, so they are always on.
"""

from __future__ import annotations

import os
import weakref
from array import array
from bisect import bisect_right
from collections import OrderedDict
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from mmbert.data.manifest import FILE as MANIFEST
from mmbert.data.manifest import ShardInfo, check_identity
from mmbert.data.shard import CHUNK, FIX, check_index, check_length, place_of, read_index
from mmbert.errors import BadShard

_GROUP = 256
"""Document ends from one that is held in memory to the next."""
_OPEN = 512
"""Files kept open."""


class OpenFiles:
    """Reads parts of files, and keeps the last used files open."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, int] = OrderedDict()
        weakref.finalize(self, _close, self._open)

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset`` on, fewer at the end of the file. Raises OSError."""
        descriptor = self._open.get(path)
        if descriptor is None:
            # One descriptor for all threads: pread below takes its own offset and moves no position.
            descriptor = self._open[path] = os.open(path, os.O_RDONLY)
            if len(self._open) > _OPEN:
                os.close(self._open.popitem(last=False)[1])
        else:
            self._open.move_to_end(path)
        return os.pread(descriptor, size, offset)


def _close(files: OrderedDict[str, int]) -> None:
    for descriptor in files.values():
        os.close(descriptor)


class ShardReader:
    """The document ends and tokens of one shard.

    expected    what the manifest says of it
    vocab_size  a token beyond it is damage
    Raises BadShard, here and when read: naming the file, the place, and what to do.
    """

    def __init__(self, folder: Path, expected: ShardInfo, files: OpenFiles, vocab_size: int) -> None:
        self.path = folder / expected.file
        index = read_index(self.path)
        check_identity(expected, index.info, self.path, folder / MANIFEST)
        check_length(self.path, index)
        body = check_index(index)
        self._tokens, self._documents = expected.tokens, expected.documents
        self._files = files
        self._names = str(self.path), str(index.path)
        self._ends_at, self._sums_at = index.ends_at, index.sums_at
        ends = np.frombuffer(body, "<i8", self._documents, index.ends_at)
        # Every 256th end: 8 bytes instead of 2 KiB in memory for each group; the group itself is read when needed.
        self._milestones = array("q", ends[_GROUP - 1 :: _GROUP].tolist())
        self._vocab_size = vocab_size

    def ends(self, begin: int, end: int) -> memoryview[int]:
        """Ends of consecutive documents: of the one before token ``begin`` to the one that holds token ``end - 1``.

        There may be more on both sides; in the first documents of the shard there is none before.
        """
        return self._ends(begin, end)[1]

    def _ends(self, begin: int, end: int) -> tuple[int, memoryview[int]]:
        """Return the number of the first of these documents, and the ends."""
        before = bisect_right(self._milestones, begin)
        after = bisect_right(self._milestones, end - 1, before)
        # One end before the group: it is where the first document begins.
        first = max(0, before * _GROUP - 1)
        count = min((after + 1) * _GROUP, self._documents) - first
        data = self._read(1, self._ends_at + 8 * first, 8 * count, (begin, end))
        return first, memoryview(data).cast("q")

    def tokens(self, begin: int, end: int) -> NDArray[np.uint32]:
        """Return tokens ``begin`` to ``end - 1``."""
        # Whole chunks, because a checksum covers a whole chunk.
        first, last = begin // CHUNK, -(-end // CHUNK)
        start, stop = first * CHUNK, min(last * CHUNK, self._tokens)
        data = self._read(0, 4 * start, 4 * (stop - start), (begin, end))
        if self._sums_at is not None:
            sums = self._read(1, self._sums_at + 4 * first, 4 * (last - first), (begin, end))
            view = memoryview(data)
            for number, expected in enumerate(np.frombuffer(sums, "<u4").tolist()):
                at = 4 * CHUNK * number
                # A slice of a memoryview, so nothing is copied to be checked.
                if crc32(view[at : at + 4 * CHUNK]) != expected:
                    place = start + CHUNK * number, min(start + CHUNK * (number + 1), stop)
                    raise self._damage(place, "the checksum does not match")
        tokens = np.frombuffer(data, "<u4")[begin - start : end - start]
        # Shards of version 1 have no checksums; an id beyond the vocabulary is the only damage that is visible there.
        highest = int(tokens.max())
        if highest >= self._vocab_size:
            at = begin + int(tokens.argmax())
            raise self._damage((at, at + 1), f"token {highest} is beyond the vocabulary of {self._vocab_size}")
        return tokens

    def _read(self, which: int, offset: int, size: int, place: tuple[int, int]) -> bytes:
        """Return bytes of the tokens (0) or of the index (1)."""
        path = self._names[which]
        try:
            data = self._files.read(path, offset, size)
        except OSError as error:
            raise self._damage(place, f"{path}: {error.strerror}") from error
        if len(data) < size:
            raise self._damage(place, f"{path} is cut short")
        return data

    def _damage(self, place: tuple[int, int], why: str) -> BadShard:
        words = f"tokens {place[0]} to {place[1] - 1}"
        if self._names[1] not in why:  # else its documents cannot be looked up
            first, ends = self._ends(*place)
            words = place_of(*place, np.asarray(ends), first)
        return BadShard(self.path, f"{self.path} is damaged at {words} ({why})", FIX)


class Block:
    """Tokens ``begin`` to ``end - 1`` of a shard, read when first used and sliced by positions in the shard."""

    __slots__ = ("_begin", "_end", "_shard", "_tokens")

    def __init__(self, shard: ShardReader, begin: int, end: int) -> None:
        self._shard = shard
        self._begin, self._end = begin, end
        self._tokens: NDArray[np.uint32] | None = None

    def __getitem__(self, place: slice) -> NDArray[np.uint32]:
        # Lazy: a rank packs the segments of all ranks by length alone, and reads only those of its own bins.
        if self._tokens is None:
            self._tokens = self._shard.tokens(self._begin, self._end)
        return self._tokens[place.start - self._begin : place.stop - self._begin]
