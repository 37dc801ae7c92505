"""Models loaded from a folder or hub name, ready to run.

It reads folders of transformers (any head of ModernBERT, old and new config), of sentence-transformers (encoders and
CrossEncoders) and of this package. Options that would give other results than in their library raise an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmbert.errors import ConfigError, TokenizerError, WeightsError
from mmbert.inference.adapted_layers import adapt
from mmbert.inference.checks import whole
from mmbert.inference.pick_device import pick_device
from mmbert.inference.precision import apply_precision
from mmbert.inference.sentence_transformers_folder import FolderOptions, read_options
from mmbert.model.adapter import Adapter, read_adapter
from mmbert.model.config import ModelConfig, config_from_hf
from mmbert.model.encoder import Encoder
from mmbert.model.folder import ADAPTER, LISTING, is_adapter, read_config, read_labels, read_object
from mmbert.model.heads import MaskedLM
from mmbert.model.tasks import TaskHead
from mmbert.model.weights import drop_layers, fill, load_state, model_folder
from mmbert.tokenizer.tokenizer import Tokenizer

Kind = Literal["encoder", "masked_lm", "sequence", "tokens", "span", "choice", "sentence"]

KINDS: dict[str, Kind] = {
    "ModernBertModel": "encoder",
    "ModernBertForMaskedLM": "masked_lm",
    "ModernBertForSequenceClassification": "sequence",
    "ModernBertForTokenClassification": "tokens",
    "ModernBertForQuestionAnswering": "span",
    "ModernBertForMultipleChoice": "choice",
}
"""transformers' classes; ``sentence`` is an encoder with a Pooling module around it."""

PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")
"""What ``problem_type`` may be."""


@dataclass(frozen=True, kw_only=True)
class Loaded(FolderOptions):
    """A model that is ready to run, with the options of its folder.

    encoder             in eval mode, on ``device``, in ``precision`` (fp32, bf16, fp16, int8); answers in fp32
    head                None for ``encoder`` and ``sentence``; the whole MaskedLM, around ``encoder``, for
                        ``masked_lm``; a TaskHead for the rest, in fp32
    labels              names by number, None without classes
    classifier_pooling  "cls" or "mean", of ``sequence`` and ``choice``
    problem_type        of ``sequence``: regression, single_label_classification, multi_label_classification or None
    values              the whole of config.json
    """

    folder: Path
    config: ModelConfig
    encoder: Encoder
    tokenizer: Tokenizer
    head: nn.Module | None
    kind: Kind
    device: torch.device
    precision: str
    labels: dict[int, str] | None
    classifier_pooling: str
    problem_type: str | None
    max_tokens: int
    values: dict[str, Any]

    @property
    def tuned(self) -> bool:
        """Whether the folder says that the model was tuned for embeddings."""
        return self.kind == "sentence"

    @cached_property
    def model_hash(self) -> str:
        """16 hexadecimal digits of a hash over all weights, configs and the tokenizer."""
        return hash_folder(self.folder, base=self.place)

    def prompt_text(self, prompt: str | None) -> str:
        """Return the folder's prompt of that name, else ``prompt`` itself; for None the folder's default, or none."""
        if prompt is None:
            return self.prompts[self.default_prompt] if self.default_prompt is not None else ""
        return self.prompts.get(prompt, prompt)

    def check_prompt(self, name: str | None) -> str | None:
        """Return the name of a prompt, or None. Raises ConfigError for a name that the folder does not have."""
        if name is not None and name not in self.prompts:
            raise ConfigError(
                f"prompt_name {name!r} is none of the model's: {', '.join(self.prompts) or 'it has none'}"
            )
        return name


