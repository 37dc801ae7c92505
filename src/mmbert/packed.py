"""``Packed``, the only batch type: sequences concatenated without padding.

A batch of three sequences of 4, 2 and 3 tokens is one row of 9 ids and the offsets ``[0, 4, 6, 9]``.
Training, evaluation and serving all speak this type. The arrays are NumPy when a batch is made (making one
needs no torch) and torch tensors after :meth:`Packed.to`; models take both.

Shapes: ``T`` tokens in all, ``S`` sequences, ``N`` labelled tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Packed:
    """A batch of concatenated sequences.

    ids       (T,)    int64, token ids
    offsets   (S + 1,) int32, where each sequence begins; the last entry is T
    longest   length of the longest sequence
    targets   (N,)    int64, indices into ``ids`` of the tokens that carry a label, ascending; None without labels
    labels    (N,)    int64, the ids to predict there
    adapters  (S,)    int64 on the host, the number of each sequence's adapter, -1 for none; None: the model has none
    """

    ids: Any
    offsets: Any
    longest: int
    targets: Any = None
    labels: Any = None
    adapters: Any = None

    @classmethod
    def from_lists(cls, sequences: Sequence[Sequence[int] | np.ndarray]) -> Packed:
        """Pack token lists as they come. Raises ValueError if there is none, one is empty or holds no whole numbers."""
        if not len(sequences):
            raise ValueError("cannot pack zero sequences")
        lengths = np.fromiter((len(s) for s in sequences), dtype=np.int64, count=len(sequences))
        if lengths.min() == 0:
            raise ValueError(f"sequence {int(lengths.argmin())} is empty")
        offsets = np.zeros(len(sequences) + 1, dtype=np.int32)
        np.cumsum(lengths, out=offsets[1:])
        rows = [np.asarray(s) for s in sequences]
        wrong = next((number for number, row in enumerate(rows) if row.dtype.kind not in "iu" or row.ndim != 1), None)
        if wrong is not None:
            shape = rows[wrong].shape
            raise ValueError(f"sequence {wrong} is no list of token ids: {rows[wrong].dtype} of shape {shape}")
        ids = np.concatenate([row.astype(np.int64, copy=False) for row in rows])
        return cls(ids, offsets, int(lengths.max()))

    @property
    def tokens(self) -> int:
        """Return T, the number of tokens."""
        return int(self.ids.shape[0])

    @property
    def sequences(self) -> int:
        """Return S, the number of sequences."""
        return int(self.offsets.shape[0]) - 1

    @cached_property
    def lengths(self) -> list[int]:
        """Return the length of each sequence as plain numbers (kept on the host: attention plans with them)."""
        offsets = self.offsets.tolist()
        return [end - start for start, end in pairwise(offsets)]

    def to(self, device: torch.device | str = "cpu") -> Packed:
        """Return the same batch as torch tensors on ``device``."""
        import torch

        def move(array: Any) -> Any:
            if array is None:
                return None
            tensor = torch.from_numpy(array) if isinstance(array, np.ndarray) else array
            return tensor.to(device, non_blocking=True)

        ids, offsets, targets, labels = map(move, (self.ids, self.offsets, self.targets, self.labels))
        moved = Packed(ids, offsets, self.longest, targets, labels, self.adapters)
        moved.__dict__["lengths"] = self.lengths  # already on the host: do not fetch them back from a device
        return moved

    def tensors(self, device: torch.device | str) -> Packed:
        """Return the batch itself where it holds torch tensors, else the same on ``device``."""
        return self.to(device) if isinstance(self.ids, np.ndarray) else self

    def part(self, sequences: Sequence[int]) -> tuple[Packed, torch.Tensor]:
        """Return a batch of some of its sequences, and where their tokens stand in this one, (N,) int64.

        Only of torch tensors; targets and labels are left out.
        """
        import torch

        offsets = self.offsets.tolist()
        places = torch.cat([torch.arange(offsets[number], offsets[number + 1]) for number in sequences])
        lengths = [self.lengths[number] for number in sequences]
        bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        places, bounds = places.to(self.ids.device), bounds.to(self.ids.device)
        return Packed(self.ids[places], bounds, max(lengths)), places

    def unpack(self, rows: Any) -> list[Any]:
        """Cut per-token rows (T, ...) back into one array per sequence."""
        offsets = self.offsets.tolist()
        return [rows[start:end] for start, end in pairwise(offsets)]
