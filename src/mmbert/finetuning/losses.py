"""Losses of packed tasks: the sum over labelled items, divided by the items of the whole step.

The whole step means all its micro-batches on all processes, as the trainer counts them (labels that are not -100): in a
mean of means an item would weigh more the fewer items its micro-batch has. If the number is not given (``items`` is
None), that of the batch is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbert.packed import Packed

IGNORED = -100
Items = Tensor | int | None

NONE = -1e4
"""A logit that no softmax gives weight: for choices an example does not have."""


UNLABELLED = -1
"""Stands for the number of a class: the example has no gold label, and learns from a teacher alone."""


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
        return over(self.each(rows, wanted).sum(), items, len(wanted))

    def each(self, rows: Tensor, wanted: Tensor) -> Tensor:
        """Return the loss (N,) of each row."""
        return self._weigh(F.cross_entropy(rows, wanted, reduction="none"), wanted)

    def _weigh(self, each: Tensor, classes: Any) -> Tensor:
        """Return losses ``each``, of which p = exp(-loss), focused and weighted by their ``classes``."""
        if self._gamma:
            each = each * (1 - torch.exp(-each)) ** self._gamma
        if self._weights is not None:
            each = each * self._weights.to(each.device)[classes]
        return each


class MultiLabelLoss(ClassLoss):
    """Binary cross entropy of each class by itself: (S, labels) with labels (S, labels) of 0 and 1."""

    def __call__(self, logits: Tensor, packed: Packed, labels: Tensor, items: Items) -> Tensor:
        return over(self.each(logits, labels).sum(), items, labels.numel())

    def each(self, rows: Tensor, wanted: Tensor) -> Tensor:
        """Return the loss (S, labels) of each class of each text."""
        return self._weigh(F.binary_cross_entropy_with_logits(rows, wanted, reduction="none"), ...)


def number_loss(logits: Tensor, packed: Packed, labels: Tensor, items: Items) -> Tensor:
    """Return the squared error of (S, 1) with labels (S,)."""
    return over(F.mse_loss(logits[:, 0], labels, reduction="sum"), items, labels.numel())


def span_loss(logits: Tensor, packed: Packed, labels: Tensor, items: Items) -> Tensor:
    """Return the mean cross entropy of start and end over each text's tokens: (T, 2) with positions (S, 2)."""
    count = packed.sequences
    owner = torch.repeat_interleave(torch.arange(count, device=logits.device), packed.offsets.long().diff())
    index = owner[:, None].expand(-1, 2)
    # logsumexp of each text, in packed form: the maximum is subtracted so that no exponential overflows
    top = torch.full((count, 2), -torch.inf, device=logits.device)
    top = top.scatter_reduce(0, index, logits.detach(), "amax")
    sums = torch.zeros((count, 2), device=logits.device).scatter_add(0, index, torch.exp(logits - top[owner]))
    totals = torch.log(sums) + top
    places = packed.offsets.long()[:-1, None] + labels
    return over((totals - torch.gather(logits, 0, places)).sum(), items, labels.numel())


def choice_loss(scores: Tensor, labels: Tensor, items: Items) -> Tensor:
    """Return the cross entropy over the choices of each example: (E, C) with labels (E,)."""
    return over(F.cross_entropy(scores, labels, reduction="sum"), items, len(labels))


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """Return examples / (classes * examples of the class), as scikit-learn's ``balanced``; 0 for an empty class."""
    total = sum(counts)
    return [total / (len(counts) * count) if count else 0.0 for count in counts]


def over(total: Tensor, items: Items, own: int) -> Tensor:
    """Return a sum divided by the items of the step, or by the ``own`` ones of the batch where those are not given."""
    return total / (max(own, 1) if items is None else items)
