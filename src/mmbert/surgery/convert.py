"""Convert Composer checkpoints of the mmBERT release to Hugging Face folders.

``mmBERT-checkpoints`` holds ``mmbert-{small,base}/{pretrain,ext,decay}``: Composer's whole training state, in which
``state.model`` is the model under FlexBERT's names with ``model.`` before them. The tensors themselves are those of
Hugging Face's ModernBERT. What the tensors do not tell comes from the configuration that Composer stored beside them
(``state.integrations``) or, without one, from the phase: the bases of RoPE and the longest text changed between phases,
and weights read with the wrong base give wrong numbers without an error.
"""

from __future__ import annotations

import datetime
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.serialization import safe_globals

from mmbert.errors import ConfigError, WeightsError, first_line
from mmbert.files import atomic_folder, write_json
from mmbert.model.config import PRESETS, ModelConfig, config_to_hf
from mmbert.model.heads import MaskedLM
from mmbert.model.weights import EMBEDDING, TIED, WEIGHTS, misfits, save_state
from mmbert.tokenizer.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

PHASES: dict[str, dict[str, Any]] = {
    "pretrain": {"rope_theta": 10_000.0, "local_rope_theta": 10_000.0, "max_context": 1024},
    "ext": {"rope_theta": 160_000.0, "local_rope_theta": 160_000.0, "max_context": 8192},
    "decay": {"rope_theta": 160_000.0, "local_rope_theta": 160_000.0, "max_context": 8192},
}
"""What differs between the phases of the release, by the names of their folders."""

HEAD_DIM = 64
"""Of both sizes."""

_PREFIXES = ("model.bert.encoder.layers.", "model.layers."), ("model.bert.", "model."), ("model.", "")
"""Composer's beginnings of names and ours; the first that fits counts."""


def convert(
    checkpoint: Path, out: Path, *, size: str | None = None, phase: str | None = None, tokenizer: str | None = None
) -> ModelConfig:
    """Write the masked language model of a Composer checkpoint to the folder ``out`` (Hugging Face form, atomic).

    size       ``base`` or ``small``: refuse a checkpoint of another shape
    phase      ``pretrain``, ``ext`` or ``decay``; default: the checkpoint's own configuration, else its folder's name
    tokenizer  a folder or hub name; its files are written beside the weights

    The tensors keep their type. Raises ConfigError if nothing tells the phase, WeightsError for a file that cannot be
    read safely, for missing, unknown or misshapen tensors, and for NaN or infinity.
    """
    state, stored = read_composer(checkpoint)
    weights = renamed(state, str(checkpoint))
    config = _config(weights, stored, checkpoint, phase)
    if size is not None:
        _check_size(config, size, checkpoint)
    _check(weights, config, str(checkpoint))
    words = None if tokenizer is None else Tokenizer.load(tokenizer)
    if words is not None and words.vocab_size > config.vocab_size:
        raise WeightsError(f"{tokenizer} has {words.vocab_size} tokens, {checkpoint} rows for {config.vocab_size}")
    with atomic_folder(out) as folder:
        save_state(weights, folder / WEIGHTS)
        dtype = str(weights[EMBEDDING].dtype).removeprefix("torch.")
        write_json(folder / "config.json", config_to_hf(config, "ModernBertForMaskedLM", dtype))
        if words is not None:
            words.save(folder, max_tokens=config.max_context)
    logger.info("converted %s: %d layers of %d, RoPE base %g", checkpoint, config.num_layers, config.hidden_size,
                config.rope_theta)  # fmt: skip
    return config


