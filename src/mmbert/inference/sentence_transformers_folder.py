"""The modules, prompts and options of a sentence-transformers folder, in the forms of versions 2 to 5 and of version 6.

Modules and options that are not supported raise an error that names them: vectors would differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbert.errors import WeightsError
from mmbert.inference.pooling import MODES, Pooling
from mmbert.model.folder import LISTING, read_modules, read_object
from mmbert.model.weights import load_state

ACTIVATIONS: dict[str, type[nn.Module]] = {
    name: getattr(nn, name) for name in ("Identity", "Tanh", "GELU", "ReLU", "SiLU", "Sigmoid", "LeakyReLU", "ELU")
}
"""Activations that a Dense module or a CrossEncoder may have: classes without arguments."""

OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Keys of the older pooling config, in the order in which several modes are concatenated."""

_OTHERS = {"SparseEncoder": "SPLADE", "MultiVectorEncoder": "late interaction"}
"""Models of sentence-transformers that give no single vector for a text."""

_OPTIONS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Names of the file of the Transformer module's options; all but the first are of old versions."""

_SENTENCE, _TOKENS = "sentence_embedding", "token_embeddings"

_HARMLESS = {
    "max_seq_length", "transformer_task", "modality_config", "module_output_name", "unpad_inputs", "do_lower_case",
    "tokenizer_name_or_path", "processing_kwargs", "query_length", "document_length", "query_expansion",
    "model_args", "config_args", "tokenizer_args", "model_kwargs", "config_kwargs", "processor_kwargs",
}  # fmt: skip
"""Known keys of the Transformer module: the first line has no effect on vectors, the others are checked."""


class Dense(nn.Module):
    """activation(linear(x)), plus residual(x) if there is one; (S, n) -> (S, m)."""

    def __init__(self, linear: nn.Linear, activation: nn.Module, residual: nn.Module | None) -> None:
        super().__init__()
        self.linear, self.activation, self.residual = linear, activation, residual

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.linear(x))
        return out if self.residual is None else out + self.residual(x)


class Normalize(nn.Module):
    """Scales each row to unit length; a row of zeros stays."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


class Truncate(nn.Module):
    """Keeps the first ``dimensions`` of each row; (S, n) -> (S, dimensions)."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : self.dimensions]


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """What a folder of sentence-transformers says about its model; a folder of transformers has the defaults.

    place           folder of the encoder's config.json and weights
    pooling         None for a CrossEncoder, which pools inside its head, and for folders of transformers
    after           the modules behind pooling: Dense and Normalize, in their order
    prompts         by name; ``default_prompt`` is the name of the one that is put before every text
    max_tokens      longest text, <bos> and <eos> included; None if the tokenizer's config decides
    similarity      cosine, dot, euclidean or manhattan
    truncate_dim    how many dimensions a vector keeps unless a call says otherwise; None: all
    activation      of a CrossEncoder's scores, as the folder names it ("torch.nn.modules.activation.Sigmoid");
                    None: the library's default
    """

    place: Path
    pooling: Pooling | None = None
    after: tuple[nn.Module, ...] = ()
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    max_tokens: int | None = None
    similarity: str = "cosine"
    truncate_dim: int | None = None
    activation: str | None = None