def hash_folder(folder: Path, *, base: Path | None = None) -> str:
    """Return 16 hexadecimal digits of a SHA-256 over all weights, configs and the tokenizer, without loading them.

    The base of an adapter (``base``; default: what it names) is a part of it.
    """
    digest = hashlib.sha256()
    if is_adapter(folder):
        digest.update(hash_folder(base or read_adapter(folder).base_folder()).encode())
    names = ("config.json", "modules.json", "tokenizer.json", "sentence_bert_config.json", ADAPTER)
    wanted = [p for p in folder.rglob("*") if p.name in names or p.suffix in (".safetensors", ".bin")]
    for path in sorted(wanted):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def load(
    name: str | Path,
    *,
    revision: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    base: str | Path | None = None,
    num_layers: int | None = None,
    adapters: Sequence[Adapter] = (),
) -> Loaded:
    """Load a folder or hub name: a model, or an adapter of peft, which is merged into its base.

    device      auto (see :func:`mmbert.inference.pick_device.pick_device`), cpu, cuda, cuda:1, mps, ...
    precision   auto, fp32, bf16, fp16 or int8, see :func:`mmbert.inference.precision.apply_precision`
    base        of an adapter: folder or hub name of its base. Default: what the adapter says
    num_layers  read and compute only the first layers, and then the final norm (2D Matryoshka, 2402.14776)
    adapters    that share the encoder, see :func:`mmbert.inference.adapters.load_adapters`
    Raises WeightsError, TokenizerError or ConfigError.
    """
    folder = model_folder(name, revision=revision)
    adapter = read_adapter(folder) if is_adapter(folder) else None
    if base is not None and adapter is None:
        raise ConfigError(f"{folder} is no adapter: base is the model that an adapter belongs to")
    options = read_options(folder if adapter is None else adapter.base_folder(base))
    place, values = options.place, read_config(options.place)
    if adapter is not None:
        options, values = options_with(adapter, options), adapter.config(values)
    kind = _kind(values, options)
    config = _shorter(config_from_hf(values, str(place / "config.json")), num_layers, options)
    where = pick_device(device, config, precision)
    tokenizer = _tokenizer(place, config)
    state = load_state(place, check=True, convert=precision == "plain")
    if adapter is not None:
        adapter.merge(state)
    if num_layers is not None:  # else layers that the config does not know are an error
        drop_layers(state, num_layers)
    encoder, masked_lm = _build(place, config, kind, state, mapped=precision != "plain")
    if adapters:
        adapt(encoder, adapters, precision)
    used = precision if adapters else apply_precision(encoder, where, precision)
    stated = vars(options) | {
        "after": tuple(module.to(where).eval().requires_grad_(False) for module in options.after),
        "activation": activation(values, options),
        "max_tokens": max_tokens(config, options, folder),
    }
    loaded = Loaded(
        **stated,
        folder=folder,
        config=config,
        encoder=encoder,
        tokenizer=tokenizer,
        head=None if masked_lm is None else masked_lm.to(where),
        kind=kind,
        device=where,
        precision=used,
        labels=None,
        classifier_pooling="cls",
        problem_type=None,
        values=values,
    )
    return loaded if kind in _HEADLESS else with_head(loaded, values, state)


def with_head(loaded: Loaded, values: dict[str, Any], state: dict[str, Tensor]) -> Loaded:
    """Return the model with the head that a ``config.json`` describes, made from the tensors that are left in state.

    An encoder (or a model of sentence-transformers) has none and comes back with its kind. Raises WeightsError.
    """
    place = loaded.place
    kind = _kind(values, loaded)
    if kind in _HEADLESS:
        return replace(loaded, kind=kind, values=values, head=None)
    labels = _labels(values, kind, place)
    with torch.device("meta"):
        head = TaskHead(loaded.config, len(labels or ()))
    fill(head, state, str(place))
    return replace(
        loaded,
        kind=kind,
        head=head.to(loaded.device).eval().requires_grad_(False),
        labels=labels,
        classifier_pooling=_one_of(values, "classifier_pooling", ("cls", "mean"), place, kind) or "cls",
        problem_type=_one_of(values, "problem_type", PROBLEMS, place, kind),
        values=values,
    )


_HEADLESS: tuple[Kind, ...] = ("encoder", "sentence", "masked_lm")
"""Kinds without a TaskHead."""


def options_with(adapter: Adapter, options: FolderOptions) -> FolderOptions:
    """Return the options of base and adapter together, from those of the base.

    They are those of the adapter's folder if that is one of sentence-transformers. With a head, pooling, prompts and
    the longest text of the base's vectors have no effect.
    """
    if (adapter.folder / LISTING).is_file():
        return replace(read_options(adapter.folder), place=options.place)
    return FolderOptions(place=options.place, activation=options.activation) if adapter.has_head else options


def _shorter(config: ModelConfig, num_layers: int | None, options: FolderOptions) -> ModelConfig:
    """Return the shape with the first layers only. Raises ConfigError for a model that pools a mix of all layers."""
    if num_layers is None:
        return config
    whole("num_layers (--layers)", num_layers, 1, config.num_layers, "the layers of the model")
    if num_layers < config.num_layers and options.pooling is not None and options.pooling.layers is not None:
        raise ConfigError(f"{options.place} pools a mix of all {config.num_layers} layers: it cannot run fewer")
    return config.model_copy(update={"num_layers": num_layers})


