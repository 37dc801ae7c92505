"""The softmax of a cross entropy over a vocabulary and its gradient, in place, by ``softmax.c``.

Shapes: ``n`` rows, ``V`` vocabulary.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbert.native import library
from mmbert.native.library import Library

log = logging.getLogger(__name__)


class Scores(ctypes.Structure):
    """``Scores`` of softmax.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("scores", "bias", "labels", "found", "sums", "scratch")),
        *((name, ctypes.c_int64) for name in ("room", "rows", "width", "threads", "bf16", "gradient")),
    )


def ready(scores: Tensor, bias: Tensor) -> bool:
    """Return whether :func:`gradient` computes with scores and a bias of these types here."""
    if scores.device.type != "cpu" or not scores.is_contiguous() or bias.dtype != torch.float32:
        return False
    return library.computes(scores.dtype, _right)


def gradient(scores: Tensor, bias: Tensor, labels: Tensor, *, wanted: bool = True) -> tuple[Tensor, Tensor]:
    """Turn scores before the bias into their gradient; return the cross entropy's sum and the bias's gradient.

    scores  (n, V), contiguous, written in place if the gradient is ``wanted``
    bias    (V,) fp32
    labels  (n,) int64
    Returns the sum of the losses, fp64, and (V,) fp32. Raises IndexError for a label that is none of V.
    """
    rows, width = scores.shape
    if rows and not 0 <= int(labels.min()) <= int(labels.max()) < width:
        raise IndexError(f"labels from {int(labels.min())} to {int(labels.max())}, of a vocabulary of {width}")
    threads = torch.get_num_threads()
    room = -(-width // 16) * 16 * 4
    found, sums = bias.new_empty(rows, 3), bias.new_zeros(width)
    tensors = (
        scores,
        bias.contiguous(),
        labels.contiguous(),
        found,
        sums,
        scores.new_empty(threads * room, dtype=torch.uint8),
    )
    given = Scores(*(tensor.data_ptr() for tensor in tensors), room, rows, width, threads)
    given.bf16, given.gradient = scores.dtype == torch.bfloat16, wanted
    kernels = library.find()
    assert isinstance(kernels, Library)
    kernels.functions.softmax_gradient(ctypes.byref(given))
    largest, total, of_labels = found.double().unbind(1)
    return (largest + total.log() - of_labels).sum(), sums


@cache
def _right(found: Library) -> bool:
    """Return whether losses and gradients agree with torch on small cases."""
    dtypes = (torch.float32, *[torch.bfloat16] * found.bf16)
    right = library.apart(lambda: all(_agrees(dtype, width) for dtype in dtypes for width in (32, 45)))
    if not right:
        log.warning("the native kernel of the loss gives wrong numbers here and is left out: please report it")
    return right


def _agrees(dtype: torch.dtype, width: int) -> bool:
    draw = torch.Generator().manual_seed(0)
    scores, bias = 3 * torch.randn(5, width, generator=draw), torch.randn(width, generator=draw)
    labels = torch.tensor([0, 7, width - 1, 7, 31]).clamp(max=width - 1)
    written = scores.to(dtype)
    exact = written.float().requires_grad_()
    wanted = F.cross_entropy(exact + bias, labels, reduction="sum")
    (change,) = torch.autograd.grad(wanted, exact)
    loss, sums = gradient(written, bias, labels)
    most = 0.01 if dtype == torch.bfloat16 else 1e-5
    pairs = ((loss, wanted), (written.float(), change), (sums, change.sum(0)))
    return all(bool((one - other).norm() <= most * other.norm() + 1e-5) for one, other in pairs)
