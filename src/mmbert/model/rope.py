"""Rotary positions (RoFormer, 2104.09864), NeoX halves as in Hugging Face's ModernBERT, restarted at every document.

Angles are computed once per batch in fp32 and shared by all layers with the same theta. ``rotate`` takes the fused
projection apart and turns queries and keys in one pass: autograd through slices and ``cat`` would write each gradient
several times over.

Shapes: ``T`` tokens, ``H`` heads, ``D`` head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Angles = tuple[Tensor, Tensor]
"""Cosine and sine of position times frequency, each (T, 1, D / 2) fp32."""


def angles(positions: Tensor, head_dim: int, theta: float) -> Angles:
    """Cosines and sines for ``positions`` (T,): frequency j is theta^(-2j / D)."""
    # the powers are taken on the host so that every device turns by the very same angles
    frequencies = 1.0 / (theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim))
    turns = positions.to(torch.float32)[:, None] * frequencies.to(positions.device)
    return turns.cos()[:, None, :], turns.sin()[:, None, :]


def rotate(qkv: Tensor, turns: Angles, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Split ``qkv`` (T, 3, H, D) into rotated queries, rotated keys and values, each (T, H, D) in ``dtype``.

    The turning itself is done in fp32 whatever the types of input and output.
    """
    q, k, v = _Rotate.apply(qkv, *turns, dtype)  # type: ignore[no-untyped-call]
    return q, k, v


class _Rotate(torch.autograd.Function):
    """The gradient of a rotation is the rotation by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = qkv.dtype
        tokens, _, heads, width = qkv.shape
        q, k, v = qkv.new_empty(3, tokens, heads, width, dtype=dtype).unbind(0)
        _turn(qkv[:, 0], cos, sin, q)
        _turn(qkv[:, 1], cos, sin, k)
        v.copy_(qkv[:, 2])
        return q, k, v

    @staticmethod
    def backward(ctx: Any, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        grad = dq.new_empty(dq.shape[0], 3, *dq.shape[1:], dtype=ctx.dtype)
        _turn(dq, cos, -sin, grad[:, 0])
        _turn(dk, cos, -sin, grad[:, 1])
        grad[:, 2].copy_(dv)
        return grad, None, None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Write x turned by the angles into ``out``; both (T, H, D)."""
    turned = out if out.dtype == torch.float32 else torch.empty_like(out, dtype=torch.float32)
    first, second = x.float().chunk(2, dim=-1)
    left, right = turned.chunk(2, dim=-1)
    torch.mul(first, cos, out=left).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=right).addcmul_(first, sin)
    if turned is not out:
        out.copy_(turned)
