"""Tensors of safetensors files, each mapped into memory by itself: pages are read when used, and freed with the tensor.

A private map (``MAP_PRIVATE``): pages that are only read are those of the system's file cache, shared by all processes;
a page that is written becomes a copy, so the file never changes.

A file that is cut short while it is mapped ends the process with SIGBUS, and one that is written in place changes the
weights. Writers of this package, of huggingface_hub and rsync write a new file and rename it: the map then keeps the
old one. ``cp`` onto the file of a running server does not.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmbert.errors import WeightsError

DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64",
               torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
               torch.bool: "BOOL"}  # fmt: skip

_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}

_SMALL = 2**16
"""Bytes below which a tensor is copied: a map of its own would take as much."""

_CHUNK = 2**22
"""Numbers that :func:`finite` looks at together; their pages are given back before the next."""


@dataclass(frozen=True)
class TensorInfo:
    """The position, type and shape of one tensor in a file; ``offset``: of its first byte in ``path``."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    path: Path

    @property
    def numel(self) -> int:
        return prod(self.shape)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Return the tensors of a safetensors file by name, after the library has checked its header, offsets and length.

    Raises WeightsError for a file that is missing, damaged or cut short, or that holds a type that torch lacks.
    """
    try:
        with safe_open(path, framework="pt"), path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} cannot be read ({error}): copy or download it again") from error
    header.pop("__metadata__", None)
    unknown = [f"{name} ({entry['dtype']})" for name, entry in header.items() if entry["dtype"] not in _DTYPES]
    if unknown:
        raise WeightsError(f"{path}: tensors of this type are not supported: {unknown[0]}")
    return {
        name: TensorInfo(name, _DTYPES[e["dtype"]], tuple(e["shape"]), 8 + length + e["data_offsets"][0], path)
        for name, e in header.items()
    }


def map_tensor(info: TensorInfo) -> Tensor:
    """Return a tensor of a file: mapped, or read if it is small. Its memory may be written, which changes no file."""
    flat = _map(info, 0, info.numel)
    return (flat.clone() if flat.nbytes < _SMALL else flat).view(info.shape)


def finite(info: TensorInfo) -> bool:
    """Return whether a tensor of a file has neither NaN nor infinite values, without keeping its pages in memory."""
    return all(is_finite(chunk) for chunk in _chunks(info))


def is_finite(value: Tensor) -> bool:
    """Return whether a tensor has neither NaN nor infinite values."""
    if not value.numel() or not value.is_floating_point():
        return True
    low, high = value.detach().aminmax()  # NaN becomes both, and no mask of the tensor's size is made
    return bool(torch.isfinite(low) & torch.isfinite(high))


def _chunks(info: TensorInfo) -> Iterator[Tensor]:
    for start in range(0, info.numel, _CHUNK):
        yield _map(info, start, min(start + _CHUNK, info.numel))


def _map(info: TensorInfo, start: int, stop: int) -> Tensor:
    """Return the numbers ``start`` to ``stop`` of the flattened tensor, in a map that is closed with them."""
    size = info.dtype.itemsize
    first, length = info.offset + start * size, (stop - start) * size
    if not length:
        return torch.empty(0, dtype=info.dtype)
    before = first % mmap.ALLOCATIONGRANULARITY  # maps begin at whole pages
    with info.path.open("rb") as file:
        # The map outlives the descriptor, so thousands of tensors keep no file open.
        pages = mmap.mmap(file.fileno(), before + length, access=mmap.ACCESS_COPY, offset=first - before)
    return torch.frombuffer(pages, dtype=info.dtype, count=stop - start, offset=before)
