"""The model and optimiser that a phase starts with: fresh, of ``recipe.start``, or of a checkpoint; in their places."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mmbert.data.bad_shards import BadShards
from mmbert.data.unigram import token_shares
from mmbert.errors import ConfigError, TrainingError
from mmbert.model.config import ModelConfig
from mmbert.model.heads import MaskedLM
from mmbert.model.init import init_weights
from mmbert.recipe import START, Recipe
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.training import checkpoint
from mmbert.training.checkpoint import State
from mmbert.training.cooccurrence_init import token_vectors
from mmbert.training.optim import StableAdamW, parameter_groups
from mmbert.training.phase_context import PhaseContext
from mmbert.training.run_folder import recipe_hash, versions

log = logging.getLogger(__name__)


def phase_config(recipe: Recipe, phase: str, tokenizer: Tokenizer) -> ModelConfig:
    """Return the model's shape with a phase's context and angles. Raises ConfigError for too small a vocabulary."""
    values = recipe.shape.model_dump()
    known = {key: value for key, value in values.items() if key in ModelConfig.model_fields}
    vocab_size = recipe.shape.vocab_size or tokenizer.vocab_size
    if vocab_size < tokenizer.vocab_size:
        raise ConfigError(
            f"model.vocab_size {vocab_size} is less than the tokenizer's {tokenizer.vocab_size}: leave it out"
        )
    now = recipe.phases[phase]
    ids = {f"{role}_id": getattr(tokenizer, f"{role}_id") for role in ("pad", "eos", "bos", "unk", "mask")}
    # Context and RoPE belong to the phase (mmBERT raises both between phases); weights are taken over unchanged.
    longest = max(now.context, recipe.shape.max_context or 0)
    return ModelConfig(**{**known, **ids, **now.rotary, "vocab_size": vocab_size, "max_context": longest})


def begin(ctx: PhaseContext, config: ModelConfig) -> tuple[MaskedLM, StableAdamW, State]:
    """Return what a phase's first step begins with: the end of the phase it follows, the start, or fresh weights."""
    recipe, parent = ctx.recipe, ctx.phase.follows
    state = State(ctx.name, recipe=recipe_hash(recipe), precision=ctx.precision, versions=versions())
    if parent is not None:
        end = ctx.mesh.run_on_main(lambda: checkpoint.latest(ctx.folder.parent / parent))
        # A phase that follows half of another one would depend on when that one was stopped.
        if end is None or not checkpoint.read_state(end).finished:
            raise TrainingError(f"phase {ctx.name} follows {parent}, which is not finished: train it first")
        check(end, ctx)
        model, optimizer, last = resume(ctx, config, end)
        if ctx.mesh.main:
            log.info("%s goes on from %s", ctx.name, end)
        # Moments go on over phases, so Adam's bias correction has to count the steps of all of them.
        return model, optimizer, replace(state, optimizer_step=last.optimizer_step, scaler=last.scaler)
    model = _empty(config)
    if recipe.start is None:
        init_weights(
            model, config, torch.Generator().manual_seed(recipe.seed), _shares(ctx, config), _vectors(ctx, config)
        )
    else:
        model.load_state_dict(MaskedLM.load(ctx.folder.parent / START).state_dict())
    # Weights are drawn whole, on the CPU and from one generator, before they are sharded: equal for any number of
    # ranks.
    return *_place(ctx, model), state


def resume(ctx: PhaseContext, config: ModelConfig, path: Path) -> tuple[MaskedLM, StableAdamW, State]:
    """Return model, optimiser and state of a checkpoint, in the phase's own configuration."""
    model, optimizer = _place(ctx, _empty(config))
    state = checkpoint.load(path, model, optimizer, ctx.mesh)
    if ctx.mesh.main and state.phase == ctx.name and not state.finished:
        log.info("%s goes on after step %d", ctx.name, state.cursor.step)
    return model, optimizer, state


def check(path: Path, ctx: PhaseContext) -> None:
    """Raises TrainingError if a checkpoint was made by another recipe than this one."""
    if checkpoint.read_state(path).recipe != recipe_hash(ctx.recipe):
        raise TrainingError(f"{path} was made by another recipe: give another --out, or delete {path.parent}")


def _shares(ctx: PhaseContext, config: ModelConfig) -> Tensor | None:
    """Return how often each token will be drawn, if the output bias is initialised from it."""
    if ctx.recipe.shape.initializer_bias == "uniform":
        return None
    return torch.from_numpy(token_shares(ctx.recipe, ctx.shards, config.vocab_size, _left_out(ctx)))


def _vectors(ctx: PhaseContext, config: ModelConfig) -> Tensor | None:
    """Return token vectors from co-occurrence counts, if the token embeddings are initialised from them."""
    if ctx.recipe.shape.initializer_embeddings == "normal":
        return None
    size = config.vocab_size, config.hidden_size
    return torch.from_numpy(ctx.mesh.run_on_main(lambda: token_vectors(ctx.shards, *size, _left_out(ctx))))


def _left_out(ctx: PhaseContext) -> set[str]:
    """Return the files of damaged shards that the run leaves out."""
    return {shard.file for shard in BadShards(ctx.folder.parent).shards}


def _place(ctx: PhaseContext, model: MaskedLM) -> tuple[MaskedLM, StableAdamW]:
    """Move the model to its device, or keep this rank's part of it, and make its optimiser."""
    options = ctx.recipe.optimizer
    model.to(ctx.mesh.device)
    model.tie()
    model.model.gradient_checkpointing = ctx.recipe.runtime.gradient_checkpointing
    ctx.mesh.shard(model, model.model.layers, forward="features")
    groups = parameter_groups(
        model, options.weight_decay, embeddings=options.decay_embeddings, embedding_lr=options.embedding_lr
    )
    optimizer = StableAdamW(groups, lr=ctx.phase.peak_lr, betas=(options.beta1, options.beta2), eps=options.eps)
    return model, optimizer


def _empty(config: ModelConfig) -> MaskedLM:
    """Return a model on the CPU whose weights are still to be written."""
    with torch.device("meta"):
        model = MaskedLM(config)
    # Leaving the meta device gives each name a tensor of its own, which parts the decoder from the embedding.
    model.to_empty(device="cpu")
    model.tie()
    return model
