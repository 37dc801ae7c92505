"""What a layer computes between its matrix products, by ``fused.c``: LayerNorm and GeGLU, with gradients.

torch takes several passes over memory for each, and with bf16 one more for every change of type; here each is one pass
forward and one backward. :func:`ready` says whether they run; if not, the modules of ``model`` compute the same by
torch. Second derivatives are not computed.

Shapes: ``T`` tokens, ``h`` hidden size, ``i`` intermediate size.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmbert.native import library
from mmbert.native.library import Library

log = logging.getLogger(__name__)

WIDTH = 16
"""Rows are multiples of so many numbers: of the lanes of every target."""


PIECE = 64
"""Rows that a thread takes at a time."""


def _fields(pointers: str, numbers: str) -> list[tuple[str, Any]]:
    named = [(name, ctypes.c_void_p) for name in pointers.split()]
    return named + [(name, ctypes.c_int64) for name in numbers.split()]


class _Norm(ctypes.Structure):
    """``Norm`` of fused.c."""

    _fields_ = (
        *_fields(
            "x added weight sum normed moments sum_grad normed_grad x_grad added_grad weight_grad",
            "rows width piece bf16",
        ),
        ("eps", ctypes.c_float),
    )


class _GeGLU(ctypes.Structure):
    """``GeGLU`` of fused.c."""

    _fields_ = _fields("x out grad x_grad", "rows width piece bf16")


def ready(x: Tensor, width: int, dtype: torch.dtype) -> bool:
    """Return whether rows of a multiple of ``width`` numbers of ``dtype`` are computed here by fused.c."""
    plain = type(x) is Tensor and x.device.type == "cpu" and width % WIDTH == 0
    if not plain or torch.compiler.is_compiling():
        return False
    return library.computes(dtype, _right)


def add_norm(x: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return x + added, and its LayerNorm in ``dtype``, all (T, h); x fp32, ``added`` in ``dtype``, None for nought."""
    total, normed = _AddNorm.apply(x, added, weight, eps, dtype)  # type: ignore[no-untyped-call]
    return (x if added is None else total), normed


def geglu(x: Tensor) -> Tensor:
    """Return gelu(a) * b for (a, b) = x: (T, 2 i) -> (T, i)."""
    out: Tensor = _GeGLUProduct.apply(x)  # type: ignore[no-untyped-call]
    return out


def _run(name: str, passed: ctypes.Structure, **tensors: Tensor | None) -> None:
    """Run a function of fused.c; ``tensors`` are contiguous."""
    for field, tensor in tensors.items():
        setattr(passed, field, None if tensor is None else tensor.data_ptr())
    passed.piece = PIECE
    found = library.find()
    assert isinstance(found, Library)
    getattr(found.functions, name)(ctypes.byref(passed), ctypes.c_int64(torch.get_num_threads()))


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, added: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor | None, Tensor]:
        x, added = x.contiguous(), None if added is None else added.contiguous()
        total = None if added is None else torch.empty_like(x)
        normed, moments = torch.empty_like(x, dtype=dtype), x.new_empty(x.shape[0], 2)
        passed = _Norm(rows=x.shape[0], width=x.shape[1], bf16=dtype == torch.bfloat16, eps=eps)
        _run("norm_forward", passed, x=x, added=added, weight=weight, sum=total, normed=normed, moments=moments)
        ctx.save_for_backward(x if total is None else total, weight, moments)
        ctx.dtype, ctx.adds = dtype, total is not None
        ctx.set_materialize_grads(False)
        return total, normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, normed_grad: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, moments = ctx.saved_tensors
        if normed_grad is None:
            return grad, grad if grad is None or not ctx.adds else grad.to(ctx.dtype), None, None, None
        bf16 = ctx.dtype == torch.bfloat16
        x_grad = torch.empty_like(x)
        added_grad = torch.empty_like(x, dtype=ctx.dtype) if ctx.adds and bf16 else None
        weight_grad = x.new_zeros(-(-x.shape[0] // PIECE), x.shape[1])
        _run(
            "norm_backward", _Norm(rows=x.shape[0], width=x.shape[1], bf16=bf16), sum=x, weight=weight,
            moments=moments, sum_grad=None if grad is None else grad.contiguous(), normed_grad=normed_grad.contiguous(),
            x_grad=x_grad, added_grad=added_grad, weight_grad=weight_grad,
        )  # fmt: skip
        of_added = x_grad if added_grad is None else added_grad
        return x_grad, of_added if ctx.adds else None, weight_grad.sum(0), None, None


class _GeGLUProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        rows, width = x.shape[0], x.shape[1] // 2
        out = x.new_empty(rows, width)
        _run("geglu_forward", _GeGLU(rows=rows, width=width, bf16=x.dtype == torch.bfloat16), x=x, out=out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        x_grad, passed = torch.empty_like(x), _GeGLU(rows=x.shape[0], width=x.shape[1] // 2)
        passed.bf16 = x.dtype == torch.bfloat16
        _run("geglu_backward", passed, x=x, grad=grad.contiguous(), x_grad=x_grad)
        return x_grad


@cache
def _right(found: Library) -> bool:
    """Return whether the functions agree with torch on a small case, forward and backward."""
    dtypes = (torch.float32, *[torch.bfloat16] * found.bf16)
    right = library.apart(lambda: all(_agrees(dtype) for dtype in dtypes))
    if not right:
        log.warning("the native kernels of training give wrong numbers here and are left out: please report it")
    return right


def _agrees(dtype: torch.dtype) -> bool:
    draw = torch.Generator().manual_seed(0)
    x, added, weight = (torch.randn(shape, generator=draw) for shape in ((5, 32), (5, 32), (32,)))
    given = [tensor.requires_grad_() for tensor in (x, added.to(dtype), weight)]
    exact = [tensor.detach().float().requires_grad_() for tensor in given]
    total, normed = add_norm(given[0], given[1], given[2], 1e-5, dtype)
    found = (total, normed, geglu(normed))
    total = exact[0] + exact[1]
    normed = F.layer_norm(total, (32,), exact[2], None, 1e-5)
    activated, gate = normed.chunk(2, -1)
    wanted = (total, normed, F.gelu(activated) * gate)
    results = [
        (*out, *torch.autograd.grad(sum((part.float() ** 2).sum() for part in out), leaves))  # type: ignore[arg-type]
        for out, leaves in ((found, given), (wanted, exact))
    ]
    most = 0.02 if dtype == torch.bfloat16 else 1e-5
    return all((one.float() - other).norm() < most * other.norm() for one, other in zip(*results, strict=True))
