"""The weighted mean of models, such as the last checkpoints of a phase with fading weights.

mmBERT-small is such a mean of the last checkpoints of its Decay-All phase ("exponentially weighted", arXiv 2509.06888).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def fading_weights(count: int, fading: float) -> list[float]:
    """Return weights of ``count`` checkpoints, oldest first: each is ``fading`` times the next, and their sum is 1."""
    # w_i ~ fading ** age; fading = 1 is the plain mean, and the newest checkpoint (age 0) always weighs most.
    raw = [fading**age for age in range(count - 1, -1, -1)]
    return [weight / sum(raw) for weight in raw]


def average(variants: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """Return the weighted mean of tensors of one shape, in the type of the first.

    Summed in float64, so that the mean of equal tensors is that tensor, bit for bit.
    """
    factors = list(weights) if weights is not None else [1.0] * len(variants)
    total = torch.zeros_like(variants[0], dtype=torch.float64)
    for variant, factor in zip(variants, factors, strict=True):
        total += variant.double() * factor
    # Dividing by the sum makes weights of any scale a mean; one rounding to the stored type, at the very end.
    return (total / sum(factors)).to(variants[0].dtype)
