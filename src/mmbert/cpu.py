"""Which matrix products this CPU computes fast and exactly: bf16 and packed weights by oneDNN, int8 by torch.

Everything that depends on it (layers for inference, precision of training, doctor) asks here. Flags alone do not
suffice: oneDNN has requirements of its own, and both it and torch can be capped from outside.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F

ROWS = 2048
"""Rows that oneDNN packs a weight for; products of any number of rows work."""

_BF16 = ("amx_bf16", "avx512_bf16")


def bf16_instructions() -> str | None:
    """Return the instruction set by which bf16 products are faster than fp32 ones here, or None."""
    flags = torch.cpu.get_capabilities()
    found = [name for name in _BF16 if flags.get(name)]
    return found[0] if found and packs(torch.bfloat16) else None


@cache
def packs(dtype: torch.dtype) -> bool:
    """Return whether oneDNN multiplies by packed weights of this type here, and rightly.

    In bf16, packing raises RuntimeError on CPUs without AVX-512 (and without AVX-NE-CONVERT).
    """
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(rows, 16, generator=generator) for rows in (8, 24))
    x, weight = x.to(dtype), weight.to(dtype)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.clone(), ROWS)
        gelu = torch.ops.mkldnn._linear_pointwise(x, packed, None, "gelu", [], "none")
        found = torch.ops.mkldnn._linear_pointwise.binary(x, gelu, packed, None, "mul").float()
    except RuntimeError:
        return False
    product = x.float() @ weight.float().t()
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    return torch.allclose(found, F.gelu(product) * product, tolerance, tolerance)


@cache
def int8_instructions() -> str | None:
    """Return the instruction set by which ``torch._int_mm`` is fast and exact here, or None.

    Without VNNI, oneDNN adds two products of an unsigned and a signed byte in 16 bits, cut off at 32,767, which
    255 * 127 * 2 exceeds; other products of torch are exact, and thirty times slower than those in fp32.
    """
    flags = torch.cpu.get_capabilities()
    x = torch.tensor([[127] * 64, [-128] * 64], dtype=torch.int8)
    weight = torch.full((64, 64), 127, dtype=torch.int8)
    found = next((name for name in ("amx_int8", "avx512_vnni", "avx_vnni") if flags.get(name)), None)
    return found if torch.equal(torch._int_mm(x, weight), x.int() @ weight.int()) else None
