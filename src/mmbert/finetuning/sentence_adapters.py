"""LoRA (Hu et al. 2106.09685) in a model of sentence-transformers: put in, kept in checkpoints, merged at the end.

peft's layers stand inside the encoder itself, and checkpoints hold what trains: the library's own way through
transformers' ``add_adapter`` asks for a peft newer than the one it is released with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from sentence_transformers.base.model import BaseModel
from torch import Tensor

from mmbert.errors import TrainingError
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.sentence_model import encoder_of
from mmbert.model.weights import save_state

ADAPTERS = "adapters.safetensors"


def add_adapters(recipe: FinetuneRecipe, model: BaseModel) -> None:
    """Adapters in the encoder, in place. They train, and all that is not of the pretrained model: heads, projections,
    weights of layers.
    """
    lora = recipe.training.lora
    if lora is None:
        return
    from peft import LoraConfig, inject_adapter_in_model

    inner = encoder_of(model)
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets), bias="none"
    )  # type: ignore[call-arg, unused-ignore]
    inject_adapter_in_model(config, inner)
    fresh = ("head.", "classifier.") if recipe.task == "rerank" else ()
    for name, parameter in inner.named_parameters():
        parameter.requires_grad_("lora_" in name or name.startswith(fresh))


def merge_adapters(model: BaseModel) -> None:
    """LoRA's matrices added to those they stand beside, and the plain layers back in their places."""
    inner = encoder_of(model)
    for name, module in [(name, module) for name, module in inner.named_modules() if hasattr(module, "lora_A")]:
        module.merge()
        parent, _, leaf = name.rpartition(".")
        setattr(inner.get_submodule(parent), leaf, module.get_base_layer())
    for parameter in inner.parameters():
        parameter.requires_grad_(True)


class AdapterCheckpoints:
    """Before a trainer of sentence-transformers: its checkpoints hold what trains, by name."""

    model: Any

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None, "checkpoints have a folder"
        save_state(_trained(self.model), Path(output_dir) / ADAPTERS)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        path = Path(checkpoint_path) / ADAPTERS
        if not path.is_file():
            raise TrainingError(f"{path} is missing: remove its folder, and run this again")
        state = load_file(path, device=str(self.model.device))
        for name, value in _trained(self.model).items():
            value.copy_(state[name])


def _trained(model: Any) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
