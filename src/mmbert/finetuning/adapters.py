"""LoRA (Hu et al. 2106.09685) by peft: put into an encoder, kept in checkpoints, merged into what is saved.

peft's layers are injected into the encoder itself, without peft's wrapper around the model: the trainers then save
through our own code, and folders need no peft to be loaded. (transformers' ``add_adapter`` asks for a peft newer than
the one that it is released with.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from mmbert.errors import TrainingError
from mmbert.finetuning.recipe import Lora
from mmbert.model.weights import save_state

ADAPTERS = "adapters.safetensors"
"""File of a checkpoint with the weights that train, adapters and head, from which training resumes."""


def add_lora(encoder: nn.Module, lora: Lora) -> None:
    """Put adapters into an encoder, in place, and freeze all its other weights."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets), bias="none"
    )  # type: ignore[call-arg, unused-ignore]
    inject_adapter_in_model(config, encoder)
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_("lora_" in name)


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
