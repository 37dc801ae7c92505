"""The exact k-th largest magnitude of a stream of numbers, without keeping the numbers.

The bits of a non-negative float, read as an integer, order like the float itself. So selection is a search for an
integer of 31 bits, done in two passes over the same stream:

1. count the magnitudes by their upper 16 bits and find the bin that holds the k-th largest;
2. count those of that bin by their lower 15 bits: the bin found now is one single value, the threshold.

Both tables together are 98,304 counters, however long the stream. Several entries may have exactly the threshold's
magnitude (common in bf16 weights); of those the earliest in the stream are kept, so that exactly k survive and the
result does not depend on a sorting algorithm.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_LOW_BITS = 15
_HIGH_BINS = 1 << 16
_LOW_BINS = 1 << _LOW_BITS


@dataclass(frozen=True)
class Threshold:
    """The entries that survive a trim: all above ``magnitude``, and the first ``equal`` entries equal to it."""

    magnitude: float
    equal: int


class Selection:
    """Two passes of :meth:`count` over the same numbers, each ended by :meth:`next_pass`, give :attr:`threshold`."""

    def __init__(self, keep: int) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        self._wanted = keep
        self._high: int | None = None
        self._table = torch.zeros(_HIGH_BINS, dtype=torch.int64)
        self.threshold: Threshold | None = None
        """Set by the second :meth:`next_pass`; None before."""

    def count(self, values: Tensor) -> None:
        """Take a part of the stream, (n,) float32, finite."""
        bits = values.abs().view(torch.int32)  # ordered as the magnitudes are
        # 31 bits, as the sign is gone: 16 for the bin, 15 within it.
        high = bits >> _LOW_BITS
        if self._high is None:
            self._table += torch.bincount(high, minlength=_HIGH_BINS)
        else:
            low = bits[high == self._high] & (_LOW_BINS - 1)
            self._table += torch.bincount(low, minlength=_LOW_BINS)

    def next_pass(self) -> None:
        """End a pass. Raises ValueError if fewer numbers passed than are to be kept."""
        # from_top[i]: how many magnitudes lie in the i + 1 highest bins.
        from_top = self._table.flip(0).cumsum(0)
        if int(from_top[-1]) < self._wanted:
            raise ValueError(f"cannot keep {self._wanted} of {int(from_top[-1])} numbers")
        place = int(torch.searchsorted(from_top, self._wanted))
        # Everything in higher bins survives for certain; only the rest of k is still searched, within this bin.
        above = int(from_top[place - 1]) if place else 0
        self._wanted -= above
        if self._high is None:
            self._high = _HIGH_BINS - 1 - place
            self._table = torch.zeros(_LOW_BINS, dtype=torch.int64)
        else:
            bits = self._high << _LOW_BITS | (_LOW_BINS - 1 - place)
            # The bits are the number itself, so the threshold is exact: no interpolation between values.
            magnitude = torch.tensor(bits, dtype=torch.int32).view(torch.float32).item()
            self.threshold = Threshold(magnitude, self._wanted)


class Trim:
    """Zeroes the entries of a stream below a threshold, and counts the entries equal to it that were kept."""

    def __init__(self, threshold: Threshold | None) -> None:
        self._threshold = threshold
        self._equal_left = 0 if threshold is None else threshold.equal

    def __call__(self, values: Tensor) -> Tensor:
        """Trim the next part of the stream, (n,) float32: small entries become zero. No threshold keeps all."""
        if self._threshold is None:
            return values
        magnitudes = values.abs()
        keep = magnitudes > self._threshold.magnitude
        if self._equal_left:
            # Exactly k survive even among equal magnitudes; the stream must come in the order in which it was counted.
            equal = (magnitudes == self._threshold.magnitude).nonzero().squeeze(1)[: self._equal_left]
            keep[equal] = True
            self._equal_left -= len(equal)
        return values * keep
