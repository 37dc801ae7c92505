"""LoRA (Hu et al. 2106.09685) by peft: put into an encoder, kept in checkpoints, merged into what is saved.

With ``training.lora.merge: false`` the ``final`` of a run is an adapter instead, in peft's own form:

    adapter_config.json        the options of LoRA, and the name of the base
    adapter_model.safetensors  the low-rank matrices, and the whole head of a task
    config.json                of base and adapter together: classes, pooling, kind of problem
    tokenizer.json, ...        the base's; for vectors also the modules of sentence-transformers

peft's layers are injected into the encoder itself, without peft's wrapper around the model: the trainers then save
through our own code, and folders need no peft to be loaded. (transformers' ``add_adapter`` asks for a peft newer than
the one that it is released with.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from mmbert.errors import ConfigError, TrainingError
from mmbert.finetuning.recipe import FinetuneRecipe, Lora
from mmbert.model.adapter import FILE
from mmbert.model.folder import read_modules
from mmbert.model.weights import WEIGHTS, save_state

ADAPTERS = "adapters.safetensors"
"""File of a checkpoint with the weights that train, adapters and head, from which training resumes."""

_TASK_TYPES = {
    "classify": "SEQ_CLS", "rerank": "SEQ_CLS", "tag": "TOKEN_CLS", "answer": "QUESTION_ANS",
    "embed": "FEATURE_EXTRACTION",
}  # fmt: skip
"""Task -> peft's name of it, which decides the class that peft loads. For choices it has none."""

_CHOICES = {
    "base_model_class": "ModernBertForMultipleChoice",
    "parent_library": "transformers.models.modernbert.modeling_modernbert",
}
"""What peft writes for a class without such a name (``auto_mapping``)."""


def add_lora(encoder: nn.Module, lora: Lora) -> None:
    """Put adapters into an encoder, in place, and freeze all its other weights.

    Raises ConfigError for an adapter of token embeddings that is not to be merged.
    """
    from peft import inject_adapter_in_model

    inject_adapter_in_model(_lora_config(lora), encoder)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_embedding" in name and not lora.merge:
            raise ConfigError(
                f"training.lora.targets {', '.join(lora.targets)}: adapters of token embeddings can only be merged: "
                "remove the target, or training.lora.merge=false"
            )


def _lora_config(lora: Lora, **more: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets), bias="none",
        **more,
    )  # fmt: skip


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """Return what trains of a model of transformers' form, adapters and head, by the names that peft gives it."""
    return {f"base_model.model.{name.replace('.default.', '.')}": value for name, value in _trained(model).items()}


def make_adapter(folder: Path, state: dict[str, Tensor], recipe: FinetuneRecipe) -> None:
    """Replace the weights of a folder, as merging writes it, by the adapter that was merged into them.

    state  of :func:`adapter_state`
    """
    lora = recipe.training.lora
    assert lora is not None
    task = _TASK_TYPES.get(recipe.task)
    config = _lora_config(
        lora, task_type=task, base_model_name_or_path=_base(recipe.model), revision=recipe.model_revision,
        inference_mode=True, modules_to_save=None if recipe.task == "embed" else ["head", "classifier"],
    )  # fmt: skip
    config.save_pretrained(str(folder), auto_mapping_dict=None if task else _CHOICES)
    save_state(state, folder / FILE)
    # With a config.json transformers takes a folder for a whole model, and sentence-transformers asks transformers.
    for name in (WEIGHTS, ADAPTERS, *(("config.json",) if recipe.task == "embed" else ())):
        (folder / name).unlink(missing_ok=True)


def _base(model: str) -> str:
    """Return how an adapter names its base: a folder by its full path, as it is loaded from other places than here."""
    place = Path(model)
    if not place.is_dir():
        return model
    if not (place / "config.json").is_file() and (modules := read_modules(place)):
        place /= modules[0][1]
    return str(place.resolve())


def merge_lora(encoder: nn.Module) -> None:
    """Add each adapter to its matrix, and put the plain layers back, in place; without adapters nothing changes."""
    for name, module in [(name, module) for name, module in encoder.named_modules() if hasattr(module, "lora_A")]:
        module.merge()
        parent, _, leaf = name.rpartition(".")
        setattr(encoder.get_submodule(parent), leaf, module.get_base_layer())
    for parameter in encoder.parameters():
        parameter.requires_grad_(True)


def merged_state(model: nn.Module) -> dict[str, Tensor] | None:
    """Return the weights by their plain names, adapters added; None without adapters. The model stays as it is."""
    deltas = {
        name: module.get_delta_weight("default") for name, module in model.named_modules() if hasattr(module, "lora_A")
    }
    if not deltas:
        return None
    merged = {}
    for name, value in model.state_dict().items():
        if "lora_" in name:
            continue
        owner, base, leaf = name.partition(".base_layer.")
        merged[f"{owner}.{leaf}" if base else name] = value + deltas[owner] if base and leaf == "weight" else value
    return merged


def save_trained(model: nn.Module, folder: Path) -> None:
    """Write the weights that train."""
    save_state(_trained(model), folder / ADAPTERS)


def load_trained(model: Any, folder: Path) -> None:
    """Read what :func:`save_trained` wrote, in place. Raises TrainingError where it is not there."""
    path = folder / ADAPTERS
    if not path.is_file():
        raise TrainingError(f"{path} is missing: remove its folder, and run this again")
    state = load_file(path, device=str(model.device))
    for name, value in _trained(model).items():
        value.copy_(state[name])


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
