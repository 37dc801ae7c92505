"""Reading and writing recipe files: YAML 1.2, ``extends``, overrides, and errors that name place and cure."""

from __future__ import annotations

import csv
import difflib
import io
import re
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mmbert.errors import ConfigError
from mmbert.files import write_text

_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}


def parse_count(value: Any) -> Any:
    """``2.3T``, ``500k``, ``4_718_592`` -> int; anything else is left for pydantic to refuse."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([kmbgtKMBGT]?)\s*", value)
    if match is None:
        raise ValueError(f"not a count: {value!r} (write 4096, 500k, 3B or 2.3T)")
    return round(float(match[1].replace("_", "")) * _SUFFIXES[match[2].lower()])


def read_recipe(path: Path, overrides: list[str]) -> dict[str, Any]:
    """The file's values with ``extends`` resolved and ``a.b=c`` overrides applied."""
    values = _read_extended(path, seen=())
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"override {override!r} is not of the form key.path=value")
        _assign(values, key.split("."), _yaml(text, f"override {override!r}"))
    return values


def read_languages(folder: Path, reference: str) -> list[str]:
    """Codes from a list (one a line, ``#`` comments) or from ``table.tsv#column=value,value``."""
    name, _, condition = reference.partition("#")
    path = folder / name if (folder / name).is_file() else Path(name)
    if not path.is_file():
        raise ConfigError(f"no such list of languages: {name} (looked in {folder.resolve()} and {Path.cwd()})")
    text = path.read_text(encoding="utf-8")
    if condition:
        column, _, wanted = condition.partition("=")
        rows = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
        if not rows or column not in rows[0] or not wanted:
            raise ConfigError(f"{reference}: expected table.tsv#column=value with one of the columns {list(rows[0]) if rows else []}")
        codes = [row.get("code") or row.get("language") or "" for row in rows if row[column] in wanted.split(",")]
    else:
        codes = [word for line in text.splitlines() for word in line.split("#")[0].split()]
    if not codes or not all(codes):
        raise ConfigError(f"{reference} names no language")
    return codes


def write_recipe(path: Path, values: dict[str, Any]) -> None:
    """Write plain values as YAML."""
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None  # leaves on one line, so that 1833 languages are not 1833 lines
    yaml.width = 120
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(values, stream)
    write_text(path, stream.getvalue())


def explain(error: ValidationError, model: type[BaseModel], path: Path) -> str:
    """The first fault in one line: file, dotted path, what is wrong, and the nearest valid name."""
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"] if not _is_branch(part))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if fault["type"] == "extra_forbidden":
        known = _fields_at(model, [str(part) for part in fault["loc"][:-1]])
        name = str(fault["loc"][-1])
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return f"{path}: unknown key {place}: {hint}{more}"
    if fault["type"] == "missing":
        return f"{path}: {place} is missing{more}"
    message = fault["msg"].removeprefix("Value error, ")
    given = "" if isinstance(fault["input"], dict) else f" (given: {str(fault['input'])[:60]})"
    return f"{path}: {place + ': ' if place else ''}{message[0].lower() + message[1:]}{given}{more}"


def _is_branch(part: int | str) -> bool:
    """Names that pydantic adds to a path for the branch of a union, not keys of the file."""
    return isinstance(part, str) and (part[:1].isupper() or "[" in part or part in ("str", "int"))


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the fields of the model found by walking ``path`` from ``model``."""
    models: list[type[BaseModel]] = [model]
    for part in path:
        if _is_branch(part):
            models = [m for m in models if m.__name__ == part] or models
            continue
        found = [m for parent in models if part in parent.model_fields for m in _models_in(parent.model_fields[part].annotation)]
        models = found or models  # a key of a dict[str, Model] stays at that model
    return [name for m in models for name in m.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _read_extended(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve() if seen else path
    if path.resolve() in seen:
        raise ConfigError(f"{path} extends itself, through {' -> '.join(map(str, seen))}")
    if not path.is_file():
        raise ConfigError(f"no such recipe: {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 at byte {error.start}") from error
    values = _yaml(text, str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is not a map of options")
    parent = values.pop("extends", None)
    if parent is None:
        return values
    return _merge(_read_extended(path.parent / parent, (*seen, path.resolve())), values)


def _yaml(text: str, where: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if value is None and key in base:
            del merged[key]
        elif isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = _merge(base[key], value)
        else:
            merged[key] = value
    return merged


def _assign(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = values.get(key)
        if not isinstance(inner, dict):
            inner = values[key] = {}
        values = inner
    if value is None:
        values.pop(keys[-1], None)
    else:
        values[keys[-1]] = value
