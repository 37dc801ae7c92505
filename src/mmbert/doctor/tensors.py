"""The weights of a folder: what the headers of their files say, files cut short, NaN, and whether they fit a config.

Layout of safetensors: 8 bytes little-endian length of the header, the header (JSON), then the tensors without gaps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mmbert.errors import MMBertError
from mmbert.model.config import ModelConfig
from mmbert.model.encoder import Encoder
from mmbert.model.layers import PredictionHead
from mmbert.model.tasks import TaskHead
from mmbert.model.weights import TIED, WEIGHTS, bare_name, fitted, read_index

Fault = tuple[str, str]
"""What is wrong, and a fix."""


@dataclass
class Tensors:
    """``shapes`` and ``dtypes`` (as safetensors writes them, "F32") by name, the ``files``, ``faults`` of the files."""

    files: list[Path] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        """Numbers of weights, a tied matrix that is stored twice counted once."""
        return sum(prod(shape) for name, shape in self.shapes.items() if name != TIED)

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)


def read_tensors(folder: Path) -> Tensors:
    """Of ``model.safetensors``, a sharded index, or (without shapes) ``pytorch_model.bin``."""
    found = Tensors()
    index = folder / f"{WEIGHTS}.index.json"
    if (folder / WEIGHTS).is_file():
        found.files = [folder / WEIGHTS]
    elif index.is_file():
        try:
            found.files = [folder / name for name in sorted(set(read_index(index).values()))]
        except MMBertError as error:
            what, _, fix = str(error).rpartition(": ")
            found.faults.append((what, fix))
    elif (folder / "pytorch_model.bin").is_file():
        found.files = [folder / "pytorch_model.bin"]
        return found
    else:
        found.faults.append((f"no {WEIGHTS} in {folder}", "not a model folder, or its download is incomplete"))
    for file in found.files:
        try:
            header = read_header(file)
        except (OSError, ValueError) as error:
            found.faults.append((f"{file} {error}", "copy or download it again"))
            continue
        for name, entry in header.items():
            bare = bare_name(name)
            found.shapes[bare], found.dtypes[bare] = tuple(entry["shape"]), entry["dtype"]
    return found


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Name -> dtype, shape, data_offsets. Raises ValueError in a few words for a file that is cut or no safetensors."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, 2**27):
            raise ValueError(f"is cut short ({size:,} bytes) or is no safetensors file")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
            raise ValueError("has a damaged header") from error
    if size != end:
        raise ValueError(f"is {'cut short' if size < end else 'too long'}: {size:,} of {end:,} bytes")
    return dict(header)


def misfits(tensors: Tensors, config: ModelConfig, kind: str, labels: int) -> Iterator[Fault]:
    """Tensors that the config says otherwise, that are missing, or that are too many."""
    wanted = expected(config, kind, labels)
    if not any(name.startswith("model.") for name in tensors.shapes):  # a bare encoder has no prefix
        wanted = {name.removeprefix("model."): shape for name, shape in wanted.items()}
    there = {name: shape for name, shape in tensors.shapes.items() if name != TIED}
    for what, names, fix in (
        ("missing", wanted.keys() - there.keys(), "the file is of another model, or its config.json is"),
        ("not the config's", there.keys() - wanted.keys(), "config.json is that of another model or class"),
    ):
        if names:
            listed = sorted(names)
            yield f"{len(listed)} weights are {what} ({', '.join(listed[:3])}{', ...' if listed[3:] else ''})", fix
    for name in sorted(wanted.keys() & there.keys()):
        if wanted[name] != fitted(name, there[name], config.vocab_size):
            stated = f"{name} is {list(there[name])}, config.json says {list(wanted[name])}"
            yield stated, "restore the config.json that was saved with these weights"
            return


def expected(config: ModelConfig, kind: str, labels: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's tensors, the encoder's under ``model.``."""
    with torch.device("meta"):
        parts: dict[str, torch.nn.Module] = {"model.": Encoder(config)}
        if kind == "masked_lm":
            parts["head."] = PredictionHead(config)
        elif kind not in ("encoder", "sentence"):
            parts[""] = TaskHead(config, labels)
    shapes = {
        prefix + name: tuple(value.shape) for prefix, part in parts.items() for name, value in part.state_dict().items()
    }
    if kind == "masked_lm":
        shapes["decoder.bias"] = (config.vocab_size,)
    return shapes


def not_finite(tensors: Tensors) -> list[str]:
    """Names of tensors with NaN or infinite values; one tensor in memory at a time. Files that are damaged are left."""
    found = []
    for path in tensors.files:
        if path.suffix != ".safetensors":
            continue
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  (not a dict)
                    value = file.get_tensor(name)
                    if value.is_floating_point() and value.numel() and not _finite(value):
                        found.append(name)
        except (SafetensorError, OSError):
            continue
    return found


def _finite(value: torch.Tensor) -> bool:
    low, high = value.aminmax()
    return bool(torch.isfinite(low) & torch.isfinite(high))


def dtype_counts(dtypes: Mapping[str, str]) -> str:
    """``F32``, or several with their number of tensors."""
    names = sorted(set(dtypes.values()))
    if len(names) < 2:
        return names[0] if names else "unknown"
    return ", ".join(f"{name} ({sum(dtype == name for dtype in dtypes.values())} tensors)" for name in names)
