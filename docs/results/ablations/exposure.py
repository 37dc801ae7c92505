"""Exposure: how many tokens of each language a run has seen at a position in the order of its data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from mmbert.data.pack import Cursor
from mmbert.data.steps import Steps, TokenizerInfo
from mmbert.recipe import Recipe

_DRAWS = 1024
"""Draws asked of the plan at a time."""


def exposure(
    recipe: Recipe, phase: str, shards: Path, tokenizer: TokenizerInfo, cursors: Iterable[Cursor]
) -> list[Counter[str]]:
    """Return language -> tokens of text that the phase has trained on before each cursor; cursors ascend.

    Counted draw by draw, as the packer uses them: every token of the draws before a cursor's, and ``offset`` of its
    own. <bos> and <eos> do not count.
    """
    steps = Steps(recipe, phase, shards, tokenizer)
    languages = [stream.language for stream in steps.mixture.streams]
    # The corpus of the steps: another one would open every shard again.
    plan, corpus = steps.plan, steps._corpus
    seen: Counter[str] = Counter()
    found = []
    position = 0
    for cursor in cursors:
        while position < cursor.draw:
            drawn = plan.draws(position, min(_DRAWS, cursor.draw - position))
            for stream, block in zip(drawn.streams.tolist(), drawn.blocks.tolist(), strict=True):
                seen[languages[stream]] += sum(segment.length for segment in corpus.segments(stream, block))
            position += len(drawn.streams)
        now = Counter(seen)
        if cursor.offset:
            now[languages[plan.draw(cursor.draw)[0]]] += cursor.offset
        found.append(now)
    return found
