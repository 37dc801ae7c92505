"""Losses of packed tasks: the sum over labelled items, divided by the items of the whole step.

The whole step means all its micro-batches on all processes, as the trainer counts them (labels that are not -100): a
mean of means would weigh a short batch's items more. Without that number (``items`` is None) the batch's own is taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbert.packed import Packed

IGNORED = -100
Items = Tensor | int | None

NONE = -1e4
"""A logit that no softmax gives weight: for choices an example does not have."""


class ClassLoss:
    """Cross entropy of rows (N, labels) with labels (N,), -100 left out.

    weights  of each class; None: all alike
    gamma    of focal loss (arXiv 1708.02002, equation 4): each item's loss times (1 - p) ** gamma
    """

    def __init__(self, weights: Sequence[float] | None = None, gamma: float = 0.0) -> None:
        self._weights = None if weights is None else torch.tensor(weights)
        self._gamma = gamma

    def __call__(self, logits: Tensor, packed: Packed, labels: Tensor, items: Items) -> Tensor:
        known = labels.flatten() != IGNORED
        rows, wanted = logits[known], labels.flatten()[known]
        each = F.cross_entropy(rows, wanted, reduction="none")
        if self._gamma:
            each = each * (1 - torch.exp(-each)) ** self._gamma
        if self._weights is not None:
            each = each * self._weights.to(each.device)[wanted]
        return _over(each.sum(), items, len(wanted))


def number_loss(logits: Tensor, packed: Packed, labels: Tensor, items: Items) -> Tensor:
    """Squared error of (S, 1) with labels (S,)."""
    return _over(F.mse_loss(logits[:, 0], labels, reduction="sum"), items, labels.numel())


class MultiLabelLoss:
    """Binary cross entropy of each class by itself: (S, labels) with labels (S, labels) of 0 and 1."""

    def __init__(self, weights: Sequence[float] | None = None, gamma: float = 0.0) -> None:
        self._weights = None if weights is None else torch.tensor(weights)
        self._gamma = gamma

    def __call__(self, logits: Tensor, packed: Packed, labels: Tensor, items: Items) -> Tensor:
        each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        if self._gamma:
            each = each * (1 - torch.exp(-each)) ** self._gamma
        if self._weights is not None:
            each = each * self._weights.to(each.device)
        return _over(each.sum(), items, labels.numel())


def span_loss(logits: Tensor, packed: Packed, labels: Tensor, items: Items) -> Tensor:
    """Mean of the cross entropies of begin and end over each text's tokens: (T, 2) with labels (S, 2), places in it."""
    count = packed.sequences
    owner = torch.repeat_interleave(torch.arange(count, device=logits.device), packed.offsets.long().diff())
    index = owner[:, None].expand(-1, 2)
    top = torch.full((count, 2), -torch.inf, device=logits.device)
    top = top.scatter_reduce(0, index, logits.detach(), "amax")
    sums = torch.zeros((count, 2), device=logits.device).scatter_add(0, index, torch.exp(logits - top[owner]))
    totals = torch.log(sums) + top
    places = packed.offsets.long()[:-1, None] + labels
    return _over((totals - torch.gather(logits, 0, places)).sum(), items, labels.numel())


def choice_loss(scores: Tensor, labels: Tensor, items: Items) -> Tensor:
    """Cross entropy over the choices of each example: (E, C) with labels (E,)."""
    return _over(F.cross_entropy(scores, labels, reduction="sum"), items, len(labels))


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """examples / (classes * examples of the class), as scikit-learn's ``balanced``; 0 for a class without any."""
    total = sum(counts)
    return [total / (len(counts) * count) if count else 0.0 for count in counts]


def _over(total: Tensor, items: Items, own: int) -> Tensor:
    return total / (max(own, 1) if items is None else items)
