"""Options that a recipe takes from its start model: shape, tokenizer, context and RoPE bases.

``start: jhu-clsp/mmBERT-base`` says all of it, so a recipe need not repeat it. :func:`resolve` looks it up in the
start's ``config.json`` when a run begins (no weights are read); the run's ``recipe.yaml`` holds the resolved recipe.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmbert.errors import WeightsError
from mmbert.hub import HubFailed, hub_file
from mmbert.model.config import ModelConfig, config_from_hf
from mmbert.model.folder import read_config, read_object
from mmbert.recipe import ModelSpec, Phase, Recipe

_MUST_AGREE = (
    "vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "global_every", "window", "norm_eps",
)  # fmt: skip
"""What a recipe's own ``model`` may say beside a start, but only as the start has it."""


def resolve(recipe: Recipe) -> Recipe:
    """Return the recipe with all that it leaves to its start model filled in.

    Raises WeightsError if the start is not to be found, is no mmBERT, or has another shape than the recipe's model.
    """
    if recipe.start is None:
        return recipe
    config = start_config(recipe.start)
    phases = {name: _with_angles(phase, config) for name, phase in recipe.phases.items()}
    changes = {"tokenizer": recipe.vocabulary, "model": _shape(recipe, config), "phases": phases}
    return recipe.model_copy(update=changes)


def start_config(start: str) -> ModelConfig:
    """Return the configuration of a model in a folder or on the hub; only ``config.json`` is fetched."""
    folder = Path(start)
    local = folder.is_dir()
    if not local and (folder.exists() or len(folder.parts) != 2 or start.startswith((".", "/", "~"))):
        raise WeightsError(f"start: no such model folder: {start} (a hub name looks like jhu-clsp/mmBERT-base)")
    path = folder / "config.json" if local else _fetch_config(start)
    try:
        values = read_config(folder) if local else read_object(path)
    except WeightsError as error:
        raise WeightsError(f"start: {start} is not a model folder ({error})") from error
    config = config_from_hf(values, str(path))
    if not config.tied:
        raise WeightsError(
            f"start: {path}: tie_word_embeddings is false, and pretraining ties the decoder to the token embedding: "
            "start from another model"
        )
    return config


def _fetch_config(name: str) -> Path:
    try:
        return hub_file(name, "config.json")
    except HubFailed as error:
        raise WeightsError(
            f"start: no folder {name} here, and the hub did not give its config.json: {error}"
        ) from error


def _shape(recipe: Recipe, config: ModelConfig) -> ModelSpec:
    """Return the shape of the start model, or the recipe's own if it agrees."""
    theirs = {field: getattr(config, field) for field in ModelSpec.model_fields if field in ModelConfig.model_fields}
    if recipe.model is None:
        return ModelSpec(**theirs)
    for field in _MUST_AGREE:
        ours = getattr(recipe.model, field)
        if ours not in (theirs[field], None):
            raise WeightsError(
                f"{recipe.start} has {field} {theirs[field]}, the recipe's model {ours}: leave `model` out, "
                "it is the start's"
            )
    longest = recipe.model.max_context or config.max_context
    return recipe.model.model_copy(update={"vocab_size": config.vocab_size, "max_context": longest})


def _with_angles(phase: Phase, config: ModelConfig) -> Phase:
    """Return the phase with RoPE's bases and scalings of the start model, unless it sets its own."""
    theirs: dict[str, Any] = {}
    if "rope_theta" not in phase.model_fields_set:
        local = phase.local_rope_theta or config.local_rope_theta
        theirs |= {"rope_theta": config.rope_theta, "local_rope_theta": local}
    if not {"rope", "local_rope"} & phase.model_fields_set:
        theirs |= {"rope": config.rope_scaling, "local_rope": config.local_rope_scaling}
    return phase.model_copy(update=theirs)
