"""TIES on tensors in memory, of the parts that ``mmbert.surgery.merge`` applies chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmbert.surgery.select import Selection, Threshold, Trim
from mmbert.surgery.ties import disjoint_mean, elect, entries_kept


def threshold_of(difference: Tensor, density: float) -> Threshold | None:
    """The trim threshold of one task vector of any shape; None if all is kept."""
    keep = entries_kept(difference.numel(), density)
    if keep >= difference.numel():
        return None
    selection = Selection(keep)
    flat = difference.reshape(-1).float()
    for _ in range(2):
        selection.count(flat)
        selection.next_pass()
    return selection.threshold


def trim(difference: Tensor, density: float) -> Tensor:
    """Zero all but the ``density`` largest entries by magnitude; of equal ones the first stay."""
    return Trim(threshold_of(difference, density))(difference.reshape(-1).float()).reshape(difference.shape)


def ties(
    base: Tensor,
    variants: Sequence[Tensor],
    *,
    weights: Sequence[float] | None = None,
    density: float = 0.2,
    scale: float = 1.0,
    even: float = 1.0,
) -> Tensor:
    """Merge one tensor, trimmed by itself; computed in float32, returned in the type of ``base``.

    To trim over a whole model, concatenate its flattened tensors.
    """
    shape, flat = base.shape, base.reshape(-1).float()
    factors = torch.tensor(weights if weights is not None else [1.0] * len(variants))
    trimmed = torch.stack([trim(variant.reshape(-1).float() - flat, density) for variant in variants])
    merged = disjoint_mean(trimmed, factors, elect(trimmed, factors, even))
    return (flat + scale * merged).reshape(shape).to(base.dtype)
