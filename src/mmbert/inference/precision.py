"""The numbers an encoder computes with: fp32, bf16 or int8 matrices; residual stream, norms and answers stay fp32."""

from __future__ import annotations

import torch
from torch import nn

from mmbert.errors import ConfigError
from mmbert.inference.fast import FastLayer
from mmbert.inference.int8 import Int8Layer, has_compiler
from mmbert.model.encoder import Encoder

PRECISIONS = ("auto", "plain", "fp32", "bf16", "int8")


def settle(encoder: Encoder, device: torch.device, precision: str) -> str:
    """Move an encoder to ``device`` and put it in ``precision``, in place. Returns what ``auto`` came to."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    encoder.to(device)
    if precision == "int8":
        encoder.layers = nn.ModuleList(Int8Layer(layer, compiled=has_compiler()) for layer in encoder.layers)
    return "fp32"
