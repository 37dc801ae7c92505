"""Cross entropy of the labelled tokens over a large vocabulary, in chunks of rows, never all logits at once.

The gradients of the projection are computed chunk by chunk in the forward pass, while the chunk's logits exist:

    z = x Wᵀ + b     loss = Σ (logsumexp(z) - z[y])     dz = softmax(z) - onehot(y)     dx = dz W, dW = dzᵀ x, db = Σ dz

so logits are made once (checkpointed chunks make them twice), and memory is one chunk of logits plus the gradients
themselves. Products are in autocast's type, the softmax, the loss and the sums over chunks in fp32.

Measured on one thread of a CPU with AVX-512 bf16, ms forward and backward, chunks of 256 rows (gradients equal):

    rows x width -> vocabulary       plain    checkpointed chunks    F.linear_cross_entropy    this
    2500 x 192 -> 8,192    fp32        438                    480                       320     331
                           bf16        370                    298                       371     204
    512 x 384 -> 256,000   fp32          -                  7,514                     4,475   5,437
                           bf16          -                  5,435                     6,010   3,696

``F.linear_cross_entropy`` (torch 2.13) adds the loss itself up in bf16 (9.0112 instead of 9.0451), is slower there,
and does not exist before; so this is the only path, on all versions. It serves as an oracle in the tests.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed


def loss_sum(model: MaskedLM, packed: Packed, chunk: int | None = None) -> Tensor:
    """Sum of the cross entropy (nats) over the labelled tokens of ``packed``; exactly 0 if it has none.

    The sum, not the mean: the caller divides by the number of labels of the whole step, over all micro-batches
    and ranks. ``chunk``: rows of logits at a time; None chooses by device.
    """
    features = model.features(packed)
    return cross_entropy_sum(features, model.decoder.weight, model.decoder.bias, packed.labels, chunk)


def cross_entropy_sum(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, chunk: int | None = None) -> Tensor:
    """``F.cross_entropy(hidden @ weight.T + bias, labels, reduction="sum")`` without the logits of all rows.

    hidden (N, h), weight (V, h), bias (V,), labels (N,) int64 -> scalar fp32. Its backward pass can run once.
    """
    if chunk is None:
        chunk = 256 if hidden.device.type == "cpu" else 4096  # CPU: 256 x 8,192 logits stay in the cache
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
            x, w = hidden.to(dtype), weight.to(dtype)
            total = torch.zeros((), dtype=torch.float64, device=hidden.device)
            grads = [torch.zeros_like(tensor, dtype=torch.float32) for tensor in (weight, bias)] if train else []
            grad_hidden = torch.empty_like(hidden) if train else None
            for start in range(0, len(labels), chunk):
                rows = slice(start, start + chunk)
                target = labels[rows, None]
                scores = torch.log_softmax((x[rows] @ w.t()).float().add_(bias), dim=1)
                total -= scores.gather(1, target).sum()
                if grad_hidden is not None:
                    grad = scores.exp_().scatter_add_(1, target, scores.new_full(target.shape, -1.0))
                    grads[1] += grad.sum(0)
                    grad = grad.to(dtype)
                    _add_product(grads[0], grad.t(), x[rows])
                    grad_hidden[rows] = grad @ w
        if grad_hidden is not None:
            ctx.save_for_backward(grad_hidden, *grads)
        return total.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        # in place: a second backward pass through the same graph raises, as torch watches saved tensors
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        return (*(g.mul_(grad_output) for g in (grad_hidden, grad_weight, grad_bias)), None, None, None, None)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """``total += a @ b`` with ``total`` in fp32 whatever the factors are."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
