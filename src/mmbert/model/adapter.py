"""LoRA adapters as peft writes them: read from a folder, and added to the weights of their base.

An adapter is ``adapter_config.json`` beside ``adapter_model.safetensors``: for some matrices W two narrow ones, so that
the tuned matrix is W + s B A (Hu et al. 2106.09685), s = alpha / r, or alpha / sqrt(r) for rsLoRA (2312.03732). DoRA
(2402.09353) then scales each row to a stored length. Whatever else the file holds, such as a new classifier
(``modules_to_save``), replaces the base's tensor. What this package does not compute is refused by name.

Shapes: W (m, n), A (r, n), B (m, r).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmbert.errors import WeightsError
from mmbert.model.folder import ADAPTER, is_adapter, read_object
from mmbert.model.weights import model_folder

FILE = "adapter_model.safetensors"

CLASSES = {
    "SEQ_CLS": "ModernBertForSequenceClassification",
    "TOKEN_CLS": "ModernBertForTokenClassification",
    "QUESTION_ANS": "ModernBertForQuestionAnswering",
    "FEATURE_EXTRACTION": "ModernBertModel",
}
"""peft's ``task_type`` and the class of transformers that the adapter was trained in."""

_HEADS = (*CLASSES.values(), "ModernBertForMultipleChoice")
"""Classes that an adapter without ``task_type`` may name (``auto_mapping``)."""

_ACTIVATIONS = ("sentence_transformers", "sbert_ce_default_activation_function")
"""Keys under which CrossEncoders of several versions keep the activation of their scores."""

_REFUSED = (
    "fan_in_fan_out", "layer_replication", "use_qalora", "alora_invocation_tokens", "target_parameters",
    "trainable_token_indices", "megatron_config", "arrow_config", "use_bdlora", "lora_bias",
)  # fmt: skip
"""Options of peft that change what is computed, and are not known here."""

_PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of ``init_lora_weights`` that leave the base's weights as they are."""


@dataclass(frozen=True)
class LowRank:
    """The change of one matrix. ``magnitude`` (m,): the lengths of the tuned rows, for DoRA."""

    down: Tensor
    up: Tensor
    scale: float
    magnitude: Tensor | None = None

    def tuned(self, weight: Tensor) -> Tensor:
        """Return W + s B A of a base's matrix W (m, n), fp32."""
        return weight.float() + self.scale * (self.up.float() @ self.down.float())

    def merged(self, weight: Tensor) -> Tensor:
        """Return the tuned matrix (m, n) of a base's, fp32, with DoRA's lengths of its rows."""
        tuned = self.tuned(weight)
        if self.magnitude is None:
            return tuned
        # DoRA: W' = m (W + s B A) / |W + s B A|, the norm taken over each row.
        scaled: Tensor = tuned * (self.magnitude.float() / tuned.norm(dim=1))[:, None]
        return scaled

    def halves(self) -> tuple[LowRank, LowRank]:
        """Return the changes of the first and the second half of the matrix's rows."""
        lengths = self.magnitude.chunk(2) if self.magnitude is not None else (None, None)
        first, second = (
            LowRank(self.down, up, self.scale, own) for up, own in zip(self.up.chunk(2), lengths, strict=True)
        )
        return first, second

    def check(self, weight: Tensor, matrix: str, adapter: Adapter) -> None:
        """Raise WeightsError unless the change fits the base's matrix."""
        wanted = (self.up.shape[0], self.down.shape[1])
        if weight.shape != wanted:
            raise WeightsError(
                f"{adapter.folder} changes {matrix} of shape {wanted}, the base's is {tuple(weight.shape)}: "
                f"it was made for {adapter.base}"
            )


