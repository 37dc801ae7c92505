"""What a folder or hub name is, and how to run it.

Read are folders of transformers (any head of ModernBERT, old and new config), of sentence-transformers (encoders and
CrossEncoders) and of this package. What would be computed otherwise than its library does is refused by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmbert.errors import ConfigError, TokenizerError, WeightsError
from mmbert.files import read_json
from mmbert.inference.pooling import Pooling
from mmbert.inference.precision import apply_precision
from mmbert.inference.sentence_transformers_folder import Parts, read_parts
from mmbert.model.config import ModelConfig, config_from_hf
from mmbert.model.encoder import Encoder
from mmbert.model.heads import MaskedLM
from mmbert.model.tasks import TaskHead
from mmbert.model.weights import check_size, cut_padding, fill, load_state, model_folder, take_encoder
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


_MOST_LABELS = 2**20
"""Each gets a name, before the weights are there."""


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to run.

    encoder             in eval mode, on ``device``, in ``precision`` (fp32, bf16, int8); answers in fp32
    head                None for ``encoder`` and ``sentence``; the whole MaskedLM, around ``encoder``, for
                        ``masked_lm``; a TaskHead for the rest, in fp32
    labels              names by number, None without classes
    classifier_pooling  "cls" or "mean", of ``sequence`` and ``choice``
    problem_type        of ``sequence``: regression, single_label_classification, multi_label_classification or None
    activation          of a CrossEncoder's scores, by the name in the folder ("torch.nn.modules.activation.Sigmoid");
                        None where it names none
    pooling             of ``sentence``, else None
    after               modules behind pooling, of ``sentence``
    prompts             by name; ``default_prompt``: the name of the one for every text, or None
    max_tokens          longest text, <bos> and <eos> included
    tuned               False: nothing says that its vectors were ever tuned to stand for texts
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
    activation: str | None
    pooling: Pooling | None
    after: tuple[nn.Module, ...]
    prompts: dict[str, str]
    default_prompt: str | None
    similarity: str
    max_tokens: int
    values: dict[str, Any]

    @property
    def tuned(self) -> bool:
        return self.kind == "sentence"

    @cached_property
    def model_hash(self) -> str:
        """16 hexadecimal digits of all weights, configs and the tokenizer: another model has another."""
        return hash_folder(self.folder)


def hash_folder(folder: Path) -> str:
    """16 hexadecimal digits of all weights, configs and the tokenizer of a model folder, without loading it."""
    digest = hashlib.sha256()
    names = ("config.json", "modules.json", "tokenizer.json", "sentence_bert_config.json")
    wanted = [p for p in folder.rglob("*") if p.name in names or p.suffix in (".safetensors", ".bin")]
    for path in sorted(wanted):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def load(name: str | Path, *, revision: str | None = None, device: str = "auto", precision: str = "auto") -> Loaded:
    """Load a folder or hub name.

    device     auto (CUDA where there is one), cpu, cuda, cuda:1, ...
    precision  auto, fp32, bf16 or int8, see :func:`mmbert.inference.precision.apply_precision`
    Raises WeightsError, TokenizerError or ConfigError.
    """
    folder = model_folder(name, revision=revision)
    where = settle_device(device)
    parts = read_parts(folder)
    place = parts.encoder if parts else folder
    values = _config_values(place)
    kind = _kind(values, place, parts)
    config = config_from_hf(values, str(place / "config.json"))
    tokenizer = _tokenizer(place, config)
    labels = _labels(values, kind, place)
    encoder, head = _build(place, config, kind, len(labels or ()))
    used = apply_precision(encoder, where, precision)
    return Loaded(
        folder=folder,
        config=config,
        encoder=encoder,
        tokenizer=tokenizer,
        head=head if head is None else head.to(where).eval().requires_grad_(False),
        kind=kind,
        device=where,
        precision=used,
        labels=labels,
        classifier_pooling=_one_of(values, "classifier_pooling", ("cls", "mean"), place, kind) or "cls",
        problem_type=_one_of(values, "problem_type", PROBLEMS, place, kind),
        activation=_activation(values, parts),
        pooling=parts.pooling if parts else None,
        after=tuple(module.to(where).eval().requires_grad_(False) for module in parts.after) if parts else (),
        prompts=parts.prompts if parts else {},
        default_prompt=parts.default_prompt if parts else None,
        similarity=parts.similarity if parts else "cosine",
        max_tokens=_max_tokens(place, config, parts),
        values=values,
    )


def settle_device(name: str) -> torch.device:
    """``auto`` or torch's name of a device. Raises ConfigError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is no device: use auto, cpu, cuda or cuda:1") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices; use auto or cpu"
        )
    return device


def _config_values(place: Path) -> dict[str, Any]:
    path = place / "config.json"
    if not path.is_file():
        raise WeightsError(f"no config.json in {place}: not a model folder")
    values = read_json(path)
    if not isinstance(values, dict):
        raise WeightsError(f"{path}: not a JSON object")
    return values