def _kind(values: Mapping[str, Any], options: FolderOptions) -> Kind:
    """Return the kind of a model by the class that its config names."""
    if options.pooling is not None:
        return "sentence"
    names = values.get("architectures") or ["ModernBertModel"]
    name = names[0] if isinstance(names, list) else names
    if not isinstance(name, str) or name not in KINDS:
        raise WeightsError(
            f"{options.place / 'config.json'}: {name} is not supported: expected one of {', '.join(KINDS)}"
        )
    return KINDS[name]


def _labels(values: Mapping[str, Any], kind: Kind, place: Path) -> dict[int, str] | None:
    """Return the names of classes, None for a model without; without names they are LABEL_0, LABEL_1 (transformers)."""
    if kind in ("encoder", "masked_lm", "sentence"):
        return None
    if kind == "choice":
        return {0: "score"}
    labels = read_labels(values, str(place / "config.json"))
    if kind == "span" and len(labels) != 2:
        raise WeightsError(f"{place / 'config.json'}: {len(labels)} classes: answers have two, start and end")
    return labels


def _one_of(values: Mapping[str, Any], key: str, known: tuple[str, ...], place: Path, kind: Kind) -> str | None:
    """Return an option of heads on texts, None if it is not set. Raises WeightsError for an unknown value."""
    value = values.get(key)
    if kind in ("sequence", "choice") and value is not None and value not in known:
        raise WeightsError(
            f"{place / 'config.json'}: {key} {value!r} is not supported: it is none of {', '.join(known)}"
        )
    return value if value in known else None


def _build(
    place: Path, config: ModelConfig, kind: Kind, state: dict[str, Tensor], *, mapped: bool
) -> tuple[Encoder, MaskedLM | None]:
    """Return the encoder, and the whole model of a ``masked_lm``, fp32, on the CPU; other heads stay in ``state``.

    mapped  weights stay in the map of their file
    """
    if kind != "masked_lm":
        encoder = Encoder.from_state(config, state, str(place), mapped=mapped)
        return encoder.eval().requires_grad_(False), None
    model = MaskedLM.from_state(config, state, str(place), mapped=mapped).eval().requires_grad_(False)
    return model.model, model


def _tokenizer(place: Path, config: ModelConfig) -> Tokenizer:
    """Return the tokenizer. Raises TokenizerError unless it adds <bos> and <eos> and all its ids have a row."""
    path = place / "tokenizer.json"
    if not path.is_file():
        raise TokenizerError(f"no tokenizer.json in {place}: copy the one the model was trained with there")
    tokenizer = Tokenizer.load(path)
    if tokenizer.vocab_size > config.vocab_size:
        raise TokenizerError(
            f"{path} has {tokenizer.vocab_size} tokens, the model rows for {config.vocab_size}: not its tokenizer"
        )
    written = tokenizer.encode_written("a")
    if written.ids != tokenizer.encode("a"):
        bos, eos = tokenizer.specials["bos"], tokenizer.specials["eos"]
        raise TokenizerError(
            f"{path} reads 'a' as {' '.join(written.tokens)}, not as {bos} a {eos}: if the model was trained with "
            f'both, write the file again by mmbert.Tokenizer.load("{place}").save("{place}"); else it is not supported'
        )
    side = _tokenizer_config(place).get("truncation_side", "right")
    if side != "right":
        raise TokenizerError(f"{place / 'tokenizer_config.json'}: truncation_side {side} is not supported")
    return tokenizer


def _tokenizer_config(place: Path) -> dict[str, Any]:
    return read_object(place / "tokenizer_config.json")


def max_tokens(config: ModelConfig, options: FolderOptions, folder: Path) -> int:
    """Return the limit as sentence-transformers: its own file's, else the smaller of tokenizer's and model's.

    folder  of an adapter, whose tokenizer's limit comes before that of its base; else of the model
    """
    if options.max_tokens is not None:
        return options.max_tokens
    place = folder if is_adapter(folder) and (folder / "tokenizer_config.json").is_file() else options.place
    stated = _tokenizer_config(place).get("model_max_length", config.longest_text)
    if not isinstance(stated, int | float):
        return config.longest_text
    if not stated >= 3:
        raise TokenizerError(f"{place / 'tokenizer_config.json'}: model_max_length is {stated}: <bos>, a token, <eos>")
    return int(min(stated, config.longest_text))


def activation(values: Mapping[str, Any], options: FolderOptions) -> str | None:
    """Return a CrossEncoder's activation, from its own file (version 6) or from config.json (4 and 5, older key)."""
    if options.activation is not None:
        return options.activation
    older = values.get("sentence_transformers")
    stated = older.get("activation_fn") if isinstance(older, dict) else None
    stated = stated or values.get("sbert_ce_default_activation_function")
    return None if stated is None else str(stated)