def read_options(folder: Path) -> FolderOptions:
    """Return the options of a folder. Raises WeightsError for modules and options that are not supported."""
    listing = folder / LISTING
    if not listing.is_file():
        return FolderOptions(place=folder)
    settings = read_object(folder / "config_sentence_transformers.json")
    kind = settings.get("model_type")
    if kind in _OTHERS:
        raise WeightsError(
            f"{folder} is a {kind} ({_OTHERS[kind]}), which has no single vector for a text: load it with "
            f"sentence_transformers.{kind}"
        )
    modules = _modules(folder)
    if not modules or modules[0][0] != "Transformer":
        raise WeightsError(f"{listing}: the first module is not a Transformer: this model is not only an encoder")
    place = modules[0][1]
    options = _transformer(place)
    cross = options.get("transformer_task", "feature-extraction") == "sequence-classification"
    pooling, after = (None, ()) if cross else _stack(listing, place, modules[1:])
    if cross and len(modules) > 1:
        raise WeightsError(f"{listing}: {modules[1][0]} behind a CrossEncoder is not supported")
    prompts = _prompts(settings, folder)
    default = settings.get("default_prompt_name")
    if default is not None and (not isinstance(default, str) or default not in prompts):
        raise WeightsError(f"{folder}: default_prompt_name is {default}, prompts are {', '.join(prompts) or 'none'}")
    similarity = settings.get("similarity_fn_name") or "cosine"
    if similarity not in ("cosine", "dot", "euclidean", "manhattan"):
        raise WeightsError(f"{folder}: similarity_fn_name {similarity} is not supported")
    stated = settings.get("activation_fn") if cross else None
    kept = None if cross else settings.get("truncate_dim")
    if kept is not None and (type(kept) is not int or kept < 1):
        raise WeightsError(f"{folder}: truncate_dim is {kept!r}, not a number of dimensions")
    return FolderOptions(
        place=place, pooling=pooling, after=after, prompts=prompts, default_prompt=default,
        max_tokens=options.get("max_seq_length"), similarity=similarity, truncate_dim=kept,
        activation=None if stated is None else str(stated),
    )  # fmt: skip


def _prompts(settings: dict[str, Any], folder: Path) -> dict[str, str]:
    """Return texts by name; null means no text."""
    stated = settings.get("prompts") or {}
    if not isinstance(stated, dict) or not all(isinstance(text, str | None) for text in stated.values()):
        raise WeightsError(f"{folder / 'config_sentence_transformers.json'}: prompts are not a table of texts by name")
    return {name: text or "" for name, text in stated.items()}


def activation_name(path: Any, where: str) -> str:
    """Return ``Sigmoid`` for ``torch.nn.modules.activation.Sigmoid``. Raises WeightsError for unsupported ones."""
    root, _, name = str(path).rpartition(".")
    if not root.startswith("torch.nn") or name not in ACTIVATIONS:
        raise WeightsError(f"{where}: activation {path} is not supported: it would be other code than torch's")
    return name


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """Return (name of the class, folder) of each module."""
    found = read_modules(folder)
    for name, _ in found:
        if not name.startswith("sentence_transformers."):
            raise WeightsError(
                f"{folder / LISTING}: module {name} is code of its own, which is never run: it is not supported"
            )
    return [(name.rpartition(".")[2], folder / place) for name, place in found]


def _transformer(place: Path) -> dict[str, Any]:
    """Return the options of the Transformer module. Raises WeightsError for those that change its function."""
    path = next((path for name in _OPTIONS if (path := place / name).is_file()), place / _OPTIONS[0])
    options = read_object(path)
    task = options.get("transformer_task", "feature-extraction")
    if task not in ("feature-extraction", "sequence-classification"):
        raise WeightsError(f"{path}: transformer_task {task} is not supported")
    unknown = sorted(options.keys() - _HARMLESS)
    refused = [
        key
        for key in ("do_lower_case", "processing_kwargs", "query_length", "document_length", "query_expansion")
        if options.get(key)
    ]
    for key in ("model_args", "model_kwargs", "config_args", "config_kwargs", "tokenizer_args", "processor_kwargs"):
        values = options.get(key) or {}
        refused += [f"{key}.{name}" for name in values if name not in ("attn_implementation", "torch_dtype", "dtype")]
    if unknown or refused:
        raise WeightsError(f"{path}: {', '.join(unknown + refused)} not supported: vectors would differ")
    longest = options.get("max_seq_length")
    if longest is not None and (not isinstance(longest, int) or longest < 3):
        raise WeightsError(f"{path}: max_seq_length is {longest!r}: <bos>, one token and <eos> are 3")
    return options


