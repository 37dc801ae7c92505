"""The precision of an encoder: fp32, bf16, fp16 or int8 matrices.

=====  ==========================================================  =========================================
fp32   native layers on a CPU, or packed for oneDNN                equal to transformers to 1e-6
bf16   matrices in bf16; on CUDA the flash kernel too. Native      relative error near 5e-4
       layers without bf16 instructions: weights alone
fp16   the same for GPUs without bf16 (T4, V100, Apple)             numbers above 65,504 become infinite
int8   weights and activations (CPU only); native layers without   cosine to fp32 above 0.99
       VNNI: both of 7 bits, whose products cannot saturate
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
from mmbert.device import HALF_DTYPES, native_half
from mmbert.errors import ConfigError
from mmbert.inference.int8 import Int8Layer, compiles
from mmbert.inference.native import kernel
from mmbert.inference.native import layer as native
from mmbert.inference.native.kernel import Kernels
from mmbert.inference.onednn_layers import OneDnnLayer
from mmbert.memory import give_back
from mmbert.model.encoder import Encoder
from mmbert.model.layers import Layer

log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Precisions of layers that oneDNN multiplies, and the type of their matrices."""

PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8", "plain")


class HalfLinear(nn.Module):
    """A linear layer without bias, stored and computed in bf16 or fp16, with such results. For GPUs."""

    weight: Tensor

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().to(dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight)


def choose(device: torch.device) -> tuple[str, str]:
    """Return the precision for ``auto`` on a device, and the reason."""
    if device.type != "cpu":
        half = native_half(device)
        if half is None:
            return "fp32", f"this {device.type} device has no fast 16-bit products"
        return half, "the GPU computes in bf16" if half == "bf16" else "the GPU computes in fp16, not in bf16"
    found = cpu.bf16_instructions()
    if found:
        return "bf16", f"the processor has {found}"
    if kernels := native.usable("bf16"):
        how = "multiplied in bf16" if kernels.bf16_dot else "kept in bf16 and multiplied in fp32"
        return "bf16", f"weights are {how}, by the native kernels ({kernels.target.name})"
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
        raise ConfigError(f"int8 is for CPUs: take {native_half(device) or 'fp32'} on {device}")
    if used == "fp16" and device.type == "cpu":
        raise ConfigError("precision fp16 is for GPUs: take auto, bf16, int8 or fp32 on a CPU")
    if used == "bf16" and device.type != "cpu" and native_half(device) != "bf16":
        log.warning("bf16 is emulated on %s, which is slow: take fp16", device)
    kernels = _native(encoder, used) if device.type == "cpu" else None
    if device.type == "cpu" and not kernels:
        used = without_kernels(used, asked=precision)
    if kernels:
        replace_layers(encoder, lambda _, layer: native.NativeLayer(layer, used, kernels))
    elif used == "int8":
        compiled = compiles()
        if not compiled:
            log.warning("int8 without a C++ compiler (g++) is slower than bf16: install one, or take bf16")
        replace_layers(encoder, lambda index, layer: Int8Layer(layer, compiled=compiled))
    elif used in DTYPES and device.type == "cpu":
        replace_layers(encoder, lambda index, layer: OneDnnLayer(layer, DTYPES[used]))
    elif used in HALF_DTYPES:
        dtype = encoder.linear_dtype = HALF_DTYPES[used]
        for part in list(encoder.layers.modules()):
            for name, linear in list(part.named_children()):
                if isinstance(linear, nn.Linear):
                    setattr(part, name, HalfLinear(linear.weight, dtype))
    return used


def _native(encoder: Encoder, used: str) -> Kernels | None:
    """Return the native kernels, if all layers run by them in this precision."""
    if used not in native.KINDS:
        return None
    found: Kernels | None = None
    for layer in encoder.layers:  # no list of them: it would keep the weights of each until the last one is packed
        found = native.ready(layer, used) if isinstance(layer, Layer) else None
        if found is None:
            return None
    return found


def without_kernels(used: str, *, asked: str) -> str:
    """Return the precision by torch alone on a CPU. Raises ConfigError for int8 that is many times slower than fp32."""
    if used == "bf16" and not cpu.bf16_instructions():
        if asked == "auto":
            return "fp32"
        log.warning("bf16 is much slower than fp32 here, as the processor has no instructions for it: take auto")
    if used == "int8" and not cpu.int8_instructions():
        why = kernel.find()
        why = why if isinstance(why, str) else "the widths of this model do not fit the native kernels"
        raise ConfigError(
            f"int8 would be many times slower than fp32 here: {why}, and torch has no fast int8 products without VNNI; "
            "take precision auto"
        )
    return used


def replace_layers(encoder: Encoder, make: Callable[[int, Layer], nn.Module]) -> None:
    """Replace one layer after the other, given its index, so that no second copy of all weights is in memory."""
    for index, layer in enumerate(encoder.layers):
        assert isinstance(layer, Layer)
        encoder.layers[index] = make(index, layer)
        if index % 4 == 3:
            give_back()  # temporary matrices of all sizes leave holes, which would add up to 100 MB
    give_back()
