"""Losses of packed tasks with a teacher: its logits and the labels, each with its weight.

An example, or a word, without a gold label learns from the teacher alone, and one that the teacher did not read from
its label alone, both with weight 1: every item counts the same in a step, whatever it has.

Shapes: N items (texts, or words), L labels. ``teacher``: the teacher's logits (N, L), NaN where it read nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbert.finetuning.losses import IGNORED, UNLABELLED, ClassLoss, Items, MultiLabelLoss, over
from mmbert.packed import Packed

Each = Callable[[Tensor, Tensor], Tensor]
"""(logits, target) -> the loss of each item, (N,) or (N, L)."""


class TeacherLoss:
    """The weighted sum of a teacher's loss and the labels' loss.

    labels   the loss of each item with its gold label; ``teacher``: with the teacher's logits
    weight   of the teacher's loss; the labels' has the rest
    numbers  the labels are numbers (N,), and NaN means that there is none; else those of several classes (N, L) may be
             NaN, and those of one class (N,) are ``UNLABELLED`` without one, and -100 where a token is no item
    """

    def __init__(self, labels: Each, teacher: Each, weight: float, *, numbers: bool = False) -> None:
        self._labels, self._teacher, self._weight, self._numbers = labels, teacher, weight, numbers

    def __call__(self, logits: Tensor, packed: Packed, labels: Tensor, items: Items, teacher: Tensor) -> Tensor:
        target = teacher.float()
        if self._numbers:
            rows, wanted, target = logits[:, 0], labels, target[:, 0]
            labelled, taught = wanted.isfinite(), target.isfinite()
        elif labels.is_floating_point():
            rows, wanted = logits, labels
            labelled, taught = wanted.isfinite(), target.isfinite()
        else:
            kept = labels != IGNORED
            rows, wanted = logits[kept], labels[kept]
            labelled, taught = wanted != UNLABELLED, target.isfinite().all(-1)
        # Weights instead of selected rows: what an item lacks is a finite stand-in with weight 0.
        of_teacher = torch.where(labelled, self._weight, 1.0) * taught
        of_label = torch.where(taught, 1.0 - self._weight, 1.0) * labelled
        stand_in = torch.where(labelled, wanted, torch.zeros_like(wanted))
        total = of_teacher * self._teacher(rows, target.nan_to_num()) + of_label * self._labels(rows, stand_in)
        return over(total.sum(), items, wanted.numel())


def class_teacher_loss(labels: ClassLoss, temperature: float, weight: float) -> TeacherLoss:
    """Return the loss of classes: T^2 KL(teacher || student) of both distributions at the temperature T.

    The factor T^2 keeps the gradients on the scale of the labels', whatever the temperature (Hinton et al. 1503.02531,
    section 2).
    """

    def each(rows: Tensor, target: Tensor) -> Tensor:
        said = F.log_softmax(rows / temperature, -1)
        wanted = F.log_softmax(target / temperature, -1)
        return F.kl_div(said, wanted, reduction="none", log_target=True).sum(-1) * temperature**2

    return TeacherLoss(labels.each, each, weight)


def multi_label_teacher_loss(labels: MultiLabelLoss, temperature: float, weight: float) -> TeacherLoss:
    """Return the same for several classes at once, each a distribution over yes and no: T^2 BCE."""

    def each(rows: Tensor, target: Tensor) -> Tensor:
        wanted = torch.sigmoid(target / temperature)
        return F.binary_cross_entropy_with_logits(rows / temperature, wanted, reduction="none") * temperature**2

    return TeacherLoss(labels.each, each, weight)


def number_teacher_loss(weight: float) -> TeacherLoss:
    """Return the squared error with the teacher's number, and with the gold one."""

    def each(rows: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(rows, target, reduction="none")

    return TeacherLoss(each, each, weight, numbers=True)
