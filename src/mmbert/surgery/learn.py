"""Learn more BPE merges on top of an existing tokenizer, from words split into its tokens.

As in training a BPE, the most frequent pair of neighbours becomes a token, everywhere, and the next is counted anew.
A pair is refused where its token would have a text that is a token already: that one could then be made in a second
way, and older merges could go on from it, so that the order learned here would not be the order the tokenizer runs.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from itertools import pairwise

Pair = tuple[str, str]


def learn_merges(
    words: Mapping[tuple[str, ...], int],
    limit: int,
    *,
    known: Set[str],
    refused: Set[Pair] = frozenset(),
    min_count: int = 2,
    max_length: int = 24,
) -> list[Pair]:
    """Return at most ``limit`` merges, in the order in which they are applied.

    words       words cut into tokens -> how often they occur
    known       tokens there are; no merge makes one of them
    refused     pairs that are never merged
    min_count   how often a pair must occur
    max_length  longest token, in characters

    Ties go to the pair that is first in the alphabet, so that the same words give the same merges in any order.
    """
    table = _Pairs(words)
    merges: list[Pair] = []
    tokens = set(known)
    while len(merges) < limit:
        best = table.pop(min_count)
        if best is None:
            break
        product = "".join(best)
        # A second way to make an existing token would change how old text is split.
        if best in refused or product in tokens or len(product) > max_length:
            continue
        tokens.add(product)
        merges.append(best)
        table.join(best)
    return merges


class _Pairs:
    """Counts of neighbouring tokens in words, with the words in which they occur; updated when a pair is joined."""

    def __init__(self, words: Mapping[tuple[str, ...], int]) -> None:
        self._words = [(list(parts), count) for parts, count in sorted(words.items())]
        self._counts: Counter[Pair] = Counter()
        self._places: defaultdict[Pair, set[int]] = defaultdict(set)
        for number, (parts, count) in enumerate(self._words):
            for pair in pairwise(parts):
                self._counts[pair] += count
                self._places[pair].add(number)
        # Entries are never updated in place: a changed count is pushed once more, and pop() drops the outdated ones.
        self._heap = [(-count, pair) for pair, count in self._counts.items()]
        heapq.heapify(self._heap)

    def pop(self, least: int) -> Pair | None:
        """Return the most frequent pair, once; None if none occurs ``least`` times."""
        while self._heap:
            count, pair = heapq.heappop(self._heap)
            if -count != self._counts[pair]:
                continue  # counted since; its new count is in the heap too
            return pair if -count >= least else None
        return None

    def join(self, pair: Pair) -> None:
        """Make a pair one token in all words, from the left."""
        # All pairs of a changed word are taken out and counted anew: overlaps such as a a a make finer bookkeeping
        # wrong.
        changed: set[Pair] = set()
        # _places may name words that have lost the pair since; joining nothing in them is harmless.
        for number in self._places.pop(pair):
            parts, count = self._words[number]
            for old in pairwise(parts):
                self._counts[old] -= count
                changed.add(old)
            parts[:] = _joined(parts, pair)
            for new in pairwise(parts):
                self._counts[new] += count
                self._places[new].add(number)
                changed.add(new)
        del self._counts[pair]  # its old heap entries no longer match a count and are skipped by pop()
        for other in changed - {pair}:
            heapq.heappush(self._heap, (-self._counts[other], other))


def _joined(parts: Iterable[str], pair: Pair) -> Iterator[str]:
    held: str | None = None
    for part in parts:
        if held is None:
            held = part
        elif (held, part) == pair:
            yield held + part
            held = None
        else:
            yield held
            held = part
    if held is not None:
        yield held
