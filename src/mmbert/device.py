"""What an accelerator computes natively: the 16-bit type of its matrix products, and flash attention. One rule for all.

=====================================  =========  ==========================================
CUDA compute capability                precision  attention
=====================================  =========  ==========================================
8.0 and above (A100, L4, H100, H200)   bf16       torch's variable-length flash kernel
7.0 to 7.5 (V100, T4, RTX 20)          fp16       SDPA (memory-efficient kernel) over groups
below 7.0: no tensor cores             fp32       SDPA over groups
Apple MPS                              fp16       SDPA over groups
=====================================  =========  ==========================================

bf16 is emulated below 8.0: it runs, several times slower than fp32. CPUs are described by ``mmbert.cpu``.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Literal

import torch

Half = Literal["bf16", "fp16"]

HALF_DTYPES: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Names of the 16-bit precisions, as in recipes and options."""

_TENSOR_CORES = (7, 0)
_FLASH = (8, 0)


def half_for(capability: tuple[int, int], *, bf16: bool) -> Half | None:
    """Return the 16-bit precision for a GPU of this compute capability; ``bf16``: it multiplies bf16 natively.

    None where fp32 is as fast or faster: without tensor cores.
    """
    if bf16:
        return "bf16"
    return "fp16" if capability >= _TENSOR_CORES else None


def has_flash_attention(capability: tuple[int, int]) -> bool:
    """Return whether torch's flash kernel, which ``varlen_attn`` calls, runs at this compute capability."""
    return capability >= _FLASH


@cache
def native_half(device: torch.device) -> Half | None:
    """Return the 16-bit precision that an accelerator multiplies fast, None for fp32. Not for CPUs."""
    if device.type == "mps":
        return "fp16"  # bf16 needs macOS 14 and is no faster
    if device.type != "cuda":
        return None
    with torch.cuda.device(device):  # is_bf16_supported asks the current device
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return half_for(torch.cuda.get_device_capability(device), bf16=bf16)


@cache
def runs_flash_attention(device: torch.device) -> bool:
    """Return whether ``varlen_attn`` can be called on a device: CUDA, capability 8.0, and a torch that has it."""
    if device.type != "cuda" or not has_flash_attention(torch.cuda.get_device_capability(device)):
        return False
    try:
        from torch.nn.attention import varlen  # noqa: F401  (absent from some builds)
    except ImportError:
        return False
    return True


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context in which a model with fp32 weights computes in a precision: fp32, bf16 or fp16."""
    dtype = HALF_DTYPES.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
