"""The shards of a phase's streams, divided into segments of documents.

A document is cut into segments of at most ``context - 2`` tokens: a training sequence is <bos> segment <eos>. A block
is the unit of drawing: the segments that begin in one stretch of ``context`` tokens of a shard. Blocks are found from
the document ends by bisection; no index is built.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mmbert.data.manifest import Manifest, ShardInfo
from mmbert.data.reader import Block, OpenFiles, ShardReader
from mmbert.errors import DataError


class Tokens(Protocol):
    """A stretch of tokens: an array, or a block that is read when sliced."""

    def __getitem__(self, place: slice, /) -> NDArray[np.uint32]: ...


class Segment(NamedTuple):
    """A part of one document: ``tokens[start:end]`` of a shard."""

    tokens: Tokens
    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start


class Corpus:
    """Blocks of a folder of shards.

    streams     (source, language) in the order of the phase's mixture; all of them must be in the manifest
    context     longest sequence of the phase, in tokens
    vocab_size  of the tokenizer: every token read is below it
    """

    def __init__(
        self, folder: Path, manifest: Manifest, streams: Sequence[tuple[str, str]], context: int, vocab_size: int
    ) -> None:
        held = {(stream.source, stream.language): stream.shards for stream in manifest.streams}
        missing = [f"{source}/{language}" for source, language in streams if (source, language) not in held]
        if missing:
            raise DataError(f"{folder} holds no shards of {', '.join(missing[:5])}: run `mmbert data prepare` again")
        self._folder = folder
        self._context = context
        self._vocab_size = vocab_size
        self._shards: list[tuple[ShardInfo, ...]] = [held[stream] for stream in streams]
        self._first_blocks = [_first_blocks(shards, context) for shards in self._shards]
        self._files = OpenFiles()
        self._readers: dict[str, ShardReader] = {}
        self._left_out: frozenset[str] = frozenset()
        self.blocks_per_stream = np.array([blocks[-1] for blocks in self._first_blocks], dtype=np.int64)
        """(S,) blocks of each stream."""

    def leave_out(self, files: frozenset[str]) -> float:
        """Make the blocks of these shards empty from now on. Return their share of all tokens.

        Raises DataError if no other shard is left.
        """
        drawn = {shard.file: shard.tokens for shards in self._shards for shard in shards}
        if files.issuperset(drawn):
            raise DataError(f"every shard of this phase in {self._folder} is damaged: prepare them again")
        self._left_out = files
        # Blocks of a bad shard are empty instead of gone: the numbers of all other blocks, and so the plan, stay the
        # same.
        return sum(drawn.get(file, 0) for file in files) / sum(drawn.values())

    def info(self, path: Path) -> ShardInfo:
        """The shard whose file is ``path``."""
        return next(shard for shards in self._shards for shard in shards if self._folder / shard.file == path)

    def segments(self, stream: int, block: int) -> list[Segment]:
        """Return the segments that begin in a block, in shard order. May be empty at the end of a shard.

        Raises BadShard if the shard is damaged where its documents end; its tokens are read when a segment is sliced.
        """
        first_blocks = self._first_blocks[stream]
        number = bisect_right(first_blocks, block) - 1  # the shard that holds the block
        info = self._shards[stream][number]
        if info.file in self._left_out:
            return []
        shard = self._readers.get(info.file)
        if shard is None:
            shard = self._readers[info.file] = ShardReader(self._folder, info, self._files, self._vocab_size)
        # A segment belongs to the block in which it begins, and may end in the next one: no token is lost or repeated.
        begin = (block - first_blocks[number]) * self._context
        end = min(begin + self._context, info.tokens)
        spans = segments_between(shard.ends(begin, end), begin, end, self._context - 2)
        if not spans:
            return []
        tokens = Block(shard, spans[0][0], spans[-1][1])
        return [Segment(tokens, start, stop) for start, stop in spans]


def _first_blocks(shards: Sequence[ShardInfo], context: int) -> list[int]:
    """Return the number of each shard's first block, and last the number of all blocks."""
    first = [0]
    for shard in shards:
        first.append(first[-1] + -(-shard.tokens // context))
    return first


def segments_between(
    ends: NDArray[np.int64] | memoryview[int], begin: int, end: int, longest: int
) -> list[tuple[int, int]]:
    """Return (start, end) of the segments of at most ``longest`` tokens that begin in [``begin``, ``end``).

    ends  (documents,) where consecutive documents of a shard stop: those that hold these tokens, and the one before
    """
    first = bisect_right(ends, begin)  # the document that holds token ``begin``
    last = bisect_right(ends, end - 1, first)  # the one that holds the last token, or one past all
    start = int(ends[first - 1]) if first else 0
    # The first document may have begun before the block; its segments that did belong to an earlier block.
    place = start + max(0, -(-(begin - start) // longest)) * longest
    segments: list[tuple[int, int]] = []
    for stop in ends[first : last + 1].tolist():
        bound = min(stop, end)
        while place < bound:
            segments.append((place, min(place + longest, stop)))
            place += longest
        place = stop
    return segments
