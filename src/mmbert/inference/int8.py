"""Layers in int8: weights quantized by output channel, activations by token at run time (W8A8), sums in int32.

For CPUs with VNNI where ``native.layer`` cannot be used. ``torch._int_mm`` multiplies; the steps
between two products (scale, norm, GELU and gate, quantization) are one compiled loop. Without a C++ compiler they run
one by one, and bf16 is faster.
The residual stream, the norms and RoPE are fp32, and so is attention unless ``native.kernel`` computes it.
The result of a token outside attention depends on that token alone.

Shapes: ``T`` tokens, ``h`` hidden size, ``i`` intermediate size.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbert.inference.native import kernel
from mmbert.inference.onednn_layers import SplitLayer, paired
from mmbert.model.layers import Layer

log = logging.getLogger(__name__)


class Int8Matrix(nn.Module):
    """Computes x W^T: (T, n) int8 -> (T, m) int32, in units of the scales of x (T, 1) times ``scale`` (m,)."""

    scale: Tensor
    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rounded, scale = by_channel(weight)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("weight", rounded.t().contiguous(), persistent=False)  # the fastest layout for _int_mm

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch._int_mm(x, self.weight)
        return out


class Int8Layer(SplitLayer):
    """A layer in int8, made from a trained one. ``compiled``: torch.compile works here."""

    def __init__(self, layer: Layer, *, compiled: bool) -> None:
        super().__init__(layer, kernel.ready(layer.attn.head_dim))
        self.attends_bf16 = self.native is not None and self.native.dtype(torch.bfloat16) == torch.bfloat16
        qkv = layer.attn.Wqkv.weight
        self.qkv = Int8Matrix(qkv if self.native else paired(qkv, self.head_dim))
        self.out = Int8Matrix(layer.attn.Wo.weight)
        self.wide, self.narrow = Int8Matrix(layer.mlp.Wi.weight), Int8Matrix(layer.mlp.Wo.weight)
        self.compiled = compiled

    def project(self, x: Tensor) -> Tensor:
        norm = self.attn_norm
        if isinstance(norm, nn.LayerNorm):
            rounded, scale = _do(_norm_round, self.compiled)(x, norm.weight, norm.eps)
        else:  # layer 0
            rounded, scale = _do(_round, self.compiled)(x)
        finish = _scaled_bf16 if self.attends_bf16 else _scaled
        qkv: Tensor = _do(finish, self.compiled)(self.qkv(rounded), scale, self.qkv.scale)
        return qkv

    def mix(self, x: Tensor, attended: Tensor) -> Tensor:
        rounded, scale = _do(_round, self.compiled)(attended)
        norm = self.mlp_norm
        x, rounded, scale = _do(_add_norm_round, self.compiled)(
            x, self.out(rounded), scale, self.out.scale, norm.weight, norm.eps
        )
        rounded, scale = _do(_gate_round, self.compiled)(self.wide(rounded), scale, self.wide.scale)
        out: Tensor = _do(_add, self.compiled)(x, self.narrow(rounded), scale, self.narrow.scale)
        return out


def by_channel(weight: Tensor, largest: int = 127) -> tuple[Tensor, Tensor]:
    """Return weights (m, n) as int8 and the scale (m,) of each row, whose largest number becomes ``largest``."""
    weight = weight.detach().float()
    scale = (weight.abs().amax(dim=1) / largest).clamp(min=1e-12)  # a row of zeros would divide by 0
    return (weight / scale[:, None]).round().to(torch.int8), scale


@cache
def compiles() -> bool:
    """Return whether torch.compile works here, which needs a C++ compiler; a small loop is compiled to see."""
    if not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        return False
    try:
        with torch.inference_mode():
            _compiled(_round)(torch.ones(2, 8))
    except Exception as error:  # compilers raise errors of many kinds
        log.debug("torch.compile does not work here: %s", error)
        return False
    return True


def _do(function: Callable[..., Any], compiled: bool) -> Callable[..., Any]:
    return _compiled(function) if compiled else function


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)


def _round(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (T, n) as int8 and the scales (T, 1) of tokens, whose largest number becomes 127."""
    x = x.float()
    largest = x.abs().amax(dim=1, keepdim=True).clamp(min=1e-12)
    return (x * (127 / largest)).round().to(torch.int8), largest / 127


def _norm_round(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return LayerNorm(x) through :func:`_round`, in one pass less: only the scale needs the deviation."""
    # norm(x) = centred * weight / deviation: rounding to the largest number of a token cancels its deviation
    centred = x - x.mean(dim=1, keepdim=True)
    rounded, scale = _round(centred * weight)
    return rounded, scale * torch.rsqrt(centred.square().mean(dim=1, keepdim=True) + eps)


def _scaled(sums: Tensor, scale: Tensor, scales: Tensor) -> Tensor:
    """Return a product (T, m) int32 in fp32, by the scales of tokens (T, 1) and of channels (m,)."""
    return sums.float() * scales * scale


def _scaled_bf16(sums: Tensor, scale: Tensor, scales: Tensor) -> Tensor:
    return _scaled(sums, scale, scales).bfloat16()


def _add(x: Tensor, sums: Tensor, scale: Tensor, scales: Tensor) -> Tensor:
    """Return the residual stream (T, h) plus a product."""
    return x + _scaled(sums, scale, scales)


def _add_norm_round(
    x: Tensor, sums: Tensor, scale: Tensor, scales: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    x = _add(x, sums, scale, scales)
    return x, *_norm_round(x, weight, eps)


def _gate_round(sums: Tensor, scale: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Return GeGLU of a product (T, 2 i) through :func:`_round`: (T, i) and scales."""
    activated, gate = _scaled(sums, scale, scales).chunk(2, dim=1)
    return _round(F.gelu(activated) * gate)
