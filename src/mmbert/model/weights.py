"""Folders of weights, in Hugging Face's form, in and out.

Read: ``model.safetensors``, a sharded ``model.safetensors.index.json``, or an old ``pytorch_model.bin`` (tensors only,
no other object is unpickled); models with the language-model head or without, with the tied decoder stored or not; a
folder or a name on the hub. Names and shapes must match exactly, but for what trainers leave there: the names of their
wrappers, and rows that fill the vocabulary up.
Written: ``config.json`` in both dialects and ``model.safetensors`` without a second copy of the tied matrix.
"""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mmbert.errors import MMBertError, WeightsError
from mmbert.files import atomic_file, read_json, write_json
from mmbert.hub import HubFailed, hub_folder
from mmbert.model.config import ModelConfig
from mmbert.model.config import config_from_hf as config_from_hf
from mmbert.model.config import config_to_hf as config_to_hf
from mmbert.model.count import parameters

log = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
TIED = "decoder.weight"
EMBEDDING = "model.embeddings.tok_embeddings.weight"
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""What torch.compile, data parallelism, FSDP and activation checkpointing put into the names of what they wrap."""

_PADDED = 1024
"""Rows of a vocabulary that were added to fill it up to a round number are fewer."""

_SMALL = 2**24
"""Weights that a config may describe whatever is stored: 64 MiB."""

_BY_TOKEN = ("tok_embeddings.weight", "decoder.weight", "decoder.bias")
"""Ends of the names of tensors with a row for each token."""

DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64",
               torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
               torch.bool: "BOOL"}  # fmt: skip


def model_folder(name: str | Path, *, revision: str | None = None) -> Path:
    """A local folder for ``name``: itself, or the hub model's files, downloaded once.

    Only JSON and safetensors are fetched (weights as a ``.bin`` only where there are no others).
    Raises WeightsError, offline too.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.exists() or len(folder.parts) != 2 or str(name).startswith((".", "/", "~")):
        raise WeightsError(f"no such model folder: {name} (a hub name looks like jhu-clsp/mmBERT-base)")
    try:
        found = hub_folder(str(name), ["*.json", "*.safetensors"], revision=revision)
        if not any(found.glob("*.safetensors")):
            found = hub_folder(str(name), ["*.json", "pytorch_model*.bin"], revision=revision)
    except HubFailed as error:
        raise WeightsError(f"no folder {name} here, and the hub did not give it: {error}") from error
    return found


def load_config(folder: str | Path) -> ModelConfig:
    """The shape of the model in a folder."""
    path = Path(folder) / "config.json"
    try:
        values = read_json(path)
    except MMBertError as error:
        raise WeightsError(f"{error}: not a model folder") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path}: not a JSON object")
    if values.get("attention_dropout"):
        log.warning("%s: attention_dropout %s is ignored (it acts in training only)", path, values["attention_dropout"])
    return config_from_hf(values, str(path))


def load_state(folder: str | Path) -> dict[str, Tensor]:
    """All tensors of a folder as stored, by their names without ``WRAPPERS``.

    Raises WeightsError if a file is missing, cut short or corrupt.
    """
    folder = Path(folder)
    for name, read in ((WEIGHTS, _read_safetensors), ("pytorch_model.bin", _read_bin)):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return _unwrapped(read(folder / name), folder / name)
        if index.is_file():
            return _unwrapped(_read_parts(index, read), index)
    if any(folder.glob("model-*-of-*.safetensors")):
        raise WeightsError(
            f"{folder} is a checkpoint in parts of several processes: make a model of it with mmbert checkpoint export"
        )
    raise WeightsError(f"no {WEIGHTS} in {folder}: not a model folder, or its download is incomplete")


