"""Attention on CPUs by ``attention.c``, where it can be built: bf16 dot products, RoPE and softmax in one pass.

For layers in bf16 and int8; fp32 uses torch. It is used if the processor has AVX-512 with bf16, a C compiler is
installed (or was at the first use), heads have 32 or 64 dimensions, and a first small case agrees with torch. If
anything is missing, torch's attention is used and :func:`describe` says why. ``MMBERT_NATIVE=0`` in the environment, or
:func:`use`, switches the kernel off.

Shapes: ``T`` tokens, ``H`` heads, ``D`` head dimension.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache, lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbert.files import environment
from mmbert.inference.native.build import NoLibrary, load_library
from mmbert.model.attention import AttentionPlan, Group
from mmbert.model.rope import Angles, angles

log = logging.getLogger(__name__)

SOURCES = tuple(Path(__file__).with_name(name) for name in ("attention.c", "layer.c", "lanes.h"))

HEAD_DIMS = (32, 64)

QUERIES = 768
"""Queries of a work item at most: enough to make packing its keys cheap, few enough to keep all cores busy."""

_NEEDED = ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_bf16")

_FLAGS = ("-std=gnu11", "-O3", "-fopenmp", "-march=x86-64-v4", "-mavx512bf16", "-mavx512vnni")

_LANES = 16  # keys come in groups of so many

_used = True


class _Batch(ctypes.Structure):
    """``Batch`` of attention.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("qkv", "out", "cos", "sin", "units", "scratch")),
        *((name, ctypes.c_int64) for name in ("room", "count", "heads", "threads", "half")),
    )


def use(on: bool) -> None:
    """Switch the kernel on or off for models that are loaded afterwards."""
    global _used
    _used = on


def ready(head_dim: int) -> bool:
    """Return whether layers of this head dimension use it here. The first call builds it."""
    return head_dim in HEAD_DIMS and _switched_on() and isinstance(_library(), ctypes.CDLL)


def library() -> ctypes.CDLL:
    """Return the compiled functions; only if :func:`ready`."""
    found = _library()
    assert isinstance(found, ctypes.CDLL)
    return found


def describe() -> str:
    """Return what computes attention in bf16 and int8 on this CPU, and why."""
    if not _switched_on():
        return "torch: the native kernel is switched off"
    library = _library()
    if isinstance(library, str):
        return f"torch: {library}"
    built_by = ctypes.c_char_p(ctypes.addressof(ctypes.c_char.in_dll(library, "built_by"))).value or b""
    return f"native kernel (AVX-512 bf16), built by {built_by.decode()}"


def attend(qkv: Tensor, cos_sin: Angles, plan: AttentionPlan, *, local: bool) -> Tensor:
    """Return attention within each document, all of it or (``local``) half a window; only if :func:`ready`.

    qkv      (T, 3, H, D) bf16, not rotated yet, of weights in the order of ``onednn_layers.paired``
    cos_sin  cosines and sines (T, 1, D / 2) fp32
    Returns (T, H, D) bf16.
    """
    return _call(library(), qkv.contiguous(), cos_sin, plan.whole, half=plan.half if local else plan.longest)


def _call(library: ctypes.CDLL, qkv: Tensor, cos_sin: Angles, groups: tuple[Group, ...], *, half: int) -> Tensor:
    assert qkv.dtype == torch.bfloat16
    units, widest = _units(groups, half)
    tokens, _, heads, head_dim = qkv.shape
    threads = torch.get_num_threads()
    room = -(-widest // _LANES) * _LANES * head_dim * 2 * qkv.itemsize  # keys and values
    scratch = qkv.new_empty(threads * room, dtype=torch.uint8)  # torch aligns to 64 bytes
    out = qkv.new_empty(tokens, heads, head_dim)
    cos, sin = (part.contiguous() for part in cos_sin)
    pointers = (tensor.data_ptr() for tensor in (qkv, out, cos, sin, units, scratch))
    library.attend(ctypes.byref(_Batch(*pointers, room, len(units), heads, threads, half)), head_dim)
    return out


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


def _switched_on() -> bool:
    return _used and environment("MMBERT_NATIVE") != "0"


@cache
def _library() -> ctypes.CDLL | str:
    """Return the kernel, or why there is none."""
    able = torch.cpu.get_capabilities()
    missing = [name for name in _NEEDED if not able.get(name)]
    if missing:
        return f"the processor has no {missing[-1]}"
    try:
        library = load_library(SOURCES, _FLAGS)
    except NoLibrary as error:
        return str(error)
    library.attend.argtypes, library.attend.restype = (ctypes.POINTER(_Batch), ctypes.c_int), None
    library.run_layer.restype = None
    if not all(_agrees(library, head_dim, half) for head_dim in HEAD_DIMS for half in (8, 100)):
        log.warning("the native attention kernel gives wrong numbers here and is left out: please report it")
        return "the native kernel gives wrong numbers here"
    return library


def _agrees(library: ctypes.CDLL, head_dim: int, half: int) -> bool:
    """Return whether the kernel agrees with torch on three short documents."""
    groups = (Group(1, 3, None), Group(2, 41, None))
    qkv = torch.randn(85, 3, 2, head_dim, generator=torch.Generator().manual_seed(0)).bfloat16()
    document = torch.repeat_interleave(torch.tensor([3, 41, 41]))
    where = torch.arange(85)
    cos_sin = angles(where, head_dim, 160_000.0)
    q, k, v = qkv.float().permute(1, 2, 0, 3).unbind()  # (H, T, D)
    q, k = (_rotated(x, torch.complex(*cos_sin)[:, 0]) for x in (q, k))
    seen = (document[:, None] == document) & ((where[:, None] - where).abs() <= half)
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    found = _call(library, qkv, cos_sin, groups, half=half).transpose(0, 1).float()
    return bool((found - wanted).norm() < 0.02 * wanted.norm())


def _rotated(x: Tensor, cos_sin: Tensor) -> Tensor:
    """Return (H, T, D) of neighbouring pairs, rotated by complex numbers (T, D / 2)."""
    return torch.view_as_real(torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * cos_sin).flatten(-2)
