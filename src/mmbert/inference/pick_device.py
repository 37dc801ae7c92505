"""The device that a model is loaded onto: CUDA, Apple's MPS where it is at least as fast as the CPU, else the CPU.

Whether MPS is faster depends on the Mac and on the width of the model, so ``auto`` measures it: a few layers of the
model's shape with random weights, the same short texts on both devices, each in its own best precision.
"""

from __future__ import annotations

import logging
import time
from functools import cache

import torch

from mmbert.errors import ConfigError
from mmbert.inference.precision import apply_precision
from mmbert.model.config import ModelConfig
from mmbert.model.encoder import Encoder
from mmbert.packed import Packed

log = logging.getLogger(__name__)

LAYERS = 3
"""Layers that are measured: one global layer and two local ones in the published shapes."""
LENGTHS = (16, 64, 128, 256, 512)
"""Tokens of the texts that are measured, one batch."""
REPEATS = 3


def pick_device(name: str, config: ModelConfig | None = None, precision: str = "auto") -> torch.device:
    """Return the device for ``auto`` or torch's name of one. Raises ConfigError for one that does not exist.

    config     of the model, whose shape is measured; None: ``auto`` does not take MPS
    precision  what was asked for: int8 and bf16 are not computed by MPS, so ``auto`` does not take it for them
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if config is None or precision not in ("auto", "fp16", "fp32") or not _has_mps():
            return torch.device("cpu")
        return torch.device("mps" if mps_is_faster(config) else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is no device: use auto, cpu, cuda, cuda:1 or mps") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices; use auto or cpu"
        )
    if device.type == "mps" and not _has_mps():
        raise ConfigError(f"device {name!r}: torch finds no Apple GPU (MPS) here; use auto or cpu")
    return device


def mps_is_faster(config: ModelConfig) -> bool:
    """Return whether MPS takes no longer than the CPU for layers of this shape; False if it lacks an operation."""
    return _mps_is_faster(config.hidden_size, config.intermediate_size, config.num_heads, config.window)


@cache
def _mps_is_faster(hidden_size: int, intermediate_size: int, num_heads: int, window: int) -> bool:
    shape = ModelConfig(
        vocab_size=1024, hidden_size=hidden_size, intermediate_size=intermediate_size, num_layers=LAYERS,
        num_heads=num_heads, window=window,
    )  # fmt: skip
    try:
        mps = seconds_per_batch(shape, torch.device("mps"))
    except RuntimeError as error:  # also NotImplementedError, for an operation that this torch does not have on MPS
        log.warning("the CPU is used: MPS cannot run the model (%s)", str(error).splitlines()[0])
        return False
    processor = seconds_per_batch(shape, torch.device("cpu"))
    log.debug("%d layers, %d tokens: MPS %.1f ms, CPU %.1f ms", LAYERS, sum(LENGTHS), mps * 1e3, processor * 1e3)
    return mps <= processor


def seconds_per_batch(config: ModelConfig, device: torch.device) -> float:
    """Return the least time of ``REPEATS`` passes over texts of ``LENGTHS``, in the best precision of the device."""
    with torch.random.fork_rng([]):  # the caller's random numbers stay as they were
        encoder = Encoder(config).eval().requires_grad_(False)
    apply_precision(encoder, device, "auto")
    packed = Packed.from_lists([[7] * length for length in LENGTHS]).to(device)
    times = []
    with torch.inference_mode():
        for _ in range(1 + REPEATS):
            started = time.perf_counter()
            encoder(packed).cpu()  # the copy waits for the device
            times.append(time.perf_counter() - started)
    return min(times[1:])  # the first pass compiles and allocates


def _has_mps() -> bool:
    return torch.backends.mps.is_available()
