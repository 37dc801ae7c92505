"""The files of a model folder, read with patience: what is wrong with one is noted, and the others are read on."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmbert.doctor.tensors import Tensors, read_tensors
from mmbert.errors import DataError
from mmbert.io.stream import begins_with_mark, read_text


@dataclass(frozen=True)
class Problem:
    """Something wrong, and what fixes it."""

    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}: {self.fix}"


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


_AT_THE_ROOT = ("config_sentence_transformers.json",)
_AT_THE_ENCODER = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "sentence_bert_config.json")


def read_folder(path: Path) -> Folder:
    """Everything that can be read without computing."""
    problems: list[Problem] = []
    files: dict[str, dict[str, Any]] = {}
    modules = _modules(path, problems)
    place = path / modules[0][1] if modules else path
    wanted = {name: path / name for name in _AT_THE_ROOT} | {name: place / name for name in _AT_THE_ENCODER}
    wanted |= {f"{where}/config.json": path / where / "config.json" for _, where in modules[1:] if where}
    for name, file in wanted.items():
        values = _object(file, problems)
        if values is not None:
            files[name] = values
    if "config.json" not in files and not (place / "config.json").exists():
        problems.append(Problem(f"no config.json in {place}", "this is not a model folder, or not all of it"))
    if not (place / "tokenizer.json").is_file():
        problems.append(Problem(f"no tokenizer.json in {place}", "copy the one the model was trained with there"))
    problems += [
        Problem(f"{file} begins with a byte order mark", "other libraries refuse it: take it off")
        for file in (*wanted.values(), path / "modules.json", place / "tokenizer.json")
        if file.is_file() and begins_with_mark(file)
    ]
    tensors = read_tensors(place)
    problems += [Problem(what, fix) for what, fix in tensors.faults]
    return Folder(path, place, files, modules, tensors, problems)


def _object(path: Path, problems: list[Problem]) -> dict[str, Any] | None:
    """A JSON object; None if it is not there, with a problem if it is something else."""
    if not path.is_file():
        return None
    try:
        values = json.loads(read_text(path))
    except (DataError, ValueError, RecursionError) as error:
        problems.append(Problem(f"{path} is not JSON ({error})", "restore it"))
        return None
    if not isinstance(values, dict):
        problems.append(Problem(f"{path} is not a JSON object", "restore it"))
        return None
    return values


def _modules(folder: Path, problems: list[Problem]) -> list[tuple[str, str]]:
    path = folder / "modules.json"
    if not path.is_file():
        return []
    try:
        listed = json.loads(read_text(path))
        return [(str(module["type"]), str(module["path"])) for module in listed]
    except (DataError, ValueError, KeyError, TypeError, RecursionError):
        problems.append(Problem(f"{path} is not a list of modules with type and path", "restore it"))
        return []
