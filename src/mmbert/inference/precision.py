"""The precision of an encoder: fp32, bf16 or int8 matrices.

=====  ==========================================================  =========================================
fp32   packed for oneDNN on a CPU                                  equal to transformers to 1e-6
bf16   matrices in bf16; on CUDA the flash kernel too              relative error near 5e-4
int8   weights and activations (CPU only); without VNNI, weights    cosine to fp32 above 0.99
       of 7 bits, whose products cannot saturate
plain  the modules unchanged: for export, training, other code     equal to transformers to 1e-6
=====  ==========================================================  =========================================

In all of them the residual stream, the norms and the results are fp32, which costs nothing and keeps bf16 about fifty
times nearer to fp32 than a model in bf16 throughout.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbert import cpu
from mmbert.errors import ConfigError
from mmbert.inference.int8 import Int8Layer, compiles
from mmbert.inference.native import layer as native
from mmbert.inference.onednn_layers import OneDnnLayer
from mmbert.memory import give_back
from mmbert.model.encoder import Encoder
from mmbert.model.layers import Layer

log = logging.getLogger(__name__)

PRECISIONS = ("auto", "fp32", "bf16", "int8", "plain")


class Bf16Linear(nn.Module):
    """A linear layer without bias, stored and computed in bf16, with bf16 results. For GPUs."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().to(torch.bfloat16), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.to(torch.bfloat16), self.weight)


def choose(device: torch.device) -> tuple[str, str]:
    """Return the precision for ``auto`` on a device, and the reason."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "the GPU computes in bf16"
        return "fp32", "the GPU has no bf16"
    if device.type != "cpu":
        return "fp32", f"nothing else was tried on {device.type}"
    found = cpu.bf16_instructions()
    if found:
        return "bf16", f"the processor has {found}"
    return "fp32", "the processor has no instructions for bf16"


def apply_precision(encoder: Encoder, device: torch.device, precision: str) -> str:
    """Move an encoder to ``device`` and convert it to ``precision``, in place; return the precision used.

    Weights are stored once, in that precision: except for ``plain`` the encoder cannot be saved or trained afterwards.
    Raises ConfigError for a precision that is unknown or not possible on the device.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    used = choose(device)[0] if precision == "auto" else precision
    encoder.to(device)
    if used == "int8" and device.type != "cpu":
        raise ConfigError(f"int8 is for CPUs: take bf16 on {device}")
    # no list of the layers: it would keep the weights of each until the last one is packed
    fits = all(native.ready(layer) for layer in encoder.layers if isinstance(layer, Layer))
    if used in ("bf16", "int8") and device.type == "cpu" and fits:
        _replace(encoder, lambda layer: native.NativeLayer(layer, int8=used == "int8"))
    elif used == "int8":
        compiled = compiles()
        if not compiled:
            log.warning("int8 without a C++ compiler (g++) is slower than bf16: install one, or take bf16")
        _replace(encoder, lambda layer: Int8Layer(layer, compiled=compiled))
    elif used in _DTYPES and device.type == "cpu":
        _replace(encoder, lambda layer: OneDnnLayer(layer, _DTYPES[used]))
    elif used == "bf16":
        encoder.linear_dtype = torch.bfloat16
        for part in list(encoder.layers.modules()):
            for name, linear in list(part.named_children()):
                if isinstance(linear, nn.Linear):
                    setattr(part, name, Bf16Linear(linear.weight))
    return used


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def _replace(encoder: Encoder, make: Callable[[Layer], nn.Module]) -> None:
    """Replace one layer after the other, so that no second copy of all weights is in memory."""
    for index, layer in enumerate(encoder.layers):
        assert isinstance(layer, Layer)
        encoder.layers[index] = make(layer)
        if index % 4 == 3:
            give_back()  # temporary matrices of all sizes leave holes, which would add up to 100 MB
    give_back()