def _stack(listing: Path, transformer: Path, modules: list[tuple[str, Path]]) -> tuple[Pooling, tuple[nn.Module, ...]]:
    """Return Pooling and the modules after it."""
    layers: tuple[float, ...] | None = None
    pooling: Pooling | None = None
    after: list[nn.Module] = []
    for name, place in modules:
        if name == "WeightedLayerPooling" and pooling is None:
            layers = _layer_weights(place, read_object(transformer / "config.json"))
        elif name == "Pooling" and pooling is None:
            pooling = _pooling(place, layers)
        elif name == "Dense" and pooling is not None:
            after.append(_dense(place))
        elif name == "Normalize" and pooling is not None:  # it has no file, and git keeps no empty folder
            _of_sentences(place, read_object(place / "config.json"))
            after.append(Normalize())
        elif name == "Dropout":
            _listed(place)
        else:
            raise WeightsError(f"{listing}: module {name} ({place.name}) is not supported there")
    if pooling is None:
        raise WeightsError(f"{listing}: no Pooling module: this model gives no vector for a text")
    return pooling, tuple(after)


def _pooling(place: Path, layers: tuple[float, ...] | None) -> Pooling:
    path, values = place / "config.json", _listed(place)
    modes = values.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in OLD_MODES.items() if values.get(key)] or ["mean"]
    modes = tuple(modes) if isinstance(modes, list) else (modes,)
    unknown: list[Any] = [mode for mode in modes if mode not in MODES]
    unknown += [key for key in values if key.startswith("pooling_mode_") and key not in OLD_MODES and values[key]]
    if unknown or not modes:
        raise WeightsError(f"{path}: pooling {', '.join(map(str, unknown)) or 'of no kind'} is not supported")
    return Pooling(modes, values.get("include_prompt", True) is not False, layers)


def _layer_weights(place: Path, config: dict[str, Any]) -> tuple[float, ...] | None:
    """Return the weights of all layers; None if the model does not output them, so that the module does nothing."""
    if not config.get("output_hidden_states"):
        return None
    values, state = _listed(place), load_state(place, convert=True)
    start, layers = values.get("layer_start", 4), config.get("num_hidden_layers")
    if "layer_weights" not in state or type(layers) is not int or type(start) is not int or not 0 <= start <= 1024:
        raise WeightsError(
            f"{place}: no layer_weights in it, or layer_start or num_hidden_layers is no number of layers"
        )
    weights = [0.0] * start + [float(weight) for weight in state["layer_weights"]]
    if len(weights) != layers + 1 or sum(weights) == 0:
        raise WeightsError(f"{place}: weights for {len(weights) - 1} layers, the model has another number, or sum to 0")
    return tuple(weights)


def _dense(place: Path) -> Dense:
    values = _listed(place)
    _of_sentences(place, values)
    name = activation_name(values.get("activation_function") or "torch.nn.modules.activation.Tanh", str(place))
    width, out, bias = values.get("in_features"), values.get("out_features"), values.get("bias", True)
    if type(width) is not int or type(out) is not int or min(width, out) < 1 or max(width, out) >= 2**31:
        raise WeightsError(f"{place / 'config.json'}: in_features and out_features are not numbers from 1 to 2^31")
    state = {key: value.float() for key, value in load_state(place, convert=True).items()}
    with torch.device("meta"):  # memory is taken by the stored weights, not by the sizes that the config claims
        residual: nn.Module | None = None
        if values.get("use_residual"):
            residual = nn.Identity() if width == out else nn.Linear(width, out, bias=False)
        dense = Dense(nn.Linear(width, out, bias=bias), ACTIVATIONS[name](), residual)
    try:
        dense.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise WeightsError(f"{place}: its weights do not fit its config.json") from error
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise WeightsError(f"{place}: its weights hold NaN or infinite values")
    return dense


def _of_sentences(place: Path, values: dict[str, Any]) -> None:
    """Raise WeightsError for a module that works on token vectors."""
    for key in ("module_input_name", "module_output_name"):
        if values.get(key, _SENTENCE) not in (_SENTENCE, None):
            raise WeightsError(f"{place}: {key} {values[key]} is not supported: a model of token vectors (ColBERT)?")


def _listed(place: Path) -> dict[str, Any]:
    """Return the options of a module that ``modules.json`` names. Raises WeightsError if they are missing."""
    path = place / "config.json"
    if not path.is_file():
        raise WeightsError(f"{path} is missing, modules.json names {place.name}: download the model again")
    return read_object(path)
