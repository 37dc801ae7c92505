"""Layers by ``layer.c``: norms, matrices and GeGLU of a few rows at a time, which stay in the cache.

Used if ``native.kernel`` finds kernels. Results equal those of ``OneDnnLayer`` and ``Int8Layer``, or are nearer to
fp32: what is added to the residual stream and the input of norms is not rounded. The result of a token outside
attention depends on it alone.

bf16 without dot products of bf16 rounds the weights alone: they are widened in registers and multiplied in fp32. int8
without VNNI on x86 has 7 bits for weights and inputs, with which nothing can saturate (``lanes_avx2.h``).

Shapes: ``T`` tokens, ``h`` hidden size, ``i`` intermediate size.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from mmbert.inference.int8 import by_channel
from mmbert.inference.native import kernel
from mmbert.inference.native.kernel import Kernels
from mmbert.inference.native.pages import allocate
from mmbert.inference.onednn_layers import SplitLayer
from mmbert.model.attention import AttentionPlan, plan_attention
from mmbert.model.config import ModelConfig
from mmbert.model.init import init_weights
from mmbert.model.layers import Layer
from mmbert.model.rope import Angles, angles
from mmbert.native.attention import HEAD_DIMS
from mmbert.packed import Packed

log = logging.getLogger(__name__)

KINDS = ("int8", "bf16", "fp32")
"""Precisions, in the order of ``Kind`` of layer.c."""

ROWS, BLOCK = 12, 48
"""Rows that any target but AMX multiplies together, and rows that layer.c takes through all matrices together."""

TILE_ROWS, TILE_BLOCK = 16, 144
"""The same by AMX, which multiplies so fast that reading the weights again for every 48 rows takes longer."""


class _Matrix(ctypes.Structure):
    """``Matrix`` of layer.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "scale", "first")),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
    )


class _Layer(ctypes.Structure):
    """``Layer`` of layer.c."""

    _fields_ = (
        *((name, _Matrix) for name in ("qkv", "out", "wide", "narrow")),
        ("attn_norm", ctypes.c_void_p),
        ("mlp_norm", ctypes.c_void_p),
        ("eps", ctypes.c_float),
        ("kind", ctypes.c_int32),
    )


