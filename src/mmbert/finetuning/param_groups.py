"""Groups of parameters with learning rates and weight decay of their own."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from mmbert.finetuning.recipe import Training

_LAYER = re.compile(r"^model\.layers\.(\d+)\.")


def parameter_groups(model: nn.Module, wanted: Training) -> list[dict[str, Any]]:
    """For AdamW: the head at its rate, each layer at ``layer_decay`` times that of the one above, decay for matrices.

    The uppermost layer (with the final norm) stands one step below the head, the embeddings below the lowest layer.
    """
    layers = 1 + max(
        (int(match[1]) for name, _ in model.named_parameters() if (match := _LAYER.match(name))), default=-1
    )
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = wanted.learning_rate * wanted.layer_decay ** _below_head(name, layers)
        if not name.startswith("model.") and wanted.head_learning_rate is not None:
            rate = wanted.head_learning_rate
        decay = wanted.weight_decay if parameter.dim() > 1 else 0.0
        group = groups.setdefault((rate, decay), {"params": [], "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)
    return list(groups.values())


def _below_head(name: str, layers: int) -> int:
    """How many steps below the head a parameter stands."""
    match = _LAYER.match(name)
    if match is not None:
        return layers - int(match[1])
    if name.startswith("model.embeddings."):
        return layers + 1
    return 1 if name.startswith("model.") else 0