def read_composer(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the model's tensors, mapped from the file, and the configuration stored beside them (empty without one).

    Only tensors and plain values are unpickled. Composer's state also holds durations and NumPy's arrays (clock and
    random generators), which are plain values too; any other class is refused. Raises WeightsError.
    """
    if not path.is_file():
        raise WeightsError(f"no such checkpoint: {path} (a file that ends in .pt)")
    with _plain_values():
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # unpickling can raise anything
            raise WeightsError(f"{path} cannot be read safely: {_reason(error)}") from error
    state = content.get("state") if isinstance(content, dict) else None
    model = state.get("model") if isinstance(state, dict) else None
    if not isinstance(model, dict) or not all(isinstance(value, Tensor) for value in model.values()):
        raise WeightsError(f"{path} holds no tensors under state.model: this is no checkpoint of Composer")
    stored: Any = state
    for key in ("integrations", "huggingface", "model", "config", "content"):
        stored = stored.get(key) if isinstance(stored, dict) else None
    return dict(model), stored if isinstance(stored, dict) else {}


def renamed(state: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the tensors under Hugging Face's names, without the tied copy. Raises WeightsError for an unknown name."""
    weights = {}
    for name, value in state.items():
        # Longest beginning first: "model." alone would fit every name.
        for theirs, ours in _PREFIXES:
            if name.startswith(theirs):
                weights[ours + name.removeprefix(theirs)] = value
                break
        else:
            raise WeightsError(f"{where}: unknown tensor {name}: names of Composer begin with model.")
    tied = weights.pop(TIED, None)
    if tied is not None and EMBEDDING in weights and not torch.equal(tied, weights[EMBEDDING]):
        raise WeightsError(f"{where}: the decoder differs from the token embedding; untied decoders are not supported")
    return weights


def _config(weights: dict[str, Tensor], stored: dict[str, Any], path: Path, phase: str | None) -> ModelConfig:
    """Return the configuration: the shape of the tensors, and what the phase determines."""
    first = "model.layers.0.mlp.Wi.weight"
    for needed in (EMBEDDING, first):
        if needed not in weights:
            raise WeightsError(f"{path}: missing {needed}: this is no mmBERT")
    rows, hidden = weights[EMBEDDING].shape
    # From the names, not from the stored configuration: only they are certain to describe these tensors.
    layers = {int(match[1]) for name in weights if (match := re.match(r"model\.layers\.(\d+)\.", name))}
    values: dict[str, Any] = {
        "vocab_size": rows,
        "hidden_size": hidden,
        # Wi holds both halves of GeGLU: the activated one and its gate.
        "intermediate_size": weights[first].shape[0] // 2,
        "num_layers": max(layers) + 1,
        "num_heads": int(stored.get("num_attention_heads") or max(1, hidden // HEAD_DIM)),
        "attention_out_dropout": 0.1,
    }
    if "global_attn_every_n_layers" in stored:
        values["global_every"] = stored["global_attn_every_n_layers"]
    if "sliding_window" in stored:
        values["window"] = stored["sliding_window"]
    return ModelConfig(**values, **_of_phase(stored, path, phase))


def _of_phase(stored: dict[str, Any], path: Path, phase: str | None) -> dict[str, Any]:
    """Return RoPE bases and context, from the option, the stored configuration or the folder's name, in this order."""
    if phase is not None and phase not in PHASES:
        raise ConfigError(f"no phase {phase}: choose one of {', '.join(PHASES)}")
    # A wrong base is the silent error here: all shapes fit, and only long texts come out wrong.
    if "rotary_emb_base" not in stored:
        named = phase or next((part for part in reversed(path.absolute().parts) if part in PHASES), None)
        if named is None:
            raise ConfigError(f"nothing tells the phase of {path}, which fixes RoPE: add --phase {'|'.join(PHASES)}")
        return PHASES[named]
    theta, local = float(stored["rotary_emb_base"]), float(stored.get("local_attn_rotary_emb_base", -1))
    bases = {"rope_theta": theta, "local_rope_theta": theta if local == -1 else local}  # -1: as the global layers
    if phase is not None and any(PHASES[phase][key] != value for key, value in bases.items()):
        raise ConfigError(f"{path} was trained with RoPE base {theta:g}, not as {phase}: leave --phase away")
    # ext and decay share base and context, so either name gives the same configuration.
    long = phase or ("pretrain" if theta == PHASES["pretrain"]["rope_theta"] else "ext")
    return {"max_context": PHASES[long]["max_context"], **bases}


def _check_size(config: ModelConfig, size: str, path: Path) -> None:
    if size not in ("base", "small"):
        raise ConfigError(f"no size {size}: choose base or small")
    for key in ("hidden_size", "intermediate_size", "num_layers", "num_heads"):
        if getattr(config, key) != PRESETS[size][key]:
            raise WeightsError(f"{path} is no {size}: {key} is {getattr(config, key)}, not {PRESETS[size][key]}")


def _check(weights: dict[str, Tensor], config: ModelConfig, where: str) -> None:
    """Raise WeightsError for wrong names or shapes, or values that are not finite."""
    with torch.device("meta"):
        # On the meta device a model has shapes but takes no memory.
        wanted = {name: tuple(value.shape) for name, value in MaskedLM(config).state_dict().items() if name != TIED}
    for fault in misfits(wanted, {name: tuple(value.shape) for name, value in weights.items()}):
        raise WeightsError(f"{where}: {fault}")
    for name in wanted:
        # Reads every mapped page once, before anything is written.
        if not weights[name].isfinite().all():
            raise WeightsError(f"{where}: {name} holds NaN or infinity: training had failed before it was saved")


@contextmanager
def _plain_values() -> Iterator[None]:
    """Allow durations and arrays to be unpickled besides tensors; NumPy 1 and 2 use different names."""
    make: Any = np.empty(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in ("u1", "i4", "u4", "i8", "u8", "f4", "f8")}
    names = [(make, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    with safe_globals([datetime.timedelta, np.ndarray, np.dtype, *kinds, *names]):
        yield


def _reason(error: Exception) -> str:
    """Return the reason in torch's multi-line error as one line."""
    match = re.search(r"GLOBAL ([\w.]+)", str(error))
    if match:
        return f"it holds objects of {match[1]}, and unpickling those could run any code; save state.model alone"
    return f"{first_line(error)}; download it again"
