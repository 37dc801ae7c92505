"""The native kernels of this processor, and attention on CPUs by ``attention.c``: RoPE and softmax in one pass.

They are used if the processor has the instructions of a target (``targets.py``), a C compiler is installed (or was at
the first use), heads have 32 or 64 dimensions, and a first small case agrees with torch. If anything is missing, torch
computes and :func:`describe` says why. ``MMBERT_NATIVE`` in the environment names a target, or 0 for none;
:func:`use` switches the kernels off.

Shapes: ``T`` tokens, ``H`` heads, ``D`` head dimension.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbert.inference.native import targets
from mmbert.inference.native.build import NoLibrary, load_library
from mmbert.inference.native.targets import SOURCES, Target
from mmbert.model.attention import AttentionPlan, Group
from mmbert.model.rope import Angles, angles, rotate

log = logging.getLogger(__name__)

HEAD_DIMS = (32, 64)

QUERIES = 768
"""Queries of a work item at most: enough to make packing its keys cheap, few enough to keep all cores busy."""

_used = True


class _Batch(ctypes.Structure):
    """``Batch`` of attention.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("qkv", "out", "cos", "sin", "units", "scratch")),
        *((name, ctypes.c_int64) for name in ("room", "count", "heads", "threads", "half", "head_dim", "bf16")),
    )


class Kernels:
    """A target's compiled functions.

    lanes         numbers of 32 bits in a register: keys come in groups of so many
    bf16_dot      it multiplies bf16; without, bf16 is only how weights are kept, and attention is fp32
    columns       of a matrix, that are multiplied together
    int8_zero     what is added to inputs of int8, where instructions take unsigned ones
    int8_largest  numbers that int8 rounds the largest input and the largest weight to
    tiles         it multiplies bf16 and int8 by AMX
    """

    def __init__(self, target: Target, library: ctypes.CDLL) -> None:
        self.target, self.library = target, library
        self.lanes, bf16_dot = (ctypes.c_int32 * 2).in_dll(library, "attention_traits")
        self.columns, self.int8_zero, *int8_largest = (ctypes.c_int32 * 4).in_dll(library, "layer_traits")
        self.bf16_dot, self.int8_largest = bool(bf16_dot), tuple(int8_largest)
        self.tiles = bool(library.allow_tiles())
        self.run_attention, self.run_layer = library.attend, library.run_layer
        self.run_attention.restype = self.run_layer.restype = None

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
        return self._attend(qkv.contiguous(), cos_sin, plan.whole, half=plan.half if local else plan.longest)

    def _attend(self, qkv: Tensor, cos_sin: Angles, groups: tuple[Group, ...], *, half: int) -> Tensor:
        assert qkv.dtype in (torch.float32, self.dtype(torch.bfloat16))
        units, widest = _units(groups, half)
        tokens, _, heads, head_dim = qkv.shape
        threads = torch.get_num_threads()
        group = self.lanes * (2 if self.tiles else 1)
        room = -(-widest // group) * group * head_dim * 2 * qkv.itemsize  # keys and values
        scratch = qkv.new_empty(threads * room, dtype=torch.uint8)  # torch aligns to 64 bytes
        out = qkv.new_empty(tokens, heads, head_dim)
        cos, sin = (part.contiguous() for part in cos_sin)
        pointers = (tensor.data_ptr() for tensor in (qkv, out, cos, sin, units, scratch))
        bf16 = qkv.dtype == torch.bfloat16
        self.run_attention(ctypes.byref(_Batch(*pointers, room, len(units), heads, threads, half, head_dim, bf16)))
        return out


def use(on: bool) -> None:
    """Switch the kernels on or off for models that are loaded afterwards."""
    global _used
    _used = on


def find() -> Kernels | str:
    """Return the kernels of this processor, or why there are none. The first call builds them."""
    target = targets.choose() if _used else "the native kernels are switched off"
    return target if isinstance(target, str) else _kernels(target)


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


@lru_cache(maxsize=4)
def _units(groups: tuple[Group, ...], half: int) -> tuple[Tensor, int]:
    """Return (N, 4) borders of the queries of each work item and of the keys they see, and the most keys of one."""
    units, start = [], 0
    for group in groups:
        for _ in range(group.documents):
            end = start + group.length
            for begin in range(start, end, QUERIES):
                stop = min(begin + QUERIES, end)
                # a query sees half a window on either side, and nothing beyond its own document
                units.append((begin, stop, max(begin - half, start), min(stop + half, end)))
            start = end
    return torch.tensor(units, device="cpu"), max(last - first for _, _, first, last in units)


@cache
def _kernels(target: Target) -> Kernels | str:
    """Return a target's kernels, or why there are none."""
    try:
        kernels = Kernels(target, load_library(SOURCES, target.all_flags()))
    except NoLibrary as error:
        return str(error)
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
