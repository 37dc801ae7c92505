"""Batches for contrast: rows in the order of ``sampling``, and no text twice in a batch.

Another example's text is a negative, so a text that came twice would be its own. A row that does not fit into a batch
waits for the next one, ahead of those behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from sentence_transformers import DefaultBatchSampler

from mmbert.finetuning.sampling import LanguageSampler


class LanguageBatches(DefaultBatchSampler):  # type: ignore[misc, unused-ignore]
    """A batch sampler as sentence-transformers' trainers make them: ``batch_sampler=partial(LanguageBatches, ...)``.

    order          of the rows of an epoch
    no_duplicates  no text twice in a batch; labels are no texts
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
        **_: Any,
    ) -> None:
        super().__init__(dataset, batch_size=batch_size, drop_last=drop_last)
        self.order = order
        self._texts: list[tuple[int, ...]] | None = None
        if no_duplicates:
            columns = [name for name in dataset.column_names if name != "label"]
            self._texts = [tuple(map(hash, row)) for row in zip(*(dataset[name] for name in columns), strict=True)]

    def __len__(self) -> int:
        rows, size = len(self.order), int(self.batch_size)
        return rows // size if self.drop_last else -(-rows // size)

    def __iter__(self) -> Iterator[list[int]]:
        waiting = deque(self.order.draw(self.epoch).tolist())
        while waiting:
            batch = self._fill(waiting)
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch

    def _fill(self, waiting: deque[int]) -> list[int]:
        batch: list[int] = []
        seen: set[int] = set()
        put_off: list[int] = []
        while waiting and len(batch) < self.batch_size:
            row = waiting.popleft()
            if self._texts is not None:
                if not seen.isdisjoint(self._texts[row]):
                    put_off.append(row)
                    continue
                seen.update(self._texts[row])
            batch.append(row)
        waiting.extendleft(reversed(put_off))
        return batch
