"""The weights of a folder: names, shapes and types, files cut short, NaN, and whether they fit a config."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch

from mmbert.errors import MMBertError, WeightsError
from mmbert.model.config import ModelConfig
from mmbert.model.encoder import Encoder
from mmbert.model.layers import PredictionHead
from mmbert.model.mapped import DTYPE_NAMES, finite, read_header
from mmbert.model.tasks import TaskHead
from mmbert.model.weights import TIED, WEIGHTS, bare_name, fitted, read_index


class Problem(NamedTuple):
    """Something wrong with a folder, and how to fix it."""

    what: str
    fix: str

    @classmethod
    def of(cls, error: MMBertError) -> Problem:
        """Return what an error of the package says: behind its last colon it says what to do."""
        what, _, fix = str(error).rpartition(": ")
        return cls(what, fix) if what else cls(str(error), "see docs/guides")

    def __str__(self) -> str:
        return f"{self.what}: {self.fix}"


@dataclass
class Tensors:
    """``shapes`` and ``dtypes`` (as safetensors writes them, "F32") by name; ``nan``: names with NaN or infinity."""

    files: list[Path] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    nan: list[str] = field(default_factory=list)
    faults: list[Problem] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        """Number of weights; a tied matrix that is stored twice counts once."""
        return sum(prod(shape) for name, shape in self.shapes.items() if name != TIED)

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    @property
    def dtype(self) -> str:
        """``F32``, or several with their number of tensors."""
        counts = Counter(self.dtypes.values())
        if len(counts) < 2:
            return next(iter(counts), "unknown")
        return ", ".join(f"{name} ({number} tensors)" for name, number in sorted(counts.items()))


def read_tensors(folder: Path) -> Tensors:
    """Read ``model.safetensors``, a sharded index, or (without shapes) ``pytorch_model.bin``; damage becomes faults."""
    found = Tensors()
    index = folder / f"{WEIGHTS}.index.json"
    if (folder / WEIGHTS).is_file():
        found.files = [folder / WEIGHTS]
    elif index.is_file():
        try:
            found.files = [folder / name for name in sorted(set(read_index(index).values()))]
        except MMBertError as error:
            found.faults.append(Problem.of(error))
    elif (folder / "pytorch_model.bin").is_file():
        found.files = [folder / "pytorch_model.bin"]
        return found
    else:
        found.faults.append(Problem(f"no {WEIGHTS} in {folder}", "not a model folder, or its download is incomplete"))
    for file in found.files:
        try:
            _read_file(file, found)
        except WeightsError as error:
            size = f"{file.stat().st_size:,} bytes" if file.is_file() else "missing"
            what = f"{file} is cut short, damaged or no safetensors file ({size}; {error.__cause__ or error})"
            found.faults.append(Problem(what, "copy or download it again"))
    return found


def _read_file(path: Path, found: Tensors) -> None:
    for name, info in read_header(path).items():
        bare = bare_name(name)
        found.shapes[bare], found.dtypes[bare] = info.shape, DTYPE_NAMES[info.dtype]
        if not finite(info):
            found.nan.append(name)


def misfits(tensors: Tensors, config: ModelConfig, kind: str, labels: int) -> Iterator[Problem]:
    """Yield the tensors whose shape is not the config's, that are missing, or that are too many."""
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
            some = ", ".join(listed[:3]) + (", ..." if listed[3:] else "")
            yield Problem(f"{len(listed)} weights are {what} ({some})", fix)
    for name in sorted(wanted.keys() & there.keys()):
        if wanted[name] != fitted(name, there[name], config.vocab_size):
            stated = f"{name} is {list(there[name])}, config.json says {list(wanted[name])}"
            yield Problem(stated, "restore the config.json that was saved with these weights")
            return


def expected(config: ModelConfig, kind: str, labels: int) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of a model's tensors, the encoder's under ``model.``."""
    with torch.device("meta"):  # shapes without memory
        parts: dict[str, torch.nn.Module] = {"model.": Encoder(config)}
        if kind == "masked_lm":
            parts["head."] = PredictionHead(config)
        elif kind not in ("encoder", "sentence"):
            parts[""] = TaskHead(config, labels)
    shapes = {
        prefix + name: tuple(value.shape) for prefix, part in parts.items() for name, value in part.state_dict().items()
    }
    return shapes | ({"decoder.bias": (config.vocab_size,)} if kind == "masked_lm" else {})
