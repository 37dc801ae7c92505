"""Flash attention for transformers' models where the package flash-attn is not installed: torch's own kernel.

``VARLEN`` is an attention of transformers like its ``flash_attention_2``: padding is taken out around each layer's
attention, and the window is an argument of the kernel. Without CUDA one SDPA per text replaces the kernel, so that a
rehearsal runs the same path.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask
from transformers.utils import is_flash_attn_2_available

from mmbert.device import runs_flash_attention

VARLEN = "torch_varlen"


def best_attention(device: torch.device) -> str | None:
    """Return transformers' own flash attention if its package is installed, else None."""
    return "flash_attention_2" if device.type == "cuda" and is_flash_attn_2_available() else None


def attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    sliding_window: int | None = None, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Return attention (B, L, H, D) over (B, H, L, D); ``attention_mask`` (B, L): 1 for text; None: no padding."""
    batch, _heads, length, _width = query.shape
    # transformers counts the window as flash-attn does: half of it and the token itself
    half = -1 if sliding_window is None else sliding_window - 1
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    if attention_mask is None:
        offsets = torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=query.device)
        return packed(q, k, v, offsets, length, half).view(batch, length, *q.shape[1:]), None
    places = attention_mask.flatten().nonzero().flatten()
    offsets = F.pad(attention_mask.sum(1).cumsum(0), (1, 0)).to(torch.int32)
    found = packed(*(x.index_select(0, places) for x in (q, k, v)), offsets, length, half)
    out = torch.zeros_like(q).index_copy(0, places, found)
    return out.view(batch, length, *q.shape[1:]), None


def packed(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, longest: int, half: int) -> Tensor:
    """Return attention (T, H, D) within each text; ``half`` a window, or -1 for all of it."""
    if runs_flash_attention(q.device):
        from torch.nn.attention.varlen import varlen_attn

        out = varlen_attn(q, k, v, offsets, offsets, longest, longest, window_size=(half, half))
        assert isinstance(out, Tensor)
        return out
    parts = []
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        where = torch.arange(end - start)
        seen = (where[:, None] - where).abs() <= half if half >= 0 else None
        text = (x[start:end].transpose(0, 1) for x in (q, k, v))
        parts.append(F.scaled_dot_product_attention(*text, attn_mask=seen).transpose(0, 1))
    return torch.cat(parts)


AttentionInterface.register(VARLEN, attend)
AttentionMaskInterface.register(VARLEN, flash_attention_mask)