def _kind(values: Mapping[str, Any], place: Path, parts: Parts | None) -> Kind:
    """What the folder is, by the class its config names."""
    if parts is not None and parts.pooling is not None:
        return "sentence"
    names = values.get("architectures") or ["ModernBertModel"]
    name = names[0] if isinstance(names, list) else names
    if not isinstance(name, str) or name not in KINDS:
        raise WeightsError(f"{place / 'config.json'}: {name} is not supported: expected one of {', '.join(KINDS)}")
    return KINDS[name]


def _labels(values: Mapping[str, Any], kind: Kind, place: Path) -> dict[int, str] | None:
    """Names of classes: as the config tells, LABEL_0 and LABEL_1 where it does not (transformers' rule)."""
    if kind in ("encoder", "masked_lm", "sentence"):
        return None
    if kind == "choice":
        return {0: "score"}
    labels = read_labels(values, str(place / "config.json"))
    if kind == "span" and len(labels) != 2:
        raise WeightsError(f"{place / 'config.json'}: {len(labels)} classes, where an answer begins and ends are two")
    return labels


def read_labels(values: Mapping[str, Any], where: str) -> dict[int, str]:
    """Return the names of classes by number, as transformers reads them, or by ``label2id`` where that alone is there.

    Without names they are LABEL_0 and so on: ``num_labels`` of them, or two. Raises WeightsError for what is none.
    """
    try:
        named = {int(number): str(name) for number, name in (values.get("id2label") or {}).items()}
        turned = {int(number): str(name) for name, number in (values.get("label2id") or {}).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{where}: id2label and label2id are no tables of numbers and names") from error
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


def _one_of(values: Mapping[str, Any], key: str, known: tuple[str, ...], place: Path, kind: Kind) -> str | None:
    """Return an option of heads on texts, None where it is not said. Raises WeightsError for an unknown value."""
    value = values.get(key)
    if kind in ("sequence", "choice") and value is not None and value not in known:
        raise WeightsError(
            f"{place / 'config.json'}: {key} {value!r} is not supported: it is none of {', '.join(known)}"
        )
    return value if value in known else None


def _build(place: Path, config: ModelConfig, kind: Kind, labels: int) -> tuple[Encoder, nn.Module | None]:
    """Encoder and head with their weights, fp32, on the CPU."""
    if kind == "masked_lm":
        model = MaskedLM.load(place)
        _finite(model, place)
        return model.model.eval().requires_grad_(False), model
    state = load_state(place)
    own = take_encoder(state)
    check_size(config, own, str(place))
    cut_padding(own, config.vocab_size)
    with torch.device("meta"):
        encoder = Encoder(config)
    fill(encoder, own, str(place))
    head = None if kind in ("encoder", "sentence") else _head(place, config, labels, state)
    for module in (encoder, head):
        if module is not None:
            _finite(module, place)
    return encoder.eval().requires_grad_(False), head


def _head(place: Path, config: ModelConfig, labels: int, state: dict[str, Tensor]) -> TaskHead:
    with torch.device("meta"):
        head = TaskHead(config, labels)
    fill(head, state, str(place))
    return head


def _finite(module: nn.Module, place: Path) -> None:
    """Refuse weights that would make every vector NaN."""
    for name, value in module.named_parameters():
        low, high = value.detach().aminmax()
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            raise WeightsError(f"{place}: {name} holds NaN or infinite values: take an earlier checkpoint")


def _tokenizer(place: Path, config: ModelConfig) -> Tokenizer:
    """The folder's tokenizer, if it puts <bos> and <eos> around a text and the model has a row for each token."""
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
        raise TokenizerError(
            f"{path} reads 'a' as {' '.join(written.tokens)}, not as <bos> a <eos>: if the model was trained with "
            f'both, write the file again by mmbert.Tokenizer.load("{place}").save("{place}"); else it is not supported'
        )
    side = _tokenizer_config(place).get("truncation_side", "right")
    if side != "right":
        raise TokenizerError(f"{place / 'tokenizer_config.json'}: truncation_side {side} is not supported")
    return tokenizer


def _tokenizer_config(place: Path) -> dict[str, Any]:
    path = place / "tokenizer_config.json"
    values = read_json(path) if path.is_file() else {}
    return values if isinstance(values, dict) else {}


def _max_tokens(place: Path, config: ModelConfig, parts: Parts | None) -> int:
    """As sentence-transformers decides: what its own file says, else the smaller of tokenizer's and model's limit."""
    if parts is not None and parts.max_tokens is not None:
        return parts.max_tokens
    stated = _tokenizer_config(place).get("model_max_length", config.max_context)
    if not isinstance(stated, int | float):
        return config.max_context
    if not stated >= 3:
        raise TokenizerError(f"{place / 'tokenizer_config.json'}: model_max_length is {stated}: <bos>, a token, <eos>")
    return int(min(stated, config.max_context))


def _activation(values: Mapping[str, Any], parts: Parts | None) -> str | None:
    """Of a CrossEncoder: in its own file (version 6), in config.json (4 and 5) or under an older key there."""
    if parts is not None and parts.activation is not None:
        return parts.activation
    options = values.get("sentence_transformers")
    stated = options.get("activation_fn") if isinstance(options, dict) else None
    stated = stated or values.get("sbert_ce_default_activation_function")
    return None if stated is None else str(stated)
