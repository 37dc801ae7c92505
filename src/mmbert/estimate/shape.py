"""The encoder that a recipe describes, known before its tokenizer is there."""

from __future__ import annotations

from pathlib import Path

from mmbert.errors import ConfigError
from mmbert.files import read_json
from mmbert.model.config import ModelConfig
from mmbert.recipe import Recipe, TokenizerTraining


def model_config(recipe: Recipe, context: int) -> ModelConfig:
    """The encoder's shape; its rotary bases are those of the last phase."""
    spec = recipe.shape
    phase = recipe.phases[recipe.order()[-1]]
    return ModelConfig(
        vocab_size=_vocabulary(recipe),
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_layers=spec.num_layers,
        num_heads=spec.num_heads,
        global_every=spec.global_every,
        window=spec.window,
        rope_theta=phase.rope_theta,
        local_rope_theta=phase.local_rope_theta or phase.rope_theta,
        max_context=context,
        attention_out_dropout=spec.attention_out_dropout,
    )


def _vocabulary(recipe: Recipe) -> int:
    if recipe.shape.vocab_size is not None:
        return recipe.shape.vocab_size
    if isinstance(recipe.vocabulary, TokenizerTraining):
        return recipe.vocabulary.vocab_size
    config = Path(recipe.vocabulary) / "tokenizer.json"
    if not config.is_file():
        raise ConfigError(f"the vocabulary of {recipe.vocabulary} is not known unless fetched: set model.vocab_size")
    content = read_json(config)
    ids = [*content["model"]["vocab"].values(), *(token["id"] for token in content.get("added_tokens", []))]
    return int(max(ids)) + 1
