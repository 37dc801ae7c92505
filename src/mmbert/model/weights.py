"""Reading and writing weights in Hugging Face's form.

It reads ``model.safetensors`` or a sharded ``model.safetensors.index.json``, and an old ``pytorch_model.bin`` to
convert it (tensors only, no other object is unpickled); models with or without the language-model head, with the tied
decoder stored or not; a folder or a name on the hub. Names and shapes must match exactly, except for what trainers add:
the names of wrappers, and rows that pad the vocabulary.
It writes ``config.json`` for transformers 4 and 5, and ``model.safetensors`` without a second copy of the tied matrix.
"""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmbert.errors import WeightsError, first_line
from mmbert.files import atomic_file, read_json, write_json
from mmbert.hub import HubFailed, hub_folder
from mmbert.model.config import ModelConfig
from mmbert.model.config import config_from_hf as config_from_hf
from mmbert.model.config import config_to_hf as config_to_hf
from mmbert.model.count import parameters
from mmbert.model.folder import read_config, why_no_weights
from mmbert.model.mapped import DTYPE_NAMES, TensorInfo, finite, is_finite, map_tensor, read_header

log = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
TIED = "decoder.weight"
EMBEDDING = "model.embeddings.tok_embeddings.weight"
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts that torch.compile, data parallelism, FSDP and activation checkpointing add to names of parameters."""

_PADDED = 1024
"""Padding of a vocabulary to a round number has fewer rows."""

_SMALL = 2**24
"""Number of weights that a config may always describe, whatever is stored: 64 MiB."""

_TABLE = "tok_embeddings.weight"
_BY_TOKEN = (_TABLE, "decoder.weight", "decoder.bias")
"""Ends of the names of tensors with a row for each token."""


def model_folder(name: str | Path, *, revision: str | None = None) -> Path:
    """Return a local folder for ``name``: itself, or the files of the hub model, which are downloaded once.

    Only JSON and safetensors are fetched (``.bin`` only if there are no others). Raises WeightsError, offline too.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.exists() or len(folder.parts) != 2 or str(name).startswith((".", "/", "~")):
        raise WeightsError(f"no such model folder: {name} (a hub name looks like jhu-clsp/mmBERT-base)")
    try:
        # Never ``.bin`` beside safetensors: the same weights once more, in a format that can run code.
        fetched = hub_folder(str(name), ["*.json", "*.safetensors"], revision=revision)
        if not any(fetched.glob("*.safetensors")):
            fetched = hub_folder(str(name), ["*.json", "pytorch_model*.bin"], revision=revision)
    except HubFailed as error:
        raise WeightsError(f"no folder {name} here, and the hub did not give it: {error}") from error
    return fetched


def load_config(folder: str | Path) -> ModelConfig:
    """Return the shape of the model in a folder. Raises WeightsError."""
    path, values = Path(folder) / "config.json", read_config(Path(folder))
    if values.get("attention_dropout"):
        log.warning("%s: attention_dropout %s is ignored (it acts in training only)", path, values["attention_dropout"])
    return config_from_hf(values, str(path))


def load_state(folder: str | Path, *, check: bool = False, convert: bool = False) -> dict[str, Tensor]:
    """Return all tensors of a folder as stored, by their names without ``WRAPPERS``; those of safetensors are mapped.

    check    read all weights once, and refuse NaN and infinite values, which would make all results NaN
    convert  read a folder whose only weights are in ``pytorch_model.bin``, which is else refused
    Raises WeightsError if a file is missing, truncated or corrupt.
    """
    folder = Path(folder)
    old = partial(_read_bin, check=check) if convert else _refuse_bin
    readers = (WEIGHTS, partial(_read_safetensors, check=check)), ("pytorch_model.bin", old)
    # safetensors first, whole before sharded, as transformers chooses.
    for name, read in readers:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return _unwrapped(read(folder / name), folder / name)
        if index.is_file():
            return _unwrapped(_read_parts(index, read), index)
    if any(folder.glob("model-*-of-*.safetensors")):
        raise WeightsError(
            f"{folder} is a checkpoint in parts of several processes: make a model of it with mmbert checkpoint export"
        )
    raise WeightsError(f"no {WEIGHTS} in {folder}: {why_no_weights(folder)}")