@dataclass(frozen=True)
class Adapter:
    """An adapter's tensors by the names that its base has for them, without the prefix ``model.`` of the encoder.

    base          name or folder of the base, None if the adapter does not say
    revision      commit of the base, None if the adapter does not say
    architecture  class of transformers that base and adapter make together; None: the base's own
    low_rank      by name of the matrix, such as ``layers.0.attn.Wqkv``
    replaced      whole tensors, such as ``classifier.weight``
    """

    folder: Path
    base: str | None
    architecture: str | None
    low_rank: Mapping[str, LowRank]
    replaced: Mapping[str, Tensor]
    revision: str | None = None

    def merge(self, state: dict[str, Tensor]) -> None:
        """Add the adapter to the tensors of its base, in place. Raises WeightsError if they do not fit."""
        # A bare encoder and a model with a head name the same matrix with and without "model.".
        prefixed = {name.removeprefix("model."): name for name in state}
        for matrix, change in self.low_rank.items():
            name = prefixed.get(f"{matrix}.weight")
            if name is None:
                raise WeightsError(f"{self.folder} changes {matrix}, which its base does not have: is it {self.base}?")
            change.check(state[name], matrix, self)
            state[name] = change.merged(state[name])
        for bare, value in self.replaced.items():
            state[prefixed.get(bare, bare)] = value
        for name in [name for name in state if self.has_head and name.startswith("decoder.")]:
            del state[name]  # the base's masked-language-model head, but for head.dense and head.norm, which stay

    @property
    def has_head(self) -> bool:
        """Return whether base and adapter together have the head of a task."""
        return self.architecture not in (None, "ModernBertModel")

    def base_folder(self, given: str | Path | None = None) -> Path:
        """Return the folder of the base: ``given``, a folder or hub name, else the one that the adapter names."""
        name = given or self.base
        if name is None:
            raise WeightsError(
                f"{self.folder} is an adapter and does not say of which model: write base_model_name_or_path into its "
                f"{ADAPTER}, or give base in Python"
            )
        try:
            folder = model_folder(name, revision=None if given else self.revision)
        except WeightsError as error:
            raise WeightsError(
                f"base of the adapter {self.folder}: {error}: if it lies elsewhere, change base_model_name_or_path in "
                f"{ADAPTER}, or give base in Python"
            ) from error
        if is_adapter(folder):
            raise WeightsError(f"{folder}, the base of the adapter {self.folder}, is an adapter itself: merge it first")
        return folder

    def config(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """Return the ``config.json`` of base and adapter together.

        What the adapter's own file says of classes counts; without it they are as many as its classifier has.
        """
        own = read_object(self.folder / "config.json")
        keys = ("id2label", "label2id", "problem_type", "classifier_pooling", *_ACTIVATIONS)
        kept: dict[str, Any] = {key: own[key] for key in keys if key in own}
        together: dict[str, Any] = {**base, **kept}
        if self.architecture is not None:
            together["architectures"] = [self.architecture]
        if self.labels is not None:
            together["num_labels"] = self.labels
            if len(together.get("id2label") or ()) != self.labels:
                together.update(id2label=None, label2id=None)
        return together

    @property
    def labels(self) -> int | None:
        """Return the number of classes of the adapter's own classifier, None without one."""
        classifier = self.replaced.get("classifier.weight")
        return None if classifier is None else int(classifier.shape[0])


def read_adapter(folder: Path) -> Adapter:
    """Return the adapter of a folder. Raises WeightsError for what is missing, damaged or not supported."""
    where = folder / ADAPTER
    if not where.is_file():
        raise WeightsError(f"no {ADAPTER} in {folder}: not an adapter of peft")
    config = read_object(where)
    _check(config, where)
    if not (folder / FILE).is_file():
        raise WeightsError(f"no {FILE} in {folder}{_convert(folder / 'adapter_model.bin')}")
    try:
        stored = load_file(folder / FILE)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{folder / FILE} cannot be read ({error}): copy or download it again") from error
    halves: dict[str, dict[str, Tensor]] = {}
    replaced = {}
    for name, value in stored.items():
        bare = name.removeprefix("base_model.model.").removeprefix("model.")
        matrix, is_low_rank, part = bare.partition(".lora_")
        if is_low_rank:
            halves.setdefault(matrix, {})[part.split(".")[0]] = value
        else:
            replaced[bare.replace(".modules_to_save.default", "")] = value
    low_rank = {matrix: _low_rank(matrix, parts, config, folder) for matrix, parts in halves.items()}
    if not low_rank and not replaced:
        raise WeightsError(f"{folder / FILE} holds no tensors")
    base, revision = (config.get(key) or None for key in ("base_model_name_or_path", "revision"))
    return Adapter(folder, base, _architecture(config), low_rank, replaced, revision)


def _architecture(config: Mapping[str, Any]) -> str | None:
    """Return the class of transformers that an adapter names by its task, or by itself; None for the base's own."""
    if config.get("task_type") is not None:
        return CLASSES[config["task_type"]]
    named = (config.get("auto_mapping") or {}).get("base_model_class")
    return named if named in _HEADS else None


def _convert(path: Path) -> str:
    """Return how to convert the older file of an adapter; empty if it is not there."""
    if not path.is_file():
        return ": is its download complete?"
    return (
        f', and {path.name} is not read: convert it in that folder: python -c "import torch, safetensors.torch as s; '
        f"s.save_file(torch.load('{path.name}', weights_only=True), '{FILE}')\""
    )


def _check(config: Mapping[str, Any], where: Path) -> None:
    """Raise WeightsError for an adapter that would be computed otherwise than peft does."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise WeightsError(f"{where}: peft_type is {kind!r}, only LORA (with rsLoRA and DoRA) is supported")
    for key, wanted in (("base_model_name_or_path", "name of the model it belongs to"), ("revision", "commit of it")):
        if not isinstance(config.get(key), str | None):
            raise WeightsError(f"{where}: {key} is {config[key]!r}: write the {wanted}")
    if not isinstance(config.get("auto_mapping"), dict | None):
        raise WeightsError(f"{where}: auto_mapping is {str(config['auto_mapping'])[:60]}: expected names")
    task = config.get("task_type")
    if task is not None and (not isinstance(task, str) or task not in CLASSES):
        raise WeightsError(f"{where}: task_type {task!r} is not supported: it is none of {', '.join(CLASSES)}")
    refused = [key for key in _REFUSED if config.get(key)]
    if config.get("init_lora_weights", True) not in _PLAIN_INITS:
        refused.append("init_lora_weights")  # PiSSA, OLoRA, CorDA, LoftQ: they change the base's weights as well
    if refused:
        told = ", ".join(f"{key} {config[key]}" for key in refused)
        raise WeightsError(f"{where}: {told}: not supported, merge the adapter with peft (merge_and_unload) first")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1 or not _is_number(alpha):
        raise WeightsError(f"{where}: r is {rank!r} and lora_alpha {alpha!r}: expected a whole number and a number")
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or not all(map(_is_number, patterns.values())):
        raise WeightsError(f"{where}: alpha_pattern is {str(patterns)[:60]}: expected numbers by the name of a matrix")
    for pattern in patterns:
        if not re.fullmatch(r"(?:[\w.^$|]|\\\.)+", pattern):  # without repetition, no pattern takes long to match
            raise WeightsError(f"{where}: alpha_pattern {pattern!r} is more than names and |: not supported")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _low_rank(matrix: str, parts: Mapping[str, Tensor], config: Mapping[str, Any], folder: Path) -> LowRank:
    """Return the change of a matrix from its stored halves."""
    unknown = sorted(set(parts) - {"A", "B", "magnitude_vector"})
    if unknown or "A" not in parts or "B" not in parts:
        what = f"lora_{unknown[0]}" if unknown else "one half of a pair lora_A and lora_B"
        raise WeightsError(f"{folder / FILE}: {matrix} has {what}: not supported")
    down, up = parts["A"], parts["B"]
    # From the tensor, not from r: rank_pattern gives matrices ranks of their own.
    rank = down.shape[0]
    if down.ndim != 2 or up.ndim != 2 or up.shape[1] != rank:
        raise WeightsError(f"{folder / FILE}: {matrix}: lora_A {tuple(down.shape)} and lora_B {tuple(up.shape)}")
    if not all(bool(part.isfinite().all()) for part in parts.values()):
        raise WeightsError(f"{folder / FILE}: {matrix} holds NaN or infinite values: take an earlier checkpoint")
    alpha = _alpha(config, matrix)
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    magnitude = parts.get("magnitude_vector")
    if bool(config.get("use_dora")) != (magnitude is not None):
        raise WeightsError(f"{folder}: use_dora is {config.get('use_dora')}, {FILE} says otherwise for {matrix}")
    return LowRank(down, up, scale, magnitude)


def _alpha(config: Mapping[str, Any], matrix: str) -> float:
    """Return lora_alpha of a matrix: that of the first pattern that its name ends in, as peft matches them."""
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        # As peft: a pattern has to match the end of the name, from a dot on.
        if re.match(rf"(.*\.)?({pattern})$", f"model.{matrix}"):
            return float(value)
    return float(config["lora_alpha"])
