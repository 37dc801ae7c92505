"""Layers in bf16 and int8 by ``layer.c``: norms, matrices and GeGLU of a few rows at a time, which stay in the cache.

Used if ``native.kernel`` can be built and the processor has VNNI but no AMX, whose products are faster than these and
used by torch. Results equal those of ``OneDnnLayer`` and ``Int8Layer``, or are nearer to fp32: what is added to the
residual stream and the input of norms is not rounded. The result of a token outside attention depends on it alone.

Shapes: ``T`` tokens, ``h`` hidden size, ``i`` intermediate size.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache

import torch
from torch import Tensor, nn

from mmbert.inference.int8 import by_channel
from mmbert.inference.native import kernel
from mmbert.inference.onednn_layers import SplitLayer, paired
from mmbert.model.attention import plan_attention
from mmbert.model.config import ModelConfig
from mmbert.model.init import init_weights
from mmbert.model.layers import Layer
from mmbert.model.rope import angles
from mmbert.packed import Packed

log = logging.getLogger(__name__)

ROWS, BLOCK = 6, 48
"""Of layer.c: rows that are multiplied together, and rows that go from the first matrix to the last together."""

_COLUMNS = 64
_HALF = _COLUMNS // 2


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
        ("int8", ctypes.c_int32),
    )


class _Rows(ctypes.Structure):
    """``Rows`` of layer.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "attended", "to", "scratch")),
        *((name, ctypes.c_int64) for name in ("room", "tokens", "block", "threads")),
    )


class NativeMatrix(nn.Module):
    """Weights W (m, n) of x W^T in the layout of layer.c, in bf16 or int8."""

    weight: Tensor
    scale: Tensor
    first: Tensor

    def __init__(self, weight: Tensor, *, int8: bool) -> None:
        super().__init__()
        columns, self.width = weight.shape
        if int8:
            rounded, scale = by_channel(weight)
            # VNNI multiplies unsigned by signed: layer.c adds 128 to activations, and starts its sums from -128 sum(w)
            first = -128 * rounded.sum(dim=1, dtype=torch.int32)
        else:
            rounded, scale, first = weight.detach().bfloat16(), torch.empty(0), torch.empty(0)
        # tiles of _COLUMNS outputs, inner dimension in groups of 4 bytes: what one VNNI or bf16 dot product reads
        packed = rounded.view(columns // _COLUMNS, _COLUMNS, -1, 4 // rounded.itemsize).transpose(1, 2)
        self.register_buffer("weight", packed.contiguous(), persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("first", first, persistent=False)
        self.columns = columns

    def describe(self) -> _Matrix:
        """Return the pointers for layer.c, valid as long as the tensors are not moved."""
        pointers = (tensor.data_ptr() for tensor in (self.weight, self.scale, self.first))
        return _Matrix(*pointers, self.width, self.columns)


class NativeLayer(SplitLayer):
    """A layer made from a trained one; only if :func:`ready`. layer.c splits batches itself."""

    splits = False

    def __init__(self, layer: Layer, *, int8: bool) -> None:
        super().__init__(layer, native=True)
        self.int8 = int8
        self.qkv = NativeMatrix(paired(layer.attn.Wqkv.weight, self.head_dim), int8=int8)
        self.out = NativeMatrix(layer.attn.Wo.weight, int8=int8)
        # activation and gate of the same outputs side by side, so that one tile has both
        halves = (half.view(-1, _HALF, half.shape[1]) for half in layer.mlp.Wi.weight.detach().chunk(2))
        self.wide = NativeMatrix(torch.stack([*halves], 1).flatten(0, 2), int8=int8)
        self.narrow = NativeMatrix(layer.mlp.Wo.weight, int8=int8)
        self._described = (0, b"")  # address of the weights, and all pointers

    def project(self, x: Tensor) -> Tensor:
        qkv = x.new_empty(x.shape[0], 3 * x.shape[1], dtype=torch.bfloat16)
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
        block = min(BLOCK, -(-share // ROWS) * ROWS)  # few rows: one block for each thread
        threads = min(threads, -(-tokens // block))
        inner = self.narrow.width
        room = block * (4 * inner + 2 * max(inner, x.shape[1]))  # the MLP in fp32, and rounded rows
        scratch = x.new_empty(threads * room, dtype=torch.uint8)
        given = attended.data_ptr() if attended is not None else None
        rows = _Rows(x.data_ptr(), given, to.data_ptr(), scratch.data_ptr(), room, tokens, block, threads)
        kernel.library().run_layer(self._describe(), ctypes.byref(rows), attended is not None)

    def _describe(self) -> bytes:
        """Return ``Layer`` of layer.c, described again after the weights were moved or copied."""
        where = self.qkv.weight.data_ptr()
        if where != self._described[0]:
            norm = self.attn_norm
            first = norm.weight.data_ptr() if isinstance(norm, nn.LayerNorm) else None  # layer 0 has none
            matrices = (matrix.describe() for matrix in (self.qkv, self.out, self.wide, self.narrow))
            layer = _Layer(*matrices, first, self.mlp_norm.weight.data_ptr(), self.mlp_norm.eps, self.int8)
            self._described = (where, bytes(layer))
        return self._described[1]


def ready(layer: Layer) -> bool:
    """Return whether this layer runs by layer.c here."""
    wide, inner = layer.attn.Wo.weight.shape[0], layer.mlp.Wo.weight.shape[1]
    return wide % _COLUMNS == 0 and inner % _HALF == 0 and usable(layer.attn.head_dim)


def usable(head_dim: int = kernel.HEAD_DIMS[0]) -> bool:
    """Return whether layers of fitting widths run by layer.c here."""
    return kernel.ready(head_dim) and _better()


@cache
def _better() -> bool:
    """Return whether this processor has VNNI, is not faster with torch (AMX), and passes the comparison with it."""
    able = torch.cpu.get_capabilities()
    if able.get("amx_bf16") or not able.get("avx512_vnni"):
        return False
    agree = all(_agrees(int8=int8) for int8 in (False, True))
    if not agree:
        log.warning("the native kernel of layers gives wrong numbers here and is left out: please report it")
    return agree


def _agrees(*, int8: bool) -> bool:
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
        pairs = [(NativeLayer(layer, int8=int8)(x, plan, cos_sin), layer(x, plan, cos_sin)) for layer in layers]
    return all(bool((found - wanted).norm() < 0.05 * (wanted - x).norm()) for found, wanted in pairs)
