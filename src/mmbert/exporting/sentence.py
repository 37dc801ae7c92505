"""The files of a sentence-transformers folder around an encoder, in a form that versions 2 to 6 and servers read alike.

Version 6 still reads what version 5 wrote, not the reverse: ``modules.json`` names ``sentence_transformers.models``,
pooling is booleans, ``sentence_bert_config.json`` has the longest text (without these older versions fail,
text-embeddings-inference refuses, and servers that see no booleans have taken the first token in silence).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmbert.errors import ConfigError
from mmbert.exporting.source import Source
from mmbert.files import write_json
from mmbert.inference.sentence_transformers_folder import OLD_MODES, Dense, Normalize
from mmbert.model.weights import WEIGHTS, save_state

_MODULES = "sentence_transformers.models"

_POOLING = {mode: key for key, mode in OLD_MODES.items()}


def write_modules(source: Source, folder: Path) -> None:
    """Write ``modules.json``, the modules behind the encoder, prompts and longest text.

    Raises ConfigError for modules that the versions read differently, or only one of them.
    """
    steps: list[tuple[str, dict[str, Any] | None, dict[str, torch.Tensor]]] = []
    if source.pooling.layers is not None:
        steps.append(_layers(source))
    steps.append(("Pooling", _pooling(source), {}))
    steps += [_module(module, source) for module in source.after]
    modules = [("", f"{_MODULES}.Transformer")]
    for index, (name, config, state) in enumerate(steps, 1):
        modules.append((write_module(folder, index, name, config, state), f"{_MODULES}.{name}"))
    write_listing(folder, modules, {"max_seq_length": source.max_tokens, "do_lower_case": False})
    prompts = {"query": "", "document": "", **source.prompts}
    write_settings(
        folder, "SentenceTransformer", prompts, source.default_prompt, source.similarity, source.truncate_dim
    )


def write_module(
    folder: Path, index: int, name: str, config: dict[str, Any] | None, state: dict[str, torch.Tensor] | None = None
) -> str:
    """Write the folder of a module behind the encoder, and return its name."""
    place = f"{index}_{name}"
    (folder / place).mkdir()
    if config is not None:
        write_json(folder / place / "config.json", config)
    if state:
        save_state(state, folder / place / WEIGHTS)
    return place


def write_listing(folder: Path, modules: list[tuple[str, str]], options: dict[str, Any]) -> None:
    """Write ``modules.json`` of (folder, class) of each module, and the options of the first, the encoder."""
    listed = [
        {"idx": index, "name": str(index), "path": place, "type": kind} for index, (place, kind) in enumerate(modules)
    ]
    write_json(folder / "modules.json", listed)
    write_json(folder / "sentence_bert_config.json", options)


def write_settings(
    folder: Path,
    kind: str,
    prompts: dict[str, str],
    default_prompt: str | None,
    similarity: str,
    truncate_dim: int | None = None,
) -> None:
    """Write ``config_sentence_transformers.json``; ``truncate_dim`` is read by version 6, older ones pass over it."""
    settings: dict[str, Any] = {
        "model_type": kind, "__version__": {}, "prompts": prompts, "default_prompt_name": default_prompt,
        "similarity_fn_name": similarity,
    }  # fmt: skip
    if truncate_dim is not None:
        settings["truncate_dim"] = truncate_dim
    write_json(folder / "config_sentence_transformers.json", settings)


def _pooling(source: Source) -> dict[str, Any]:
    modes = source.pooling.modes
    if list(modes) != [mode for mode in _POOLING if mode in modes]:
        raise ConfigError(f"pooling {', '.join(modes)}: all versions can only read the order {', '.join(_POOLING)}")
    return {
        "word_embedding_dimension": source.config.hidden_size,
        **{key: mode in modes for mode, key in _POOLING.items()},
        "include_prompt": source.pooling.include_prompt,
    }


def _layers(source: Source) -> tuple[str, dict[str, Any], dict[str, torch.Tensor]]:
    weights = torch.tensor(source.pooling.layers, dtype=torch.float32)
    if weights[-1] != 0:
        raise ConfigError(
            f"{source.folder} mixes in the last layer, which transformers 4 takes before its norm and 5 behind "
            "it: vectors would differ; export --format onnx --output embedding instead"
        )
    config = {
        "word_embedding_dimension": source.config.hidden_size,
        "layer_start": 0,
        "num_hidden_layers": source.config.num_layers,
    }
    return "WeightedLayerPooling", config, {"layer_weights": weights}


def _module(module: nn.Module, source: Source) -> tuple[str, dict[str, Any] | None, dict[str, torch.Tensor]]:
    if isinstance(module, Normalize):
        return "Normalize", None, {}
    assert isinstance(module, Dense), "nothing else comes behind pooling"
    if module.residual is not None:
        raise ConfigError(
            f"{source.folder}: version 5 of sentence-transformers has no Dense module with a residual sum; "
            "export --format onnx --output embedding instead"
        )
    linear, activation = module.linear, type(module.activation)
    config = {
        "in_features": linear.in_features,
        "out_features": linear.out_features,
        "bias": linear.bias is not None,
        "activation_function": f"{activation.__module__}.{activation.__name__}",
    }
    return "Dense", config, {f"linear.{name}": value for name, value in linear.state_dict().items()}
