"""The shards of a phase's streams, as pieces of documents.

A document is cut into pieces of at most ``context - 2`` tokens: a training sequence is <bos> piece <eos>. A block is
what is drawn at once: the pieces that begin in one stretch of ``context`` tokens of a shard. Blocks are found from
the document ends alone, by bisection; nothing is indexed beforehand.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmbert.data.manifest import Manifest, ShardInfo
from mmbert.data.shard import Shard
from mmbert.errors import DataError

_OPEN = 256  # shards kept mapped; each holds a file descriptor or two


class Piece(NamedTuple):
    """A part of one document: ``tokens[start:end]`` of a shard."""

    tokens: NDArray[np.uint32]
    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


class Corpus:
    """Blocks of a folder of shards.

    streams  (source, language) in the order of the phase's mixture; all of them must be in the manifest
    context  longest sequence of the phase, in tokens
    """

    def __init__(self, folder: Path, manifest: Manifest, streams: Sequence[tuple[str, str]], context: int) -> None:
        held = {(stream.source, stream.language): stream.shards for stream in manifest.streams}
        missing = [f"{source}/{language}" for source, language in streams if (source, language) not in held]
        if missing:
            raise DataError(f"{folder} holds no shards of {', '.join(missing[:5])}: run `mmbert data prepare` again")
        self._folder = folder
        self._context = context
        self._shards: list[tuple[ShardInfo, ...]] = [held[stream] for stream in streams]
        self._first_blocks = [_first_blocks(shards, context) for shards in self._shards]
        self._opened: OrderedDict[str, Shard] = OrderedDict()
        self.blocks_per_stream = np.array([blocks[-1] for blocks in self._first_blocks], dtype=np.int64)
        """(S,) blocks of each stream."""

    def pieces(self, stream: int, block: int) -> list[Piece]:
        """The pieces that begin in a block, in their order in the shard. May be empty at the end of a shard."""
        first_blocks = self._first_blocks[stream]
        number = bisect_right(first_blocks, block) - 1
        shard = self._open(self._shards[stream][number])
        begin = (block - first_blocks[number]) * self._context
        tokens, found = shard.tokens, pieces_between(shard.ends, begin, begin + self._context, self._context - 2)
        return [Piece(tokens, start, end) for start, end in found]

    def _open(self, info: ShardInfo) -> Shard:
        """The shard, from the most recently used ones or mapped anew."""
        shard = self._opened.get(info.file)
        if shard is None:
            shard = Shard.open(self._folder / info.file)
            # Plain arrays over the same maps: slicing a np.memmap costs several times as much.
            shard = Shard(shard.path, np.asarray(shard.tokens), np.asarray(shard.ends), shard.info)
            self._opened[info.file] = shard
            if len(self._opened) > _OPEN:
                self._opened.popitem(last=False)
        else:
            self._opened.move_to_end(info.file)
        return shard


def _first_blocks(shards: Sequence[ShardInfo], context: int) -> list[int]:
    """[the number of each shard's first block, ..., all blocks]."""
    first = [0]
    for shard in shards:
        first.append(first[-1] + -(-shard.tokens // context))
    return first


def pieces_between(ends: NDArray[np.int64], begin: int, end: int, longest: int) -> list[tuple[int, int]]:
    """(start, end) of the pieces of at most ``longest`` tokens that begin in tokens ``begin`` to ``end - 1``.

    ends  (documents,) where each document of a shard stops
    """
    first = int(ends.searchsorted(begin, "right"))  # the document that holds token ``begin``
    last = int(ends.searchsorted(end - 1, "right"))  # the one that holds the last token, or one past all
    start = int(ends[first - 1]) if first else 0
    # The first document may have begun before the block; its pieces that did belong to an earlier block.
    place = start + max(0, -(-(begin - start) // longest)) * longest
    pieces: list[tuple[int, int]] = []
    for stop in ends[first : last + 1].tolist():
        bound = min(stop, end)
        while place < bound:
            pieces.append((place, min(place + longest, stop)))
            place += longest
        place = stop
    return pieces
