"""GGUF files for llama.cpp: weights in f32, f16 or q8_0, with shape, pooling, prompts and vocabulary as metadata."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from mmbert.errors import ConfigError, MMBertError, import_extra
from mmbert.exporting.gguf_vocab import vocabulary
from mmbert.exporting.source import Output, Source
from mmbert.inference.sentence_transformers_folder import Normalize
from mmbert.model.tasks import TaskHead

ARCH = "modern-bert"
"""llama.cpp's name of the architecture; it reads it since December 2025."""

DType = Literal["f32", "f16", "q8_0"]

BLOCK = 32
"""Numbers that share a scale in q8_0: rows of another length stay f32."""

_POOLING = {"mean": 1, "cls": 2, "lasttoken": 3}
"""llama.cpp's numbers; 0 gives the vectors of tokens, 4 the logits of a head."""

_FILE_TYPE: dict[DType, int] = {"f32": 0, "f16": 1, "q8_0": 7}

_NAMES = {
    "embeddings.tok_embeddings.weight": "token_embd.weight",
    "embeddings.norm.weight": "token_embd_norm.weight",
    "final_norm.weight": "output_norm.weight",
    "head.dense.weight": "cls.weight",
    "head.norm.weight": "cls.norm.weight",
    "classifier.weight": "cls.output.weight",
    "classifier.bias": "cls.output.bias",
}
_LAYER = {
    "attn_norm": "attn_norm", "attn.Wqkv": "attn_qkv", "attn.Wo": "attn_output",
    "mlp_norm": "ffn_norm", "mlp.Wi": "ffn_up", "mlp.Wo": "ffn_down",
}  # fmt: skip


def file_name(dtype: str) -> str:
    """Return the name of a file in the export's folder."""
    return f"model-{dtype}.gguf"


def check_gguf(source: Source, output: Output, dtypes: tuple[str, ...]) -> None:
    """Raise MissingExtra without the package gguf, ConfigError for a model that llama.cpp would compute otherwise."""
    import_extra("gguf", "gguf")
    config, place = source.config, source.folder
    if wrong := next((dtype for dtype in dtypes if dtype not in get_args(DType)), None):
        raise ConfigError(f"dtype {wrong!r} is none of {', '.join(get_args(DType))}")
    if config.rope_scaling or config.local_rope_scaling:
        raise ConfigError(f"{place} has a scaled RoPE, and llama.cpp's {ARCH} has none: export --format onnx instead")
    if output == "logits":
        return
    pooling = source.pooling
    if pooling.layers is not None:
        raise ConfigError(f"{place} pools a mix of layers, and llama.cpp the last: export --format onnx instead")
    if output == "hidden":
        return
    if len(pooling.modes) > 1 or pooling.modes[0] not in _POOLING:
        raise ConfigError(f"llama.cpp pools by mean, first or last token, not by {', '.join(pooling.modes)}")
    if not pooling.include_prompt and any(source.prompts.values()):
        raise ConfigError(
            f"{place} leaves prompts out of pooling, which llama.cpp cannot: export --format onnx instead"
        )
    if dense := next((module for module in source.after if not isinstance(module, Normalize)), None):
        raise ConfigError(f"{place} has a {type(dense).__name__} module, which llama.cpp's {ARCH} has not")


def metadata(source: Source, output: Output, dtype: str) -> dict[str, Any]:
    """Return all keys and values of a file but its architecture."""
    config = source.config
    shape: dict[str, Any] = {
        "context_length": config.max_context,
        "embedding_length": config.hidden_size,
        "block_count": config.num_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_heads,
        "attention.layer_norm_epsilon": config.norm_eps,
        "attention.causal": False,
        "attention.sliding_window": config.window,  # i sees j iff |i - j| <= window / 2, as here
        "attention.sliding_window_pattern": config.global_every,  # layers 0, n, 2n, ... are global
        "rope.freq_base": float(config.rope_theta),
        "rope.freq_base_swa": float(config.local_rope_theta),
        "rope.scaling.type": "none",
        "vocab_size": config.vocab_size,
        "pooling_type": _pooling_type(source, output),
    }
    if output == "logits":
        labels = source.labels or {}
        shape["classifier.pooling_type"] = _POOLING[source.classifier_pooling]
        shape["classifier.output_labels"] = [labels[index] for index in sorted(labels)]
    general = {
        "name": source.folder.resolve().name,
        "file_type": _FILE_TYPE[dtype],  # type: ignore[index]
        "quantization_version": 2,
    }
    own: dict[str, Any] = {"max_tokens": source.max_tokens}
    if output == "embedding":
        own |= {"normalize": any(isinstance(module, Normalize) for module in source.after)}
        own |= {"similarity": source.similarity}
        own |= {"default_prompt": source.default_prompt} if source.default_prompt else {}
        own |= {f"prompt.{name}": text for name, text in source.prompts.items() if text}  # gguf writes no empty text
    return {
        **{f"general.{key}": value for key, value in general.items()},
        **{f"{ARCH}.{key}": value for key, value in shape.items()},
        **{f"mmbert.{key}": value for key, value in own.items()},
        **vocabulary(source.tokenizer, config.vocab_size),
    }