class _Rows(ctypes.Structure):
    """``Rows`` of layer.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("layer", "x", "attended", "to", "scratch")),
        *((name, ctypes.c_int64) for name in ("room", "tokens", "block", "threads")),
    )


class NativeMatrix(nn.Module):
    """Weights W (m, n) of x W^T in the layout of layer.c, in a precision of ``KINDS``."""

    weight: Tensor
    scale: Tensor
    first: Tensor

    def __init__(self, weight: Tensor, precision: str, kernels: Kernels, memory: Tensor) -> None:
        super().__init__()
        columns, self.width = weight.shape
        scale = first = torch.empty(0)
        if precision == "int8":
            weight, scale = by_channel(weight, kernels.int8_largest[1])
            # layer.c adds int8_zero to inputs, and starts its sums from what that makes too much
            first = -kernels.int8_zero * weight.sum(dim=1, dtype=torch.int32)
        # panels of columns, inner dimension in groups of 4 bytes: what one lane multiplies
        group = 4 // _DTYPES[precision].itemsize
        packed = weight.detach().view(columns // kernels.columns, kernels.columns, -1, group).transpose(1, 2)
        self.register_buffer("weight", memory.view(_DTYPES[precision]).view(packed.shape), persistent=False)
        self.weight.copy_(packed)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("first", first, persistent=False)
        self.columns = columns

    def describe(self) -> _Matrix:
        """Return the pointers for layer.c, valid as long as the tensors are not moved."""
        pointers = (tensor.data_ptr() for tensor in (self.weight, self.scale, self.first))
        return _Matrix(*pointers, self.width, self.columns)


_DTYPES = {"int8": torch.int8, "bf16": torch.bfloat16, "fp32": torch.float32}


class NativeLayer(SplitLayer):
    """A layer made from a trained one, for :func:`ready` kernels. layer.c splits batches itself."""

    def __init__(self, layer: Layer, precision: str, kernels: Kernels) -> None:
        super().__init__(layer, kernels)
        self.precision, self.kernels = precision, kernels
        self.dtype = kernels.dtype(_DTYPES[precision])
        wide = _side_by_side(layer.mlp.Wi.weight.detach(), kernels.columns // 2)
        weights = (layer.attn.Wqkv.weight, layer.attn.Wo.weight, wide, layer.mlp.Wo.weight)
        sizes = [weight.numel() * _DTYPES[precision].itemsize for weight in weights]  # multiples of 64, by their widths
        parts = zip(weights, torch.split(allocate(sum(sizes)), sizes), strict=True)
        self.qkv, self.out, self.wide, self.narrow = (
            NativeMatrix(weight, precision, kernels, memory) for weight, memory in parts
        )
        self._described: tuple[int, Any] = (0, None)  # address of the weights, and all pointers

    def forward(self, x: Tensor, plan: AttentionPlan, cos_sin: Angles) -> Tensor:
        qkv = self.project(x).view(x.shape[0], 3, -1, self.head_dim)
        return self.mix(x, self.kernels.attend(qkv, cos_sin, plan, local=self.local))

    def project(self, x: Tensor) -> Tensor:
        qkv = x.new_empty(x.shape[0], 3 * x.shape[1], dtype=self.dtype)
        self._run(x.contiguous(), None, qkv)
        return qkv

    def mix(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x.contiguous()
        mixed = torch.empty_like(x)
        self._run(x, attended, mixed)
        return mixed

    def _run(self, x: Tensor, attended: Tensor | None, to: Tensor) -> None:
        """Compute the part of the layer before attention into ``to``, or the part after it, given ``attended``."""
        tokens, threads = x.shape[0], torch.get_num_threads()
        share = -(-tokens // threads)
        tiled = self.kernels.tiles and self.precision != "fp32"
        together, most = (TILE_ROWS, TILE_BLOCK) if tiled else (ROWS, BLOCK)
        block = min(most, -(-share // together) * together)  # few rows: one block for each thread
        threads = min(threads, -(-tokens // block))
        room = 4 * block * (self.narrow.width + max(self.narrow.width, x.shape[1]))  # the MLP, and rows to multiply
        scratch = x.new_empty(threads * room, dtype=torch.uint8)
        given = attended.data_ptr() if attended is not None else None
        rows = _Rows(
            self._describe(), x.data_ptr(), given, to.data_ptr(), scratch.data_ptr(), room, tokens, block, threads
        )
        self.kernels.run_layer(ctypes.byref(rows))

    def _describe(self) -> int:
        """Return where ``Layer`` of layer.c is, described again after the weights were moved or copied."""
        where = self.qkv.weight.data_ptr()
        if where != self._described[0]:
            norm = self.attn_norm
            first = norm.weight.data_ptr() if isinstance(norm, nn.LayerNorm) else None  # layer 0 has none
            matrices = (matrix.describe() for matrix in (self.qkv, self.out, self.wide, self.narrow))
            kind = KINDS.index(self.precision)
            layer = _Layer(*matrices, first, self.mlp_norm.weight.data_ptr(), self.mlp_norm.eps, kind)
            # bytes, which copies of this module can share until they describe themselves
            self._described = (where, ctypes.create_string_buffer(bytes(layer)))
        return ctypes.addressof(self._described[1])


def _side_by_side(weight: Tensor, size: int) -> Tensor:
    """Return Wi (2 i, h) with every ``size`` rows of the activation before those of their gates: a panel has both."""
    halves = (half.view(-1, size, half.shape[1]) for half in weight.chunk(2))
    return torch.stack([*halves], 1).flatten(0, 2)


def ready(layer: Layer, precision: str) -> Kernels | None:
    """Return the kernels if this layer runs by layer.c here, in a precision of ``KINDS``."""
    wide, inner = layer.attn.Wo.weight.shape[0], layer.mlp.Wo.weight.shape[1]
    kernels = usable(precision, layer.attn.head_dim)
    fits = kernels and wide % kernels.columns == 0 and inner % (kernels.columns // 2) == 0
    return kernels if fits else None


def usable(precision: str, head_dim: int = HEAD_DIMS[0]) -> Kernels | None:
    """Return the kernels if layers of fitting widths run by layer.c here."""
    kernels = kernel.ready(head_dim)
    return kernels if kernels and _right(kernels, precision) else None


@cache
def _right(kernels: Kernels, precision: str) -> bool:
    """Return whether both kinds of layers, on texts of two lengths, agree with the layers they are made from."""
    config = ModelConfig(vocab_size=8, hidden_size=64, intermediate_size=96, num_layers=2, num_heads=2)
    packed = Packed.from_lists([[0] * 5, [0] * 50]).to()
    plan = plan_attention(packed, config.window, torch.float32)
    cos_sin = angles(plan.positions, config.head_dim, config.rope_theta, config.num_heads)
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        x = torch.randn(packed.tokens, config.hidden_size)
        layers = [Layer(config, index) for index in range(config.num_layers)]
        init_weights(nn.ModuleList(layers), config)
        pairs = [
            (NativeLayer(layer, precision, kernels)(x, plan, cos_sin), layer(x, plan, cos_sin)) for layer in layers
        ]
    most = 1e-5 if precision == "fp32" else 0.05
    right = all(bool((found - wanted).norm() < most * (wanted - x).norm()) for found, wanted in pairs)
    if not right:
        log.warning("the native kernel of layers gives wrong numbers here and is left out: please report it")
    return right
