"""What a model folder holds beside its weights: JSON objects, names of classes, modules of sentence-transformers. No
torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbert.errors import MMBertError, WeightsError
from mmbert.files import read_json

LISTING = "modules.json"
"""The file that makes a folder one of sentence-transformers."""

ADAPTER = "adapter_config.json"
"""The file that makes a folder an adapter of peft."""

_MOST_LABELS = 2**20
"""Each gets a name, before the weights are there."""


def read_object(path: Path) -> dict[str, Any]:
    """Return a JSON object, an empty one for a file that is missing. Raises WeightsError for anything else."""
    try:
        # A missing file means defaults; one that cannot be read is an error.
        values = read_json(path) if path.is_file() else {}
    except MMBertError as error:
        raise WeightsError(str(error)) from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path}: not a JSON object")
    return values


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter and no model of its own."""
    return (folder / ADAPTER).is_file() and not any(folder.glob("model*.safetensors"))


def why_no_weights(folder: Path) -> str:
    """Return why a folder has no weights that this package loads, and what to do."""
    for ending, readers in {"onnx": "ONNX Runtime and transformers.js", "gguf": "llama.cpp"}.items():
        if any(folder.glob(f"*.{ending}")) or any(folder.glob(f"onnx/*.{ending}")):
            return f"its .{ending} files are for {readers}; load the model that they were made from"
    return "not a model folder, or its download is incomplete"


def read_config(folder: Path) -> dict[str, Any]:
    """Return the ``config.json`` of a model folder. Raises WeightsError if it is missing or no JSON object."""
    if is_adapter(folder):
        raise WeightsError(
            f"{folder} is an adapter, and a whole model is needed here: merge it into one by "
            f"mmbert export {folder} --format huggingface --out DIR"
        )
    if not (folder / "config.json").is_file():
        raise WeightsError(f"no config.json in {folder}: {why_no_weights(folder)}")
    return read_object(folder / "config.json")


def read_modules(folder: Path) -> list[tuple[str, str]]:
    """Return (class, folder within ``folder``) of each module of ``modules.json``; none without that file.

    Raises WeightsError for something else than a list of modules, or a module outside the folder.
    """
    listing = folder / LISTING
    if not listing.is_file():
        return []
    try:
        modules = [(str(module["type"]), str(module["path"])) for module in read_json(listing)]
    except (TypeError, KeyError) as error:
        raise WeightsError(f"{listing}: not a list of modules with type and path") from error
    for name, place in modules:
        # The paths come from a stranger's file: "../.." must not make this package read or copy what is elsewhere.
        if not (folder / place).resolve().is_relative_to(folder.resolve()):
            raise WeightsError(f"{listing}: path of {name} leads out of the folder")
    return modules


def read_labels(values: Mapping[str, Any], where: str) -> dict[int, str]:
    """Return the names of classes by number, from ``id2label`` as in transformers, or from ``label2id`` alone.

    Without names they are LABEL_0 and so on, ``num_labels`` of them or two. Raises WeightsError for other values.
    """
    try:
        named = {int(number): str(name) for number, name in (values.get("id2label") or {}).items()}
        turned = {int(number): str(name) for name, number in (values.get("label2id") or {}).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{where}: id2label and label2id must map numbers to names and back") from error
    labels, key = (named, "id2label") if named or not turned else (turned, "label2id")
    count = values.get("num_labels")
    if count is not None and (type(count) is not int or not 1 <= count <= _MOST_LABELS):
        raise WeightsError(f"{where}: num_labels is {count!r}, not a whole number from 1 to {_MOST_LABELS:,}")
    if not labels:
        return {number: f"LABEL_{number}" for number in range(count or 2)}
    if count not in (None, len(labels)):
        raise WeightsError(
            f"{where}: {key} names {len(labels)} classes, num_labels is {count}: write what the weights have"
        )
    missing = next((number for number in range(len(labels)) if number not in labels), None)
    if missing is not None or len(labels) < len(values.get(key) or ()):
        what = f"has no name for class {missing}" if missing is not None else "names a class twice"
        raise WeightsError(f"{where}: {key} {what}: number the classes from 0 on")
    return dict(sorted(labels.items()))
