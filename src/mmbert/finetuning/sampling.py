"""Which rows an epoch draws, and in which order, when rows belong to languages.

An epoch draws as many rows as there are. A language with n of them gets a share like n ** temperature: 1 is its own
size, 0 the same for all, and what is drawn in between keeps large languages from being all that is seen and small ones
from being over-fitted. The temperature may move during the run (annealing).

The rows of a language are dealt like cards: each one once before any of them is repeated, across epochs too, and in a
new order each time. So if an epoch does not exhaust a large language, the next one continues with its other rows.

Everything is a function of (rows, seed, epoch): resuming needs no state, and all processes agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from mmbert.data.mixture import annealed
from mmbert.data.permute import child_keys, key_of, permute
from mmbert.finetuning.recipe_data import Sampling

STAGES = 16
"""Parts of an epoch, each with a temperature of its own, while the temperature moves."""


class LanguageSampler(Sampler[int]):
    """The order of an epoch as torch's sampler; ``set_epoch``, which trainers call, moves on.

    languages  of each row
    sampling   how rows are drawn
    epochs     of the run, over which the temperature moves
    """

    def __init__(self, languages: Sequence[str], sampling: Sampling, seed: int, epochs: float) -> None:
        names, owners = np.unique(np.asarray(languages, dtype=str), return_inverse=True)
        self._names = [str(name) for name in names]
        self._sizes = np.bincount(owners, minlength=len(names))
        self._rows = np.split(np.argsort(owners, kind="stable"), np.cumsum(self._sizes)[:-1])
        self._sampling, self._seed, self.epochs, self._epoch = sampling, seed, epochs, 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order of this epoch, from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        return int(self._sizes.sum())

    def __iter__(self) -> Iterator[int]:
        return iter(self.draw(self._epoch).tolist())

    def draw(self, epoch: int) -> NDArray[np.int64]:
        """Return the rows of an epoch in order, as numbers into ``languages``; as many as there are rows."""
        # rows of each language that earlier epochs have drawn: where its deck of cards stands
        seen = np.zeros(len(self._names), dtype=np.int64)
        for earlier in range(epoch):
            seen += sum(self._counts(earlier))
        order = [np.zeros(0, dtype=np.int64)]
        for stage, counts in enumerate(self._counts(epoch)):
            taken = [
                rows[_deal(len(rows), int(start), int(count), key_of(self._seed, "rows", name))]
                for name, rows, start, count in zip(self._names, self._rows, seen, counts, strict=True)
            ]
            order.append(_mix(taken, self._sampling.stratified, key_of(self._seed, "order", epoch, stage)))
            seen += counts
        return np.concatenate(order)

    def temperatures(self, epoch: int) -> list[float]:
        """Return the temperature of each stage of an epoch; one stage where it does not change."""
        first, final = self._sampling.temperature, self._sampling.final_temperature
        if final is None:
            return [first]
        last = max(1.0, self.epochs * STAGES - 1)
        places = [min(1.0, (epoch * STAGES + stage) / last) for stage in range(STAGES)]
        return [first + (final - first) * place for place in places]

    def _counts(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return how many rows each stage of an epoch draws of each language."""
        temperatures = self.temperatures(epoch)
        ends = np.arange(len(temperatures) + 1) * len(self) // len(temperatures)
        return [
            _apportion(annealed(self._sizes, temperature), int(total))
            for temperature, total in zip(temperatures, np.diff(ends), strict=True)
        ]


def _apportion(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Return whole numbers that sum to ``total``, each within one of its share (largest remainders)."""
    exact = shares * total
    counts = np.floor(exact + 1e-9).astype(np.int64)  # 1e-9: a share of 2.9999999999 is 3
    left = total - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:left]] += 1
    return counts


def _deal(size: int, start: int, count: int, key: int) -> NDArray[np.int64]:
    """Return cards ``start`` to ``start + count - 1`` of decks of ``size`` that are shuffled anew each time."""
    places = np.arange(start, start + count, dtype=np.int64)
    if not count:
        return places
    return permute(places % size, size, child_keys(np.array([key], dtype=np.uint64), places // size))


def _mix(taken: list[NDArray[np.int64]], stratified: bool, key: int) -> NDArray[np.int64]:
    """Return the rows of all languages in one order: shuffled, or each language's at even distances."""
    rows = np.concatenate(taken)
    if not rows.size:
        return rows
    if not stratified:
        return rows[permute(np.arange(rows.size), rows.size, key)]
    places = [(np.arange(part.size) + 0.5) / max(1, part.size) for part in taken]
    return rows[np.argsort(np.concatenate(places), kind="stable")]