def read_index(index: Path) -> dict[str, str]:
    """Return tensor -> file of an index (``model.safetensors.index.json``), all of them files beside it.

    Raises WeightsError for an index that is damaged, names a file that is missing, or one of another folder.
    """
    try:
        places = {str(tensor): str(file) for tensor, file in read_json(index)["weight_map"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index}: no weight_map in it: download the model again") from error
    for file in sorted(set(places.values())):
        # A path in the index could name any file of the machine.
        if Path(file).name != file:
            raise WeightsError(f"{index} names {file}, which is no file of its folder: do not use this model")
        if not (index.parent / file).is_file():
            raise WeightsError(f"{index.parent / file} is missing, {index.name} names it: download the model again")
    return places


def _read_parts(index: Path, read: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of all files of an index. Raises WeightsError if one is not where the index says."""
    places = read_index(index)
    state: dict[str, Tensor] = {}
    for file in sorted(set(places.values())):
        state.update(read(index.parent / file))
    lost = sorted(places.keys() - state.keys())
    if lost:
        raise WeightsError(f"{index} names {lost[0]} in {places[lost[0]]}, which lacks it: download the model again")
    return state


def _unwrapped(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the tensors by their names without ``WRAPPERS``."""
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        bare = bare_name(name)
        if bare in tensors:
            raise WeightsError(f"{path} holds {bare} twice, once as {name}: it mixes several models")
        tensors[bare] = value
    return tensors


def bare_name(name: str) -> str:
    """Return the name of a tensor before its model was wrapped: without ``WRAPPERS``."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def take_encoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the encoder's tensors out of ``state``, and return them by their names in the encoder."""
    # A masked language model's names carry the prefix, a bare ModernBertModel's do not.
    own = {name for name in state if name.startswith("model.")}
    if not own:  # saved without the prefix, by itself or beside a head
        own = {name for name in state if not name.startswith(("head.", "classifier.", "decoder."))}
    return {name.removeprefix("model."): state.pop(name) for name in sorted(own)}


def drop_layers(state: dict[str, Tensor], num_layers: int) -> None:
    """Take the tensors of all layers after the first ``num_layers`` out of ``state``."""
    for name in list(state):
        part = name.removeprefix("model.").split(".")
        if part[0] == "layers" and part[1].isdecimal() and int(part[1]) >= num_layers:
            del state[name]


def cut_padding(state: dict[str, Tensor], vocab_size: int) -> None:
    """Cut off rows that pad a vocabulary to a multiple of 8, in place; ``vocab_size``: of the config.

    Trainers pad the embedding for faster products; no token has such a row.
    """
    for name, value in state.items():
        shape = fitted(name, tuple(value.shape), vocab_size)
        if shape != tuple(value.shape):
            state[name] = value[:vocab_size]


def check_size(config: ModelConfig, state: Mapping[str, Tensor], where: str) -> None:
    """Raise WeightsError for a config of far more weights than are stored, before memory of its size is taken.

    :func:`fill` names smaller differences tensor by tensor.
    """
    # A config of a few bytes may claim a terabyte; the factor leaves room for heads and padding.
    wanted, held = parameters(config).encoder, sum(value.numel() for value in state.values())
    if wanted > 4 * held + _SMALL:
        raise WeightsError(
            f"weights of {where} do not fit its config.json: it describes {wanted:,} numbers, {held:,} are stored"
        )


def fitted(name: str, shape: tuple[int, ...], vocab_size: int) -> tuple[int, ...]:
    """Return the shape of a tensor without the rows that pad the vocabulary."""
    by_token = name.endswith(_BY_TOKEN) and len(shape) > 0
    padded = by_token and shape[0] % 8 == 0 and 0 < shape[0] - vocab_size < _PADDED
    return (vocab_size, *shape[1:]) if padded else shape


def _read_safetensors(path: Path, *, check: bool) -> dict[str, Tensor]:
    found = read_header(path)
    _refuse_not_finite(path, (name for name, info in found.items() if check and not finite(info)))
    return {name: map_tensor(info) for name, info in found.items()}


def _read_bin(path: Path, *, check: bool) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling can raise anything
        raise WeightsError(
            f"{path} cannot be read as plain tensors, and nothing else in it is run ({first_line(error)}): save the "
            f"model again where it was trained, by model.save_pretrained(FOLDER), which writes {WEIGHTS}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} does not hold a table of tensors")
    _refuse_not_finite(path, (name for name, value in state.items() if check and not is_finite(value)))
    return state


def _refuse_bin(path: Path) -> dict[str, Tensor]:
    # A pickle is all in memory, may hold code, and is read anew at each start: once is enough.
    raise WeightsError(
        f"{path} is no safetensors file, and is read only to convert it, as plain tensors: "
        f"mmbert export {path.parent} --format huggingface --out DIR"
    )


def misfits(wanted: Mapping[str, tuple[int, ...]], stored: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Yield how stored tensors (name -> shape) differ from those that a config describes: names first, then shapes."""
    for label, names in (("missing", wanted.keys() - stored.keys()), ("unexpected", stored.keys() - wanted.keys())):
        if names:
            listed = sorted(names)
            yield f"{len(listed)} {label}: {', '.join(listed[:3])}{', ...' if len(listed) > 3 else ''}"
    for name in sorted(wanted.keys() & stored.keys()):
        if stored[name] != wanted[name]:
            yield f"{name} is {stored[name]}, the config says {wanted[name]}"


def _refuse_not_finite(path: Path, names: Iterator[str]) -> None:
    for name in names:
        raise WeightsError(f"{path}: {bare_name(name)} holds NaN or infinite values: take an earlier checkpoint")


def fill(
    model: nn.Module, state: dict[str, Tensor], where: str, *, tied: str | None = None, mapped: bool = False
) -> None:
    """Give a model on the meta device its weights, as fp32 copies. Names and shapes must match exactly.

    Empties ``state`` on the way, so that memory never holds the model twice.

    tied    names a tensor that shares another one's memory and is left to the caller
    mapped  for inference: fp32 weights stay in the map of their file. So does the token embedding in 16 bits, whose
            rows become fp32 when they are gathered, unless it is ``tied`` to a decoder, which multiplies by all of it
    Raises WeightsError naming missing, unexpected and misshapen ones.
    """
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items() if name != tied}
    # All problems at once, not the first: they show at a glance what kind of model it is.
    problems = list(misfits(wanted, {name: tuple(value.shape) for name, value in state.items()}))
    if problems:
        raise WeightsError(f"weights of {where} do not fit its config.json: {'; '.join(problems[:5])}")
    for name in wanted:
        module_name, _, leaf = name.rpartition(".")
        # The parameter is replaced, not copied into: a model on the meta device has no memory to copy to.
        value = state.pop(name)
        if not (mapped and tied is None and name.endswith(_TABLE) and value.dtype in (torch.bfloat16, torch.float16)):
            value = value.to(torch.float32, copy=not mapped)  # a copy: training writes to it, and the file is mapped
        setattr(model.get_submodule(module_name), leaf, nn.Parameter(value))


def save_model(
    model: nn.Module, config: ModelConfig, architecture: str, folder: Path, more: Mapping[str, Any] | None = None
) -> None:
    """Write ``model.safetensors`` in the type of the weights, then ``config.json``, each file atomically.

    ``architecture``: Hugging Face's name of the class; ``more``: keys of the config beside the encoder's.
    The config comes last: a folder that has one is complete.
    """
    # The tied matrix once: readers tie it again, and a second copy would be 786 MB of mmBERT-base.
    state = {name: value for name, value in model.state_dict().items() if name != TIED or not config.tied}
    dtype = str(next(iter(state.values())).dtype).removeprefix("torch.")
    folder.mkdir(parents=True, exist_ok=True)
    save_state(state, folder / WEIGHTS)
    write_json(folder / "config.json", {**config_to_hf(config, architecture, dtype), **(more or {})})


@contextmanager
def tensor_writer(
    path: Path, tensors: Sequence[TensorInfo], metadata: Mapping[str, str] | None = None
) -> Iterator[Callable[[Tensor], object]]:
    """Write a safetensors file whose ``tensors`` come in this order, flattened, in chunks of any size; atomic.

    Wider types must come before narrower ones, so that every tensor is aligned. ``metadata`` goes into the header. The
    library's own writer is not used: it leaves the file unreadable for other users (mode 0600), and takes only tensors
    that are in memory as a whole.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for info in tensors:
        start, end = end, end + info.numel * info.dtype.itemsize
        header[info.name] = {"dtype": DTYPE_NAMES[info.dtype], "shape": list(info.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin on a multiple of 8, as readers that map the file expect
    with atomic_file(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        # Through uint8, as NumPy has no bf16.
        yield lambda chunk: chunk.numel() and file.write(chunk.contiguous().view(torch.uint8).numpy().data)
        # Raised inside atomic_file: a file whose header promises more than it holds never gets its name.
        assert file.tell() == 8 + len(text) + end, f"{file.tell()} bytes written of {8 + len(text) + end}"


def save_state(state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as one safetensors file, sorted by name, atomically; one tensor at a time leaves its device."""
    names = sorted(state)
    infos = [TensorInfo(name, state[name].dtype, tuple(state[name].shape), 0, path) for name in names]
    with tensor_writer(path, infos, metadata) as write:
        for name in names:
            write(state[name].detach().cpu().reshape(-1))