def _pooling_type(source: Source, output: Output) -> int:
    return {"hidden": 0, "logits": 4}[output] if output != "embedding" else _POOLING[source.pooling.modes[0]]


def write_gguf(source: Source, output: Output, dtype: str, path: Path) -> None:
    """Write a file, read it again, and raise MMBertError if a key or number is not what was to be written."""
    import gguf

    values, tensors = metadata(source, output, dtype), _tensors(source, output)
    writer = gguf.GGUFWriter(path, ARCH)
    for key, value in values.items():
        kinds: dict[type, Any] = {
            bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string,
        }  # fmt: skip
        kinds.get(type(value), writer.add_array)(key, value)
    for name, array in tensors.items():
        kind = _kind(name, array, dtype)
        writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    _check_written(path, values, tensors, dtype)


def with_weights_of(path: Path, source: Source) -> Source:
    """Return the model with the numbers of a file, dequantised to fp32."""
    found = {ours: torch.from_numpy(array) for ours, array in _read(path, source).items()}
    encoder, head = copy.deepcopy(source.encoder), copy.deepcopy(source.head)
    own = encoder.state_dict()
    encoder.load_state_dict({name: found[name] for name in own}, strict=True)
    if isinstance(head, TaskHead) and "classifier.weight" in found:
        head.load_state_dict({name: found[name] for name in head.state_dict()}, strict=True)
    return Source(**{**vars(source), "encoder": encoder, "head": head})


def _tensors(source: Source, output: Output) -> dict[str, np.ndarray]:
    """Return the weights by llama.cpp's names, in fp32."""
    state = dict(source.encoder.state_dict())
    if output == "logits":
        assert isinstance(source.head, TaskHead)
        state |= source.head.state_dict()
    return {_name(ours): tensor.float().numpy() for ours, tensor in state.items()}


def _name(ours: str) -> str:
    found = re.fullmatch(r"layers\.(\d+)\.(.+)\.weight", ours)
    return f"blk.{found[1]}.{_LAYER[found[2]]}.weight" if found else _NAMES[ours]


def _kind(name: str, array: np.ndarray, dtype: str) -> Any:
    """Return the type in which a tensor is stored: vectors and the few rows of a classifier stay f32."""
    import gguf

    short = array.ndim < 2 or name.startswith("cls.output") or (dtype == "q8_0" and array.shape[-1] % BLOCK)
    return gguf.GGMLQuantizationType["F32" if short else dtype.upper()]


def _read(path: Path, source: Source) -> dict[str, np.ndarray]:
    """Return the tensors of a file by our names, in fp32 and in the shapes of PyTorch."""
    import gguf

    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    state = {**source.encoder.state_dict(), **(source.head.state_dict() if isinstance(source.head, TaskHead) else {})}
    found = {ours: theirs[_name(ours)] for ours in state if _name(ours) in theirs}
    return {
        ours: np.array(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32).reshape(state[ours].shape)
        for ours, tensor in found.items()
    }


def _check_written(path: Path, values: Mapping[str, Any], tensors: Mapping[str, np.ndarray], dtype: str) -> None:
    import gguf

    reader = gguf.GGUFReader(path)
    for key, value in values.items():
        field = reader.get_field(key)
        found = None if field is None else field.contents()
        wanted = float(np.float32(value)) if isinstance(value, float) else value
        if found != wanted:
            raise MMBertError(f"{path.name}: {key} reads back as {str(found)[:60]}: nothing was written")
    read = {tensor.name: tensor for tensor in reader.tensors}
    if read.keys() != tensors.keys():
        raise MMBertError(
            f"{path.name}: tensors {sorted(read.keys() ^ tensors.keys())[:3]} differ: nothing was written"
        )
    for name, array in tensors.items():
        found = gguf.dequantize(read[name].data, read[name].tensor_type).reshape(array.shape)
        if not bool((np.abs(found - array) <= _error(array, _kind(name, array, dtype).name)).all()):
            raise MMBertError(f"{path.name}: the numbers of {name} do not fit into {dtype}: nothing was written")


def _error(array: np.ndarray, kind: str) -> np.ndarray | float:
    """Return the largest error of rounding: none in f32, 11 bits in f16, half a step of each block in q8_0."""
    if kind == "F32":
        return 0.0
    if kind == "F16":
        half: np.ndarray = np.maximum(np.abs(array) * 2.0**-11, 2.0**-25)
        return half
    largest = np.abs(array.reshape(-1, BLOCK)).max(axis=1, keepdims=True)
    # a step is largest / 127, itself rounded to f16: 127 steps of relative error 2^-11 each, and f16's smallest number
    bound = largest * (0.5 / 127 + 2.0**-11) + 127 * 2.0**-25
    each: np.ndarray = np.broadcast_to(bound, (len(bound), BLOCK)).reshape(array.shape)
    return each
