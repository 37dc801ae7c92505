"""The order of examples: by a temperature over languages, which may fall during the run, and in exact shares if wanted.

Everything is a function of (seed, epoch), so that a run that goes on draws what it would have drawn. An epoch has as
many draws as there are examples. A language of n examples gets the share n ** temperature / sum; its own examples come
in a shuffled order, all of them before any comes again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from mmbert.finetuning.recipe_data import Sampling


class LanguageSampler(Sampler[int]):
    """Indices of an epoch; the trainer tells which by ``set_epoch``.

    languages  of each example
    epochs     of the run, over which the temperature falls
    """

    def __init__(self, languages: Sequence[str], sampling: Sampling, seed: int, epochs: float) -> None:
        self._pools = {name: np.flatnonzero(np.array(languages) == name) for name in sorted(set(languages))}
        self._count, self._sampling, self._seed, self._epochs, self._epoch = len(languages), sampling, seed, epochs, 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order of this epoch, from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return iter(self.draw(self._epoch).tolist())

    def draw(self, epoch: int) -> np.ndarray:
        """The examples of an epoch, in order: (n,)."""
        random = np.random.default_rng((self._seed, epoch))
        if self._sampling.natural:
            return random.permutation(self._count)
        chosen = self._languages(epoch, random)
        order = np.empty(self._count, np.int64)
        for number, pool in enumerate(self._pools.values()):
            places = np.flatnonzero(chosen == number)
            rounds = -(-len(places) // len(pool))
            order[places] = np.concatenate([random.permutation(pool) for _ in range(max(rounds, 1))])[: len(places)]
        return order

    def shares(self, progress: float) -> np.ndarray:
        """Share of each language, in the order of their names, after this part of the run."""
        first = self._sampling.temperature
        last = first if self._sampling.final_temperature is None else self._sampling.final_temperature
        sizes = np.array([len(pool) for pool in self._pools.values()], np.float64)
        weights = sizes ** (first + (last - first) * min(progress, 1.0))
        return np.asarray(weights / weights.sum())

    def _languages(self, epoch: int, random: np.random.Generator) -> np.ndarray:
        """Number of the language of each draw."""
        progress = (epoch + np.arange(self._count) / self._count) / self._epochs
        shares = np.stack([self.shares(float(at)) for at in progress])
        if not self._sampling.stratified:
            borders = shares.cumsum(axis=1)
            borders[:, -1] = 1.0  # against rounding
            return np.asarray((random.random(self._count)[:, None] >= borders).sum(axis=1))
        # Each draw goes to the language that is most behind its share so far.
        chosen, behind = np.empty(self._count, np.int64), random.random(shares.shape[1]) * 1e-6
        for place in range(self._count):
            behind += shares[place]
            chosen[place] = behind.argmax()
            behind[chosen[place]] -= 1.0
        return chosen
