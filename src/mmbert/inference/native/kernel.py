"""The native kernels of this processor, and attention on CPUs by ``attention.c``: RoPE and softmax in one pass.

They are used if the processor has the instructions of a target (``targets.py``), a C compiler is installed (or was at
the first use), heads have 32 or 64 dimensions, and a first small case agrees with torch. If anything is missing, torch
computes and :func:`describe` says why. ``MMBERT_NATIVE`` in the environment names a target, or 0 for none;
:func:`mmbert.native.library.use` switches the kernels off.

Shapes: ``T`` tokens, ``H`` heads, ``D`` head dimension.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbert.model.attention import AttentionPlan, Group, lengths
from mmbert.model.rope import Angles, angles, rotate
from mmbert.native import attention, library
from mmbert.native.attention import HEAD_DIMS
from mmbert.native.library import Library

log = logging.getLogger(__name__)


class Kernels:
    """A target's compiled functions.

    group         keys that attention takes together
    bf16_dot      it multiplies bf16; without, bf16 is only how weights are kept, and attention is fp32
    columns       of a matrix, that are multiplied together
    int8_zero     what is added to inputs of int8, where instructions take unsigned ones
    int8_largest  numbers that int8 rounds the largest input and the largest weight to
    tiles         it multiplies bf16 and int8 by AMX
    """

    def __init__(self, found: Library) -> None:
        functions = found.functions
        self.target, self.library, self.bf16_dot, self.tiles = found.target, functions, found.bf16, found.tiles
        self.group = found.group
        self.columns, self.int8_zero, *int8_largest = (ctypes.c_int32 * 4).in_dll(functions, "layer_traits")
        self.int8_largest = tuple(int8_largest)
        self.run_attention, self.run_layer = functions.attend, functions.run_layer

    def __deepcopy__(self, memo: dict[int, Any]) -> Kernels:
        return self  # of layers that are copied: there is one library in a process

    def dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return the type that attention takes and gives in layers of ``dtype`` (int8: as bf16)."""
        return torch.bfloat16 if self.bf16_dot and dtype != torch.float32 else torch.float32

    def attend(self, qkv: Tensor, cos_sin: Angles, plan: AttentionPlan, *, local: bool) -> Tensor:
        """Return attention within each document, all of it or (``local``) half a window.

        qkv      (T, 3, H, D) fp32, or bf16 if ``bf16_dot``, not rotated yet
        cos_sin  cosines and sines (T, 1, D / 2) fp32
        Returns (T, H, D) in the type of ``qkv``.
        """
        return self._attend(qkv, cos_sin, plan.whole, half=plan.half if local else plan.longest)

    def _attend(self, qkv: Tensor, cos_sin: Angles, groups: tuple[Group, ...], *, half: int) -> Tensor:
        assert qkv.dtype in (torch.float32, self.dtype(torch.bfloat16))
        return attention.forward(self.run_attention, self.group, qkv, (*cos_sin,), lengths(groups), half)


def find() -> Kernels | str:
    """Return the kernels of this processor, or why there are none. The first call builds them."""
    found = library.find()
    return found if isinstance(found, str) else _kernels(found)


def ready(head_dim: int) -> Kernels | None:
    """Return the kernels if layers of this head dimension use them here."""
    found = find() if head_dim in HEAD_DIMS else None
    return found if isinstance(found, Kernels) else None


def describe() -> str:
    """Return what computes attention on this CPU, and why."""
    found = find()
    if isinstance(found, str):
        return f"torch: {found}"
    built_by = ctypes.c_char_p(ctypes.addressof(ctypes.c_char.in_dll(found.library, "built_by"))).value or b""
    names = ", ".join([found.target.name, *found.target.extensions()])
    speed = "" if found.target.measured else "; their speed is unmeasured"
    return f"native kernels ({names}), built by {built_by.decode()}{speed}"


@cache
def _kernels(found: Library) -> Kernels | str:
    """Return the kernels of a library, or why there are none."""
    kernels = Kernels(found)
    dtypes = {torch.float32, kernels.dtype(torch.bfloat16)}
    if not all(_agrees(kernels, dim, half, dtype) for dim in HEAD_DIMS for half in (8, 100) for dtype in dtypes):
        log.warning("the native attention kernel gives wrong numbers here and is left out: please report it")
        return "the native kernel gives wrong numbers here"
    return kernels


def _agrees(kernels: Kernels, head_dim: int, half: int, dtype: torch.dtype) -> bool:
    """Return whether the kernel agrees with torch on three short documents."""
    groups = (Group(1, 3, None), Group(2, 41, None))
    qkv = torch.randn(85, 3, 2, head_dim, generator=torch.Generator().manual_seed(0)).to(dtype)
    document = torch.repeat_interleave(torch.tensor([3, 41, 41]))
    where = torch.arange(85)
    cos_sin = angles(where, head_dim, 160_000.0, 2)
    q, k, v = (x.transpose(0, 1) for x in rotate(qkv.float(), cos_sin, torch.float32))
    seen = (document[:, None] == document) & ((where[:, None] - where).abs() <= half)
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    found = kernels._attend(qkv, cos_sin, groups, half=half).transpose(0, 1).float()
    return bool((found - wanted).norm() < (0.02 if dtype == torch.bfloat16 else 1e-5) * wanted.norm())
