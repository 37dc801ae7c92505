"""What this machine has and what would run on it: versions, device, threads, precision, attention, extras."""

from __future__ import annotations

import os
import platform
import shutil

import torch

from mmbert import cpu
from mmbert.device import runs_flash_attention
from mmbert.extras import extras, missing
from mmbert.inference import precision
from mmbert.inference.native import kernel, layer
from mmbert.model.config import PRESETS
from mmbert.native import library
from mmbert.training.run_folder import choose_precision, versions


def describe_machine() -> dict[str, str]:
    """Return all of it by name, in the order printed."""
    device = _here()
    return {
        **versions(),
        "platform": platform.platform(),
        "device": _device(device),
        "threads": _threads(),
        "precision": ": ".join(precision.choose(device)),
        "in training": _training(device),
        "int8": _int8(device),
        "matrices": _matrices(device),
        "attention": attention(device),
        **{f"extra {name}": _extra(name) for name in extras()},
    }


def attention(device: torch.device) -> str:
    """Return which implementation of attention runs, and why."""
    if device.type == "cpu":
        return kernel.describe()
    if runs_flash_attention(device):
        return "varlen_attn (flash attention with a window) in bf16 and fp16; blocks in fp32"
    why = "" if device.type != "cuda" else ": flash attention needs compute capability 8.0 and torch 2.11"
    return f"torch's SDPA, documents of one length per call, local layers in blocks{why}"


def _here() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _device(device: torch.device) -> str:
    if device.type == "mps":
        return "mps: Apple's GPU; a model is loaded onto it if a short measurement finds it as fast as the CPU"
    if device.type != "cuda":
        return "cpu: no CUDA device, or a torch without CUDA"
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30
    return f"cuda: {torch.cuda.device_count()} x {torch.cuda.get_device_name(device)}, {memory:.0f} GiB"


def _threads() -> str:
    """Threads of a matrix product beside the processors that this process may use (fewer in a container)."""
    given = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    used = torch.get_num_threads()
    advice = "" if used <= given else f": more than there are, which is slow; set OMP_NUM_THREADS={given}"
    return f"{used} of torch, {given} processors given to this process{advice}"


def _training(device: torch.device) -> str:
    """What ``runtime.precision: auto`` of a recipe chooses."""
    chosen = {choose_precision(device, int(preset["hidden_size"])) for preset in PRESETS.values()}
    if device.type == "cuda":
        if chosen == {"fp32"}:
            return "fp32: this GPU has no tensor cores"
        scaled = ", the loss is scaled" if "fp16" in chosen else ""
        return f"{min(chosen)}: matrix products run on the tensor cores in it; weights stay fp32{scaled}"
    if device.type == "mps":
        return "on the CPU: pretraining and fine-tuning do not use MPS"
    between = "" if isinstance(library.find(), str) else "; native kernels between the products"
    if "bf16" in chosen:
        return f"bf16: this processor multiplies it in hardware (narrow models: fp32); weights stay fp32{between}"
    return f"fp32: this processor has no bf16 instructions (AVX-512 BF16 or AMX){between}"


def _int8(device: torch.device) -> str:
    """Whether ``precision: int8`` is worth asking for, and what to expect of it."""
    if device.type != "cpu":
        return f"for CPUs only: take {precision.choose(device)[0]}"
    kernels = layer.usable("int8")
    if kernels and not kernels.target.measured:
        return f"ready on request: 8 bits, by the native kernels ({kernels.target.name}); their speed is unmeasured"
    if kernels and min(kernels.int8_largest) < 127:
        return "ready on request: 7 bits, as the processor has no VNNI; some twice as fast as fp32"
    if kernels:
        return f"ready on request: 8 bits, by {'AMX' if kernels.tiles else 'VNNI'}; three to four times as fast as fp32"
    if found := cpu.int8_instructions():
        able = any(shutil.which(name) for name in ("g++", "clang++", "c++"))
        return f"ready on request: the processor has {found}" if able else "slower than bf16: it needs g++"
    return "refused, as torch alone would be many times slower than fp32: see attention for what native kernels lack"


def _matrices(device: torch.device) -> str:
    """Who computes what is not attention."""
    if device.type != "cpu":
        return "torch"
    ours = [name for name in layer.KINDS if layer.usable(name)]
    theirs = [name for name in layer.KINDS if name not in ours]
    found = [f"{', '.join(ours)}: native layers (MMBERT_NATIVE=0: torch)"] if ours else []
    return "; ".join(found + ([f"{', '.join(theirs)}: torch"] if theirs else []))


def _extra(name: str) -> str:
    lacking = missing(name)
    return f"{', '.join(lacking)} missing: pip install 'mmbert[{name}]'" if lacking else "installed"
