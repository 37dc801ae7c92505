"""Rotary positions (RoFormer, 2104.09864), NeoX halves as in Hugging Face's ModernBERT, restarted at every document.

Angles are computed once per batch in fp32 and shared by all layers with the same theta. ``rotate`` takes the fused
projection apart and has a backward of its own: autograd through slices and ``cat`` would write each gradient several
times.

Shapes: ``T`` tokens, ``H`` heads, ``D`` head dimension.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mmbert.rope_scaling import RopeScaling


@dataclass(frozen=True)
class Angles:
    """Cosine and sine of position times frequency, each (T, 1, D / 2) fp32; iterating gives the two."""

    cos: Tensor
    sin: Tensor
    heads: int

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.cos, self.sin))

    @cached_property
    def factors(self) -> tuple[Tensor, Tensor]:
        """The factors of ``_rotated``. On a CPU (T, H, D): (cos, cos) and (-sin, sin), expanded for every head.

        A CPU multiplies whole rows faster than each half of each head by itself; elsewhere reading only cos and sin is
        faster.
        """
        if self.cos.device.type != "cpu":
            return self.cos, self.sin
        cos, sin = torch.cat((self.cos, self.cos), -1), torch.cat((-self.sin, self.sin), -1)
        return cos.repeat(1, self.heads, 1), sin.repeat(1, self.heads, 1)


def angles(
    positions: Tensor,
    head_dim: int,
    theta: float,
    heads: int = 1,
    scaling: RopeScaling | None = None,
    lengths: Tensor | None = None,
) -> Angles:
    """Return cosines and sines for ``positions`` (T,). ``heads``: of the queries and keys that they will rotate.

    lengths  (T,) tokens of the document that each position belongs to, for a dynamic scaling
    """
    # Always fp32: bf16 has 8 bits, in which positions beyond 256 can no longer be told apart.
    turns = positions.to(torch.float32)[:, None] * frequencies(head_dim, theta, scaling, lengths).to(positions.device)
    scale = attention_factor(scaling)  # of queries and keys, so attention scores take its square
    return Angles(turns.cos()[:, None, :] * scale, turns.sin()[:, None, :] * scale, heads)


def frequencies(
    head_dim: int, theta: float, scaling: RopeScaling | None = None, lengths: Tensor | None = None
) -> Tensor:
    """Return (D / 2,) fp32: frequency j is theta^(-2j / D). Computed on the host, so equal on every device.

    A dynamic scaling with ``lengths`` (T,) has frequencies of its own for every document: (T, D / 2).
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
    plain: Tensor = 1.0 / (theta**exponents)
    if scaling is None:
        return plain
    factor, original = scaling.factor, scaling.original_max_position_embeddings
    match scaling.rope_type:
        case "linear":
            return plain / factor
        case "dynamic":
            if lengths is None:
                return plain
            longest = lengths.cpu().clamp(min=original).to(torch.float64)[:, None]
            growth = (factor * longest / original - (factor - 1)) ** (head_dim / (head_dim - 2))
            return (1.0 / (theta * growth) ** exponents.to(torch.float64)).to(torch.float32)
        case "yarn":
            divided = _yarn_ramp(head_dim, theta, scaling)
            return plain / factor * divided + plain * (1 - divided)
        case "llama3":
            low, high = scaling.low_freq_factor, scaling.high_freq_factor
            assert low is not None
            assert high is not None
            turns = original * plain / (2 * math.pi)  # of this frequency within the original length
            kept = ((turns - low) / (high - low)).clamp(0, 1)
            return (1 - kept) * plain / factor + kept * plain


def _yarn_ramp(head_dim: int, theta: float, scaling: RopeScaling) -> Tensor:
    """Return (D / 2,) between 0, where a frequency stays, and 1, where it is divided (2309.00071, section 3.2)."""

    def place(turns: float) -> float:
        """Return the index, not whole, of the frequency that makes so many turns within the original length."""
        wavelength = scaling.original_max_position_embeddings / turns
        return head_dim * math.log(wavelength / (2 * math.pi)) / (2 * math.log(theta))

    first = max(math.floor(place(scaling.beta_fast)), 0)
    last = min(math.ceil(place(scaling.beta_slow)), head_dim - 1)
    width = last - first or 0.001  # as transformers: no division by 0
    return ((torch.arange(head_dim // 2, dtype=torch.float32) - first) / width).clamp(0, 1)


def attention_factor(scaling: RopeScaling | None) -> float:
    """Return what cosines and sines are multiplied by: above 1 for YaRN (2309.00071, section 3.4), else 1."""
    if scaling is None or scaling.rope_type != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor

    def temperature(scale: float) -> float:
        return 0.1 * scale * math.log(scaling.factor) + 1.0

    if scaling.mscale and scaling.mscale_all_dim:
        return temperature(scaling.mscale) / temperature(scaling.mscale_all_dim)
    return temperature(1.0)


def rotate(qkv: Tensor, cos_sin: Angles, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Split ``qkv`` (T, 3, H, D) into rotated queries, rotated keys and values, each (T, H, D) in ``dtype``.

    The rotation is computed in fp32 whatever the types of input and output.
    """
    q, k, v = _Rotate.apply(qkv, *cos_sin.factors, dtype)  # type: ignore[no-untyped-call]
    return q, k, v


class _Rotate(torch.autograd.Function):
    """The gradient of a rotation is the rotation by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = qkv.dtype
        # values get a copy of their own: a view would keep the whole projection alive until backward
        q, k = (_rotated(qkv[:, part].float(), cos, sin).to(dtype) for part in (0, 1))
        return q, k, qkv[:, 2].to(dtype, copy=True)

    @staticmethod
    def backward(ctx: Any, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        grad = dq.new_empty(dq.shape[0], 3, *dq.shape[1:], dtype=ctx.dtype)
        for part, turned in enumerate((dq, dk)):  # the transpose of a rotation is its inverse
            grad[:, part] = _rotated(turned.float(), cos, sin, back=True)
        grad[:, 2] = dv
        return grad, None, None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool = False) -> Tensor:
    """Return x (T, H, D) fp32 rotated (``back``: by the opposite angles); factors as in :class:`Angles`."""
    sign = -1 if back else 1
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    (first, second), (left, right) = x.chunk(2, dim=-1), out.chunk(2, dim=-1)
    if cos.shape[-1] == x.shape[-1]:  # x (cos, cos) + (second, first) (-sin, sin), with ``out`` as scratch
        left.copy_(second)
        right.copy_(first)
        return torch.mul(x, cos).addcmul_(out, sin, value=sign)
    torch.mul(first, cos, out=left).addcmul_(second, sin, value=-sign)
    torch.mul(second, cos, out=right).addcmul_(first, sin, value=sign)
    return out
