"""All phases of a recipe, in the order of their tree; each goes on from the end of the one it follows.

runs/<name>/recipe.yaml, environment.json          what is run, and on what
runs/<name>/<phase>/metrics.jsonl, tensorboard/    how it went
runs/<name>/<phase>/step-000123/                   checkpoints; the last one is where followers start
runs/<name>/<phase>/final/                         the model in Hugging Face form
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mmbert.data.manifest import Manifest
from mmbert.errors import ConfigError, TrainingError
from mmbert.files import atomic_folder
from mmbert.model.config import ModelConfig
from mmbert.model.encoder import compile_model
from mmbert.model.heads import MaskedLM
from mmbert.model.init import init_weights
from mmbert.recipe import START, Recipe, TokenizerTraining
from mmbert.start import resolve
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.training import checkpoint
from mmbert.training.checkpoint import State
from mmbert.training.distributed import connect
from mmbert.training.folder import open_run, recipe_hash, settle_environment, versions
from mmbert.training.loop import Job, train_phase
from mmbert.training.optim import StableAdamW, parameter_groups
from mmbert.training.start import open_start

log = logging.getLogger(__name__)

FINAL = "final"

AfterPhase = Callable[[str, Path], object]
"""Called with the name and the final folder of each phase, on the first process only."""


def pretrain(
    recipe: Recipe,
    folder: Path,
    data: Path,
    *,
    phases: Sequence[str] | None = None,
    after_phase: AfterPhase | None = None,
) -> dict[str, Path]:
    """Train the phases of a recipe, or what is left of them; returns phase -> folder of its final model.

    folder       the run's
    data         what ``prepare_data`` made: ``shards``, and ``tokenizer`` if the recipe trains one
    phases       only these; what they follow must be finished
    after_phase  called after each phase, also one that was finished before, so it must know what it has done already
    Raises TrainingError if the recipe changed since the run began, NotFinite as ``train_phase`` does.
    """
    unknown = [name for name in phases or () if name not in recipe.phases]
    if unknown:
        raise ConfigError(f"no phase {unknown[0]} in {recipe.name}: it has {', '.join(recipe.phases)}")
    chosen = [name for name in recipe.order() if phases is None or name in phases]
    recipe = resolve(recipe)
    runtime = recipe.runtime
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    with connect(runtime.device) as mesh:
        mesh.check(runtime.parallel)
        if mesh.main:
            open_run(recipe, folder)
            Manifest.load(data / "shards", verify=runtime.verify)
        mesh.barrier()
        tokenizer = run_tokenizer(recipe, data)
        open_start(recipe, folder, tokenizer, mesh)
        precision = settle_environment(runtime, recipe.shape.hidden_size, mesh, folder)
        ends: dict[str, Path] = {}
        for name in chosen:
            job = Job(recipe, name, folder / name, data / "shards", tokenizer, mesh, precision)
            ends[name] = run_phase(job)
            if after_phase is not None and mesh.main:
                after_phase(name, ends[name])
            mesh.barrier()
    return ends


def run_phase(job: Job) -> Path:
    """Train one phase, or what is left of it; returns the folder of its final model."""
    final = job.folder / FINAL
    newest = checkpoint.latest(job.folder)
    if newest is not None:
        _check(newest, job)
        if final.is_dir() and checkpoint.read_state(newest).finished:
            log.info("%s is finished: %s", job.name, final)
            return final
    job.folder.mkdir(parents=True, exist_ok=True)
    config = phase_config(job.recipe, job.name, job.tokenizer)
    model, optimizer, state = _resume(job, config, newest) if newest else _begin(job, config)
    if not state.finished:
        if job.recipe.runtime.compile:
            compile_model(model)
        train_phase(job, model, optimizer, state)
    if job.mesh.main:
        with atomic_folder(final) as partial:
            model.save(partial)
            job.tokenizer.save(partial, max_tokens=config.max_context)
    return final


def phase_config(recipe: Recipe, phase: str, tokenizer: Tokenizer) -> ModelConfig:
    """The model's shape with the context and angles of a phase. Raises ConfigError if the vocabulary is too small."""
    values = recipe.shape.model_dump()
    known = {key: value for key, value in values.items() if key in ModelConfig.model_fields}
    vocab_size = recipe.shape.vocab_size or tokenizer.vocab_size
    if vocab_size < tokenizer.vocab_size:
        raise ConfigError(
            f"model.vocab_size {vocab_size} is less than the tokenizer's {tokenizer.vocab_size}: leave it out"
        )
    now = recipe.phases[phase]
    ids = {f"{role}_id": getattr(tokenizer, f"{role}_id") for role in ("pad", "eos", "bos", "unk", "mask")}
    angles = {"rope_theta": now.rope_theta, "local_rope_theta": now.local_rope_theta or now.rope_theta}
    longest = max(now.context, recipe.shape.max_context or 0)
    return ModelConfig(**{**known, **ids, **angles, "vocab_size": vocab_size, "max_context": longest})


