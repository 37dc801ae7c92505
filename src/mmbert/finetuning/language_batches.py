"""Batches for contrastive losses: rows in the order of ``sampling``, and no text twice in a batch.

The texts of other examples are negatives, so a text that occurs twice in a batch would be its own negative. A row goes
into the first batch with room after the last batch that has one of its texts. If texts repeat often, there are more
batches than rows / batch size, and smaller ones: a text of k rows needs k batches. Their number is the same in every
epoch (the trainer plans its steps by it) and a multiple of the number of processes: an epoch that needs fewer batches
splits its largest ones. (Single rows are left out if there are no more rows than batches and the processes cannot share
them evenly.)

Where the texts of a batch do not meet in the loss, they may as well be of one length (``lengths``): attention then
takes a batch in one call instead of one for each length, and processes wait less for each other.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from sentence_transformers import DefaultBatchSampler

from mmbert.data.permute import key_of
from mmbert.finetuning.sampling import LanguageSampler

Batches = list[list[int]]

WINDOW = 32
"""Steps whose rows are sorted by length: what a row is learned beside is chosen among so many."""


class LanguageBatches(DefaultBatchSampler):  # type: ignore[misc, unused-ignore]
    """A batch sampler as sentence-transformers' trainers make them: ``batch_sampler=partial(LanguageBatches, ...)``.

    order          of the rows of an epoch
    no_duplicates  no text twice in a batch; labels are no texts
    lengths        of each row: rows of a batch are of similar length; not with ``no_duplicates``
    processes      that share the batches, each the same number of them
    A function of the seed and the epoch; ``set_epoch`` moves on.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        drop_last: bool,
        *,
        order: LanguageSampler,
        no_duplicates: bool,
        lengths: Sequence[int] | None = None,
        processes: int = 1,
        **_: Any,
    ) -> None:
        super().__init__(dataset, batch_size=batch_size, drop_last=drop_last)
        self.order = order
        self._size, self._processes = batch_size, processes
        if processes > 1:
            self.batch_size = None  # else accelerate leaves out smaller batches that are not the last
        self._texts = _repeated_texts(dataset) if no_duplicates else None
        self._lengths = None if lengths is None else np.asarray(lengths)
        self._kept: tuple[int, Batches] | None = None
        self._count: int | None = None

    def __len__(self) -> int:
        """Return how many batches each epoch of the run has."""
        if self._count is None:
            epochs = range(math.ceil(self.order.epochs) if self._texts is not None else 1)
            counts = [len(self._plan(epoch)) for epoch in reversed(epochs)]  # the first one's plan is kept
            count = (min if self.drop_last else max)(counts)
            rest = count % self._processes
            whole = count - rest if self.drop_last or not rest else count + self._processes - rest
            rows = len(self.order)
            self._count = min(whole, rows - rows % self._processes or rows)
        return self._count

    def __iter__(self) -> Iterator[list[int]]:
        count = len(self)
        yield from _split_largest(self._plan(self.epoch), count)[:count]

    def _plan(self, epoch: int) -> Batches:
        if self._kept is None or self._kept[0] != epoch:
            drawn = self.order.draw(epoch)
            if self._lengths is not None:
                drawn = _by_length(drawn, self._lengths, self._size * self._processes, epoch)
            rows = drawn.tolist()
            if self._texts is None:
                batches = [rows[start : start + self._size] for start in range(0, len(rows), self._size)]
            else:
                batches = _first_fit(rows, self._texts, self._size)
            if self.drop_last:
                batches = [batch for batch in batches if len(batch) == self._size]
            self._kept = epoch, batches
        return self._kept[1]


def _repeated_texts(dataset: Any) -> list[list[int]]:
    """Return the texts of each row, as numbers."""
    names = [name for name in dataset.column_names if name != "label"]
    hashes = np.stack([np.fromiter(map(hash, dataset[name]), np.int64, len(dataset)) for name in names], axis=1)
    numbers = np.unique(hashes, return_inverse=True)[1].reshape(hashes.shape)
    return [list(map(int, row)) for row in numbers]


def _by_length(rows: np.ndarray, lengths: np.ndarray, step: int, epoch: int) -> np.ndarray:
    """Return the rows of an epoch with those of a step, ``step`` of them, of similar length; steps in random order."""
    found = []
    for start in range(0, len(rows), WINDOW * step):
        window = rows[start : start + WINDOW * step]
        window = window[np.argsort(lengths[window], kind="stable")]
        whole = len(window) // step
        order = np.random.default_rng(key_of("lengths", epoch, start)).permutation(whole)
        # What fills no step stays behind all others, so that the number of batches does not change.
        found += [window[: whole * step].reshape(whole, step)[order].ravel(), window[whole * step :]]
    return np.concatenate(found)


def _first_fit(rows: Sequence[int], texts: Sequence[Sequence[int]], size: int) -> Batches:
    """Return batches of at most ``size`` rows without a text twice, in time that grows as the rows do.

    Looking for the first batch *without* the row's texts would take as long as there are batches; behind the last one
    *with* them is known at once, and a text that comes seldom finds the same batch either way.
    """
    batches: Batches = []
    further: list[int] = []  # full batch -> a later one: a chain that ends at a batch with room (union-find)
    behind: dict[int, int] = {}  # text -> the batch after the last that has it
    for row in rows:
        at = max(behind.get(text, 0) for text in texts[row])
        passed = []
        while at < len(batches) and len(batches[at]) == size:
            passed.append(at)
            at = further[at]
        for full in passed:  # path compression: the next row skips all of these at once
            further[full] = at
        if at == len(batches):
            batches.append([])
            further.append(at + 1)
        batches[at].append(row)
        for text in texts[row]:
            behind[text] = at + 1
    return batches


def _split_largest(batches: Batches, count: int) -> Batches:
    """Return ``count`` batches, or as many as there are rows, by halving the largest again and again."""
    found = list(batches)
    heap = [(-len(batch), number) for number, batch in enumerate(found)]
    heapq.heapify(heap)
    while len(found) < count and -heap[0][0] > 1:
        _, number = heapq.heappop(heap)
        half = len(found[number]) // 2
        found.append(found[number][half:])
        found[number] = found[number][:half]
        for each in (number, len(found) - 1):
            heapq.heappush(heap, (-len(found[each]), each))
    return found
