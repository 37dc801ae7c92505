"""Attention over documents laid end to end, by ``attention.c``, and its gradient, by ``attention_grad.c``.

RoPE, scores, softmax and the sum of values are one pass over the projection, without a window's masks, and so are their
gradients. :func:`ready` says whether they run in training; for inference ``inference.native.kernel`` does.

Shapes: ``T`` tokens, ``H`` heads, ``D`` head dimension.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmbert.native import library
from mmbert.native.library import Library

log = logging.getLogger(__name__)

HEAD_DIMS = (32, 64)

QUERIES = 768
"""Queries of a work item at most: enough to make packing its keys cheap, few enough to keep all cores busy."""

SQUARE, ROWS, TILES = 48, 6, 32
"""``SQUARE`` and ``ROWS`` of attention_grad.c, the same on all targets, and ``SIDE`` of attention_grad_tiles.h."""


class Batch(ctypes.Structure):
    """``Batch`` of attention.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("qkv", "out", "softmax", "cos", "sin", "units", "scratch")),
        *((name, ctypes.c_int64) for name in ("room", "count", "heads", "threads", "half", "head_dim", "bf16")),
    )


class Grad(ctypes.Structure):
    """``Grad`` of attention_grad.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("qkv", "out", "out_grad", "softmax", "cos", "sin", "documents")),
        *((name, ctypes.c_void_p) for name in ("qkv_grad", "scratch")),
        *((name, ctypes.c_int64) for name in ("room", "count", "heads", "threads", "half", "head_dim", "bf16")),
    )


def ready(qkv: Tensor) -> bool:
    """Return whether attention of a projection (T, 3, H, D) and its gradient are computed here."""
    plain = type(qkv) is Tensor and qkv.device.type == "cpu" and qkv.shape[-1] in HEAD_DIMS
    if not plain or torch.compiler.is_compiling():
        return False
    return library.computes(qkv.dtype, _right)


def attend(qkv: Tensor, cos: Tensor, sin: Tensor, lengths: tuple[int, ...], half: int) -> Tensor:
    """Return attention within each document, (T, H, D) in the type of qkv, for :func:`ready` projections.

    qkv      (T, 3, H, D), not rotated
    cos, sin  (T, 1, D / 2) fp32
    lengths  tokens of each document, ascending
    half     of the window: token i sees j iff |i - j| <= half
    """
    out: Tensor = _Attend.apply(qkv, cos, sin, lengths, half)  # type: ignore[no-untyped-call]
    return out


def forward(
    run: Callable[..., None],
    group: int,
    qkv: Tensor,
    angles: Sequence[Tensor],
    lengths: tuple[int, ...],
    half: int,
    softmax: Tensor | None = None,
) -> Tensor:
    """Run ``attend`` of attention.c, which takes ``group`` keys together; it writes ``softmax`` (T, H, 2) if given."""
    qkv = qkv.contiguous()
    units, widest = _units(lengths, half)
    tokens, _, heads, head_dim = qkv.shape
    threads = torch.get_num_threads()
    room = -(-widest // group) * group * head_dim * 2 * qkv.itemsize  # keys and values
    scratch = qkv.new_empty(threads * room, dtype=torch.uint8)  # torch aligns to 64 bytes
    out = qkv.new_empty(tokens, heads, head_dim)
    cos, sin = (part.contiguous() for part in angles)
    pointers = (_pointer(tensor) for tensor in (qkv, out, softmax, cos, sin, units, scratch))
    run(ctypes.byref(Batch(*pointers, room, len(units), heads, threads, half, head_dim, qkv.dtype == torch.bfloat16)))
    return out


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@lru_cache(maxsize=4)
def _units(lengths: tuple[int, ...], half: int) -> tuple[Tensor, int]:
    """Return (N, 4) borders of the queries of each work item and of the keys they see, and the most keys of one."""
    units = []
    for start, end in pairwise(accumulate(lengths, initial=0)):
        for begin in range(start, end, QUERIES):
            stop = min(begin + QUERIES, end)
            # a query sees half a window on either side, and nothing beyond its own document
            units.append((begin, stop, max(begin - half, start), min(stop + half, end)))
    return torch.tensor(units, device="cpu"), max(last - first for _, _, first, last in units)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, lengths: tuple[int, ...], half: int) -> Tensor:
        found = library.find()
        assert isinstance(found, Library)
        softmax = cos.new_empty(*qkv.shape[::2], 2)
        out = forward(found.functions.attend, found.group, qkv, (cos, sin), lengths, half, softmax)
        ctx.save_for_backward(qkv, out, softmax, cos, sin)
        ctx.lengths, ctx.half = lengths, half
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        found = library.find()
        assert isinstance(found, Library)
        qkv, out, softmax, cos, sin = (tensor.contiguous() for tensor in ctx.saved_tensors)
        _, _, heads, head_dim = qkv.shape
        documents, grad = torch.tensor([*pairwise(accumulate(ctx.lengths, initial=0))]), grad.contiguous()
        # rows are filled up to whole blocks of either kind
        threads, filled = torch.get_num_threads(), -(-(max(ctx.lengths) + ROWS) // SQUARE) * SQUARE + TILES
        room = 4 * filled * (8 * head_dim + 3)
        scratch, qkv_grad = qkv.new_empty(threads * room, dtype=torch.uint8), torch.empty_like(qkv)
        tensors = (qkv, out, grad, softmax, cos, sin, documents, qkv_grad, scratch)
        bf16 = qkv.dtype == torch.bfloat16
        given = Grad(*map(_pointer, tensors), room, len(documents), heads, threads, ctx.half, head_dim, bf16)
        found.functions.attend_backward(ctypes.byref(given))
        return qkv_grad, None, None, None, None


@cache
def _right(found: Library) -> bool:
    """Return whether outputs and gradients agree with torch on short documents."""
    dtypes = (torch.float32, *[torch.bfloat16] * found.bf16)
    cases = [(dtype, head_dim, half) for dtype in dtypes for head_dim in HEAD_DIMS for half in (8, 100)]
    right = library.apart(lambda: all(_agrees(*case) for case in cases))
    if not right:
        log.warning("the native kernels of attention in training are wrong here and are left out: please report it")
    return right


def _agrees(dtype: torch.dtype, head_dim: int, half: int, lengths: tuple[int, ...] = (3, 60)) -> bool:
    tokens, draw = sum(lengths), torch.Generator().manual_seed(0)
    qkv = torch.randn(tokens, 3, 1, head_dim, generator=draw).to(dtype).requires_grad_()
    turns = torch.randn(tokens, 1, head_dim // 2, generator=draw)
    grad = torch.randn(tokens, 1, head_dim, generator=draw).to(dtype)
    found = attend(qkv, turns.cos(), turns.sin(), lengths, half)
    exact = qkv.detach().float().requires_grad_()
    pairs = torch.complex(*exact[:, :2].chunk(2, -1)) * torch.polar(torch.ones_like(turns), turns)[:, None]
    q, k = torch.cat((pairs.real, pairs.imag), -1).permute(1, 2, 0, 3)
    document, where = torch.repeat_interleave(torch.tensor(lengths)), torch.arange(tokens)
    seen = (document[:, None] == document) & ((where[:, None] - where).abs() <= half)
    wanted = F.scaled_dot_product_attention(q, k, exact[:, 2].transpose(0, 1), attn_mask=seen).transpose(0, 1)
    # sums, as torch imports its compiler's tools for a gradient that is given
    changes = [
        torch.autograd.grad((out.float() * grad.float()).sum(), leaf)[0]
        for out, leaf in ((found, qkv), (wanted, exact))
    ]
    gradients = zip(*(change.unbind(1) for change in changes), strict=True)
    most = 0.02 if dtype == torch.bfloat16 else 1e-5
    return all(
        bool((one.float() - other).norm() <= most * other.norm() + 1e-4) for one, other in [(found, wanted), *gradients]
    )