def run_tokenizer(recipe: Recipe, data: Path) -> Tokenizer:
    """The tokenizer of a run: named in the recipe, or trained by ``prepare_data``."""
    named = recipe.vocabulary
    return Tokenizer.load(data / "tokenizer" if isinstance(named, TokenizerTraining) else named)


def checkpoints_of(folder: Path) -> list[Path]:
    """Models of a finished phase's folder, oldest first, for merging: checkpoints before the end, then ``final``."""
    before = [path for path in checkpoint.checkpoints(folder) if not checkpoint.read_state(path).finished]
    return [*before, folder / FINAL]


def _begin(job: Job, config: ModelConfig) -> tuple[MaskedLM, StableAdamW, State]:
    """Weights for a phase's first step: those of the phase it follows, of ``recipe.start``, or fresh ones."""
    recipe, parent = job.recipe, job.phase.follows
    state = State(job.name, recipe=recipe_hash(recipe), precision=job.precision, versions=versions())
    if parent is not None:
        end = checkpoint.latest(job.folder.parent / parent)
        if end is None or not checkpoint.read_state(end).finished:
            raise TrainingError(f"phase {job.name} follows {parent}, which is not finished: train it first")
        _check(end, job)
        model, optimizer, last = _resume(job, config, end)
        log.info("%s goes on from %s", job.name, end)
        return model, optimizer, State(
            state.phase, optimizer_step=last.optimizer_step, recipe=state.recipe, precision=state.precision,
            versions=state.versions,
        )  # fmt: skip
    model = _empty(config)
    if recipe.start is None:
        init_weights(model, config, torch.Generator().manual_seed(recipe.seed))
    else:
        model.load_state_dict(MaskedLM.load(job.folder.parent / START).state_dict())
    return *_place(job, model), state


def _resume(job: Job, config: ModelConfig, path: Path) -> tuple[MaskedLM, StableAdamW, State]:
    """Model, optimiser and place of a checkpoint, in the phase's own configuration."""
    model, optimizer = _place(job, _empty(config))
    state = checkpoint.load(path, model, optimizer)
    if state.phase == job.name and not state.finished:
        log.info("%s goes on after step %d", job.name, state.cursor.step)
    return model, optimizer, state


def _place(job: Job, model: MaskedLM) -> tuple[MaskedLM, StableAdamW]:
    """The model on its device, and an optimiser for it."""
    options = job.recipe.optimizer
    model.to(job.mesh.device)
    model.tie()
    model.model.gradient_checkpointing = job.recipe.runtime.gradient_checkpointing
    groups = parameter_groups(model, options.weight_decay)
    optimizer = StableAdamW(groups, lr=job.phase.peak_lr, betas=(options.beta1, options.beta2), eps=options.eps)
    return model, optimizer


def _empty(config: ModelConfig) -> MaskedLM:
    """A model on the CPU whose weights are still to be written."""
    with torch.device("meta"):
        model = MaskedLM(config)
    model.to_empty(device="cpu")
    model.tie()
    return model


def _check(path: Path, job: Job) -> None:
    """Raises TrainingError if a checkpoint was made by another recipe than this one."""
    if checkpoint.read_state(path).recipe != recipe_hash(job.recipe):
        raise TrainingError(f"{path} was made by another recipe: give another --out, or delete {path.parent}")