def read_index(index: Path) -> dict[str, str]:
    """Return tensor -> file of an index (``model.safetensors.index.json``), all of them files beside it.

    Raises WeightsError for an index that is damaged, names a file that is missing, or one of another folder.
    """
    try:
        places = {str(tensor): str(file) for tensor, file in read_json(index)["weight_map"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index}: no weight_map in it: download the model again") from error
    for file in sorted(set(places.values())):
        if Path(file).name != file:
            raise WeightsError(f"{index} names {file}, which is no file of its folder: do not use this model")
        if not (index.parent / file).is_file():
            raise WeightsError(f"{index.parent / file} is missing, {index.name} names it: download the model again")
    return places


def _read_parts(index: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all files that an index names, each of them where it says."""
    places = read_index(index)
    state: dict[str, Tensor] = {}
    for file in sorted(set(places.values())):
        state.update(read(index.parent / file))
    lost = sorted(places.keys() - state.keys())
    if lost:
        raise WeightsError(f"{index} names {lost[0]} in {places[lost[0]]}, which lacks it: download the model again")
    return state


def _unwrapped(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors by their names before the model was wrapped for training."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        bare = bare_name(name)
        if bare in found:
            raise WeightsError(f"{path} holds {bare} twice, once as {name}: it is of more than one model")
        found[bare] = value
    return found


def bare_name(name: str) -> str:
    """Return the name of a tensor before its model was wrapped: without ``WRAPPERS``."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def take_encoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take an encoder's tensors out of those of a model with a head or without, by their names in the encoder."""
    own = {name for name in state if name.startswith("model.")}
    if not own:  # saved without the prefix, by itself or beside a head
        own = {name for name in state if not name.startswith(("head.", "classifier.", "decoder."))}
    return {name.removeprefix("model."): state.pop(name) for name in sorted(own)}


def cut_padding(state: dict[str, Tensor], vocab_size: int) -> None:
    """Cut off rows that only fill a vocabulary up to a multiple of 8, in place; ``vocab_size``: what the config says.

    Trainers pad the embedding for the sake of fast products; no token has such a row.
    """
    for name, value in state.items():
        shape = fitted(name, tuple(value.shape), vocab_size)
        if shape != tuple(value.shape):
            state[name] = value[:vocab_size]


def check_size(config: ModelConfig, state: Mapping[str, Tensor], where: str) -> None:
    """Raise WeightsError for a config of far more weights than were stored, before anything of its size is made.

    A smaller difference is named tensor by tensor by :func:`fill`.
    """
    wanted, held = parameters(config).encoder, sum(value.numel() for value in state.values())
    if wanted > 4 * held + _SMALL:
        raise WeightsError(
            f"weights of {where} do not fit its config.json: it describes {wanted:,} numbers, {held:,} are stored"
        )


def fitted(name: str, shape: tuple[int, ...], vocab_size: int) -> tuple[int, ...]:
    """Return the shape of a tensor without the rows that only fill the vocabulary up."""
    by_token = name.endswith(_BY_TOKEN) and len(shape) > 0
    padded = by_token and shape[0] % 8 == 0 and 0 < shape[0] - vocab_size < _PADDED
    return (vocab_size, *shape[1:]) if padded else shape


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} cannot be read ({error}): copy or download it again") from error


def _read_bin(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling can raise anything
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(f"{path} cannot be read as plain tensors ({reason}): convert it to safetensors") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} does not hold a table of tensors")
    return state


def fill(model: nn.Module, state: dict[str, Tensor], where: str, *, tied: str | None = None) -> None:
    """Give a model built on the meta device its weights, as fp32 copies. Names and shapes must match exactly.

    Empties ``state`` on the way, so that no second copy of the whole model is held. ``tied`` names a tensor that is
    another one's and is left to the caller. Raises WeightsError naming what is missing, unexpected or misshapen.
    """
    wanted = {name: value.shape for name, value in model.state_dict().items() if name != tied}
    problems = []
    for label, names in (("missing", wanted.keys() - state.keys()), ("unexpected", state.keys() - wanted.keys())):
        if names:
            listed = sorted(names)
            problems.append(f"{len(listed)} {label}: {', '.join(listed[:3])}{', ...' if len(listed) > 3 else ''}")
    problems += [
        f"{name} is {tuple(state[name].shape)}, config.json says {tuple(wanted[name])}"
        for name in sorted(wanted.keys() & state.keys())
        if state[name].shape != wanted[name]
    ]
    if problems:
        raise WeightsError(f"weights of {where} do not fit its config.json: {'; '.join(problems[:5])}")
    for name in wanted:
        module_name, _, leaf = name.rpartition(".")
        copy = state.pop(name).to(torch.float32, copy=True)  # its own: the file may be a memory map
        setattr(model.get_submodule(module_name), leaf, nn.Parameter(copy))


def save_model(
    model: nn.Module, config: ModelConfig, architecture: str, folder: Path, more: Mapping[str, Any] | None = None
) -> None:
    """Write ``config.json`` and ``model.safetensors`` (as the weights' type says), each file whole or not at all.

    ``architecture`` is Hugging Face's name of the class, ``more`` are keys of the config beside the encoder's.
    The weights come first: a folder with a config is complete.
    """
    state = {name: value for name, value in model.state_dict().items() if name != TIED}
    dtype = str(next(iter(state.values())).dtype).removeprefix("torch.")
    folder.mkdir(parents=True, exist_ok=True)
    save_state(state, folder / WEIGHTS)
    write_json(folder / "config.json", {**config_to_hf(config, architecture, dtype), **(more or {})})


def save_state(state: Mapping[str, Tensor], path: Path, notes: Mapping[str, str] | None = None) -> None:
    """Write tensors as one safetensors file, atomically, one tensor in memory at a time.

    ``notes`` go into the file's own metadata.
    The format is written here because the library's own writer leaves the file unreadable for others (mode 0600)
    and cannot write into an open file.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(notes or {})}}
    end = 0
    for name in sorted(state):
        tensor = state[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin on a multiple of 8, as readers that map the file expect
    with atomic_file(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(state):
            flat = state[name].detach().cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)
