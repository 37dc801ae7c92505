"""Cross entropy of the labelled tokens over a large vocabulary, in chunks of rows, never all logits at once.

The gradients of the projection are computed chunk by chunk in the forward pass, while the chunk's logits exist:

    z = x Wᵀ + b     loss = Σ (logsumexp(z) - z[y])     dz = softmax(z) - onehot(y)     dx = dz W, dW = dzᵀ x, db = Σ dz

so logits are computed once (gradient checkpointing of chunks computes them twice), and memory is one chunk of logits
plus the gradients themselves. Products are in autocast's dtype; the softmax, the loss and the sums over chunks in fp32.

``F.linear_cross_entropy`` (torch 2.13) sums the loss in bf16 (9.0112 instead of 9.0451), is slower, and does not exist
in older versions; so this is the only path, on all versions. The tests compare with it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmbert.model.heads import MaskedLM
from mmbert.native import softmax
from mmbert.packed import Packed

_CACHED = 2**18
"""Scores (fp32) that stay in the cache of a CPU core while it passes over them several times (2**17: 1.1 times as slow,
2**16: 1.35 times)."""

_ROWS = 2**14
"""Rows of the projection whose gradient is computed at a time: all 256,000 at once take 1.5 times as long."""


def loss_sum(model: MaskedLM, packed: Packed, chunk: int | None = None) -> Tensor:
    """Sum of the cross entropy (nats) over the labelled tokens of ``packed``; exactly 0 if it has none.

    The sum, not the mean: the caller divides by the number of labels of the whole step, over all micro-batches
    and ranks. ``chunk``: rows of logits at a time; None chooses by device.
    """
    features = model.features(packed)
    return cross_entropy_sum(features, model.decoder.weight, model.decoder.bias, packed.labels, chunk)


def cross_entropy_sum(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, chunk: int | None = None) -> Tensor:
    """Return ``F.cross_entropy(hidden @ weight.T + bias, labels, reduction="sum")`` without the logits of all rows.

    hidden (N, h), weight (V, h), bias (V,), labels (N,) int64 -> scalar fp32. Its backward pass can run once.
    """
    if chunk is None:
        chunk = 512 if hidden.device.type == "cpu" else 4096
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    train = torch.is_grad_enabled()
    loss: Tensor = _CrossEntropySum.apply(hidden, weight, bias, labels, chunk, dtype, train)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropySum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        hidden, weight, bias, labels, chunk, dtype, train = inputs
        with torch.autocast(hidden.device.type, enabled=False):
            x, w = hidden.to(dtype), weight.to(dtype)  # autocast is off here, so the cast is done by hand, once
            # fp64, so that the sum does not depend on the size of the chunks
            total = torch.zeros((), dtype=torch.float64, device=hidden.device)
            grads = [torch.zeros_like(tensor, dtype=torch.float32) for tensor in (weight, bias)] if train else []
            grad_hidden = torch.empty_like(hidden) if train else None
            for start in range(0, len(labels), chunk):
                rows = slice(start, start + chunk)
                scores = x[rows] @ w.t()
                total += _softmax_gradient(scores, bias, labels[rows], grads[1] if train else None)
                # from here on ``scores`` holds dz = softmax(z) - onehot(y)
                if grad_hidden is not None:
                    _add_product(grads[0], scores.t(), x[rows])
                    grad_hidden[rows] = scores @ w
        if grad_hidden is not None:
            ctx.save_for_backward(grad_hidden, *grads)
        return total.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        # in place: a second backward pass through the same graph raises, as torch watches saved tensors
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        return (*(g.mul_(grad_output) for g in (grad_hidden, grad_weight, grad_bias)), None, None, None, None)


def _softmax_gradient(scores: Tensor, bias: Tensor, labels: Tensor, grad_bias: Tensor | None) -> Tensor:
    """Return the loss of a chunk; ``scores`` (n, V), before the bias, become their own gradient in place.

    On a CPU a few rows at a time, so that what happens between two products stays in the cache. ``grad_bias`` (V,) is
    added to; None: only the loss is wanted.
    """
    if softmax.ready(scores, bias):
        loss, sums = softmax.gradient(scores, bias, labels, wanted=grad_bias is not None)
        if grad_bias is not None:
            grad_bias += sums
        return loss
    rows = max(1, _CACHED // len(bias)) if scores.device.type == "cpu" else len(labels)
    total = torch.zeros((), dtype=torch.float64, device=scores.device)
    for part, of_part in zip(torch.split(scores, rows), torch.split(labels[:, None], rows), strict=True):
        logits = part.float().add_(bias)  # fp32 scores are overwritten; others are converted, and written back below
        largest, of_labels = logits.amax(1), logits.gather(1, of_part)
        # a CPU's kernel goes row by row, so its input may be its output; a GPU's is not known to
        shares = torch.softmax(logits, dim=1, out=logits if logits.device.type == "cpu" else None)
        # logsumexp(z) = max(z) - log softmax(z)[argmax]: that share is at least 1 / V and cannot underflow, and the
        # exponential of every score is computed once
        total += (largest - shares.amax(1).log()).sum() - of_labels.sum()
        if grad_bias is not None:
            shares.scatter_add_(1, of_part, shares.new_full(of_part.shape, -1.0))
            grad_bias += shares.sum(0)
            if part.data_ptr() != shares.data_ptr():
                part.copy_(shares)
    return total


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add ``a @ b`` to ``total``, which is fp32 whatever the factors are, some rows at a time."""
    for part, rows in zip(torch.split(total, _ROWS), torch.split(a, _ROWS), strict=True):
        if part.dtype == a.dtype:  # fp32: accumulated in place by the matrix product itself
            part.addmm_(rows, b)
        else:
            part += rows @ b
