"""Read the files of a model folder as far as possible: what is wrong with one is noted, and reading goes on.

Of the weights: names, shapes and types, files cut short, NaN, and whether they fit a config.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mmbert.errors import DataError, MMBertError, WeightsError
from mmbert.io.stream import begins_with_mark, read_text
from mmbert.model.config import ModelConfig
from mmbert.model.encoder import Encoder
from mmbert.model.folder import read_modules, why_no_weights
from mmbert.model.layers import PredictionHead
from mmbert.model.mapped import DTYPE_NAMES, finite, read_header
from mmbert.model.tasks import TaskHead
from mmbert.model.weights import TIED, WEIGHTS, bare_name, fitted, misfits, read_index


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

    def parameters(self, *, tied: bool) -> int:
        """Return the number of weights; a tied matrix that is stored twice counts once."""
        return sum(prod(shape) for name, shape in self.shapes.items() if name != TIED or not tied)

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
    tensors = Tensors()
    index = folder / f"{WEIGHTS}.index.json"
    if (folder / WEIGHTS).is_file():
        tensors.files = [folder / WEIGHTS]
    elif index.is_file():
        try:
            tensors.files = [folder / name for name in sorted(set(read_index(index).values()))]
        except MMBertError as error:
            tensors.faults.append(Problem.of(error))
    elif (folder / "pytorch_model.bin").is_file():
        tensors.files = [folder / "pytorch_model.bin"]
        return tensors
    else:
        tensors.faults.append(Problem(f"no {WEIGHTS} in {folder}", why_no_weights(folder)))
    for file in tensors.files:
        try:
            _read_file(file, tensors)
        except WeightsError as error:
            size = f"{file.stat().st_size:,} bytes" if file.is_file() else "missing"
            what = f"{file} is cut short, damaged or no safetensors file ({size}; {error.__cause__ or error})"
            tensors.faults.append(Problem(what, "copy or download it again"))
    return tensors


def _read_file(path: Path, tensors: Tensors) -> None:
    for name, info in read_header(path).items():
        bare = bare_name(name)
        tensors.shapes[bare], tensors.dtypes[bare] = info.shape, DTYPE_NAMES[info.dtype]
        if not finite(info):
            tensors.nan.append(name)


def check_shapes(tensors: Tensors, config: ModelConfig, kind: str, labels: int) -> Iterator[Problem]:
    """Yield the tensors that are missing, too many, or of another shape than the config's."""
    wanted = _expected(config, kind, labels)
    if not any(name.startswith("model.") for name in tensors.shapes):  # a bare encoder has no prefix
        wanted = {name.removeprefix("model."): shape for name, shape in wanted.items()}
    left_out = TIED if config.tied else None
    shapes = {name: shape for name, shape in tensors.shapes.items() if name != left_out}
    stored = {name: fitted(name, shape, config.vocab_size) for name, shape in shapes.items()}
    for fault in islice(misfits(wanted, stored), 3):
        yield Problem(f"weights do not fit config.json: {fault}", "restore those saved together")


def _expected(config: ModelConfig, kind: str, labels: int) -> dict[str, tuple[int, ...]]:
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
    if kind == "masked_lm":
        shapes["decoder.bias"] = (config.vocab_size,)
        if not config.tied:
            shapes[TIED] = (config.vocab_size, config.hidden_size)
    return shapes


@dataclass
class Folder:
    """What a folder holds.

    path       the folder
    place      where the encoder lies in it: the folder itself, or that of the Transformer module
    files      JSON objects by name ("config.json", "1_Pooling/config.json", ...); those that are there and can be read
    modules    (class, folder) of ``modules.json``; empty without one
    tensors    names, shapes and types of the weights
    problems   of the files themselves
    """

    path: Path
    place: Path
    files: dict[str, dict[str, Any]]
    modules: list[tuple[str, str]]
    tensors: Tensors
    problems: list[Problem] = field(default_factory=list)

    @property
    def config(self) -> dict[str, Any]:
        return self.files.get("config.json", {})

    @property
    def tokenizer_config(self) -> dict[str, Any]:
        return self.files.get("tokenizer_config.json", {})

    @property
    def architecture(self) -> str:
        """The class that the config names; the bare encoder's where it names none."""
        names = self.config.get("architectures")
        return str(names[0]) if isinstance(names, list) and names else "ModernBertModel"


_AT_THE_ENCODER = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "sentence_bert_config.json")


def read_folder(path: Path) -> Folder:
    """Read everything that can be read without computing."""
    problems: list[Problem] = []
    modules = _modules(path, problems)
    place = path / modules[0][1] if modules else path
    wanted = {name: path / name for name in ("config_sentence_transformers.json",)}
    wanted |= {name: place / name for name in _AT_THE_ENCODER}
    wanted |= {f"{where}/config.json": path / where / "config.json" for _, where in modules[1:] if where}
    files: dict[str, dict[str, Any]] = {}
    for name, file in wanted.items():
        values = _json(file, problems)
        if isinstance(values, dict):
            files[name] = values
        elif values is not None:
            problems.append(Problem(f"{file} is not a JSON object", "restore it"))
    if not (place / "config.json").exists():
        problems.append(Problem(f"no config.json in {place}", "this is not a model folder, or not all of it"))
    if not (place / "tokenizer.json").is_file():
        problems.append(Problem(f"no tokenizer.json in {place}", "copy the one the model was trained with there"))
    problems += [
        Problem(f"{file} begins with a byte order mark", "other libraries refuse it: take it off")
        for file in (*wanted.values(), path / "modules.json", place / "tokenizer.json")
        if file.is_file() and begins_with_mark(file)
    ]
    tensors = read_tensors(place)
    return Folder(path, place, files, modules, tensors, problems + tensors.faults)


def _json(path: Path, problems: list[Problem]) -> Any:
    """The content of a JSON file; None if it is not there or no JSON, which is a problem."""
    try:
        return json.loads(read_text(path)) if path.is_file() else None
    except (DataError, ValueError, RecursionError) as error:
        problems.append(Problem(f"{path} is not JSON ({error})", "restore it"))
        return None


def _modules(folder: Path, problems: list[Problem]) -> list[tuple[str, str]]:
    try:
        return read_modules(folder)
    except MMBertError as error:
        problems.append(Problem(str(error), "restore it"))
        return []
