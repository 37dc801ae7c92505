"""Which rows an epoch draws, and in which order, when rows belong to languages.

An epoch draws as many rows as there are. A language with n of them gets a share like n ** temperature: 1 is its own
size, 0 the same for all, and what is drawn in between keeps large languages from being all that is seen and small ones
from being over-fitted. The temperature may move during the run (annealing).

A language's rows are dealt like cards: each once before any of them comes again, across epochs too, and shuffled anew
each time. So a large language that an epoch does not exhaust shows its other rows in the next one.

Everything is a function of (rows, seed, epoch): resuming needs no state, and all processes agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from mmbert.data.mixture import annealed
from mmbert.data.permute import child_keys, key_of, permute

STAGES = 16
"""Parts of an epoch, each with a temperature of its own, while the temperature moves."""


@dataclass(frozen=True)
class Draw:
    """How rows are drawn.

    temperature  exponent of a language's size, in [0, 1]
    final        exponent at the end of the run, which is reached in a straight line; None: it stays
    stratified   every stretch of an epoch holds each language its share, instead of by chance
    epochs       of the whole run (the line of the temperature)
    seed         another seed is another order
    """

    temperature: float = 1.0
    final: float | None = None
    stratified: bool = False
    epochs: int = 1
    seed: int = 0

    def temperatures(self, epoch: int) -> list[float]:
        """Those of the stages of an epoch."""
        if self.final is None:
            return [self.temperature]
        last = max(1, self.epochs * STAGES - 1)
        places = [min(1.0, (epoch * STAGES + stage) / last) for stage in range(STAGES)]
        return [self.temperature + (self.final - self.temperature) * place for place in places]


def draw_epoch(languages: Sequence[str], draw: Draw, epoch: int) -> NDArray[np.int64]:
    """The rows of an epoch, numbers into ``languages``, which has one entry a row; as many as there are rows."""
    names, owners = np.unique(np.asarray(languages, dtype=object).astype(str), return_inverse=True)
    sizes = np.bincount(owners, minlength=len(names))
    rows = np.split(np.argsort(owners, kind="stable"), np.cumsum(sizes)[:-1])
    seen = np.zeros(len(names), dtype=np.int64)
    for earlier in range(epoch):
        seen += sum(_stage_counts(sizes, draw, earlier))
    order = []
    for stage, counts in enumerate(_stage_counts(sizes, draw, epoch)):
        taken = [
            rows[index][_deal(int(sizes[index]), int(seen[index]), int(counts[index]), key_of(draw.seed, "rows", name))]
            for index, name in enumerate(names)
        ]
        order.append(_mix(taken, draw, key_of(draw.seed, "order", epoch, stage)))
        seen += counts
    return np.concatenate(order) if order else np.zeros(0, dtype=np.int64)


class LanguageSampler(Sampler[int]):
    """The order of :func:`draw_epoch` as torch's sampler; ``set_epoch`` (Trainer and accelerate call it) moves on."""

    def __init__(self, languages: Sequence[str], draw: Draw) -> None:
        self.languages, self.draw, self.epoch = languages, draw, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.languages)

    def __iter__(self) -> Iterator[int]:
        return iter(draw_epoch(self.languages, self.draw, self.epoch).tolist())


def _stage_counts(sizes: NDArray[np.int64], draw: Draw, epoch: int) -> list[NDArray[np.int64]]:
    """How many rows each stage of an epoch draws of each language."""
    temperatures = draw.temperatures(epoch)
    ends = np.arange(len(temperatures) + 1) * int(sizes.sum()) // len(temperatures)
    return [
        _apportion(annealed(sizes, temperature), int(total))
        for temperature, total in zip(temperatures, np.diff(ends), strict=True)
    ]


def _apportion(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole numbers that sum to ``total``, each within one of its share (largest remainders)."""
    exact = shares * total
    counts = np.floor(exact + 1e-9).astype(np.int64)
    left = total - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:left]] += 1
    return counts


def _deal(size: int, start: int, count: int, key: int) -> NDArray[np.int64]:
    """Cards ``start`` to ``start + count - 1`` of decks of ``size`` that are shuffled anew each time."""
    places = np.arange(start, start + count, dtype=np.int64)
    if not count:
        return places
    return permute(places % size, size, child_keys(np.array([key], dtype=np.uint64), places // size))


def _mix(taken: list[NDArray[np.int64]], draw: Draw, key: int) -> NDArray[np.int64]:
    """Rows of all languages in one order: shuffled, or each language's at even distances."""
    rows = np.concatenate(taken)
    if not rows.size:
        return rows
    if not draw.stratified:
        return rows[permute(np.arange(rows.size), rows.size, key)]
    offsets = [key_of(key, index) / 2.0**64 for index in range(len(taken))]
    places = [(np.arange(part.size) + at) / max(1, part.size) for part, at in zip(taken, offsets, strict=True)]
    return rows[np.argsort(np.concatenate(places), kind="stable")]
