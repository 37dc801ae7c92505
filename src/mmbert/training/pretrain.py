"""Train all phases of a recipe, in the order of their tree; each starts from the end of the one it follows.

runs/<name>/recipe.yaml, environment.json          what is run, and on what
runs/<name>/<phase>/metrics.jsonl, tensorboard/    how it went
runs/<name>/<phase>/step-000123/                   checkpoints; the last one is where followers start
runs/<name>/<phase>/spike.json, spike/             a step that must not reach the weights, see ``spike.py``
runs/<name>/<phase>/final/                         the model in Hugging Face form
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from mmbert.data.bad_shards import record_bad_shards
from mmbert.errors import ConfigError
from mmbert.files import damage
from mmbert.locks import lock_folder
from mmbert.model.encoder import compile_model
from mmbert.recipe import Recipe, TokenizerTraining
from mmbert.start_model import resolve
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.training import checkpoint
from mmbert.training.build import begin, check, phase_config, resume
from mmbert.training.distributed import Mesh, connect
from mmbert.training.export import as_model, export
from mmbert.training.loop import train_phase
from mmbert.training.phase_context import PhaseContext
from mmbert.training.run_folder import open_run, settle_environment
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
    # Before the hash of the recipe is taken: what the start determines (shape, tokenizer) is part of the run.
    recipe = resolve(recipe)
    runtime = recipe.runtime
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    with connect(runtime.device, runtime.parallel, runtime.timeout) as mesh:
        # Phases that follow the same one may train at once, each on machines of its own: only the start is exclusive.
        with _locked(mesh, folder, wait=60.0):
            mesh.run_on_main(lambda: open_run(recipe, folder))
            skip = runtime.on_bad_shard == "skip"
            mesh.run_on_main(lambda: record_bad_shards(data / "shards", folder, verify=runtime.verify, skip=skip))
            tokenizer = run_tokenizer(recipe, data)
            mesh.run_on_main(lambda: open_start(recipe, folder, tokenizer))
            precision = settle_environment(runtime, recipe.shape.hidden_size, mesh, folder)
            if precision == "fp16" and mesh.sharded:
                # each rank would see overflows in its own shards only, and the ranks would part
                raise ConfigError(
                    "fp16 trains with runtime.parallel ddp, not fsdp: take ddp, or runtime.precision fp32"
                )
        ends: dict[str, Path] = {}
        for name in chosen:
            with _locked(mesh, folder / name):
                ctx = PhaseContext(recipe, name, folder / name, data / "shards", tokenizer, mesh, precision)
                ends[name] = run_phase(ctx)
                if after_phase is not None and mesh.main:
                    after_phase(name, ends[name])
                # Without it other ranks would begin the next phase, and time out while the first one evaluates.
                mesh.barrier()
    return ends


@contextmanager
def _locked(mesh: Mesh, folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold a folder for all processes of a run; an error of the main one, which takes the lock, ends them all."""
    with ExitStack() as stack:
        mesh.run_on_main(lambda: stack.enter_context(lock_folder(folder, wait=wait)))
        yield


def run_phase(ctx: PhaseContext) -> Path:
    """Train one phase, or what is left of it; returns the folder of its final model."""
    mesh, final = ctx.mesh, ctx.folder / FINAL
    newest = mesh.run_on_main(lambda: checkpoint.latest(ctx.folder))
    if newest is not None:
        # Also for a finished phase: its model would otherwise pass for one of another recipe.
        check(newest, ctx)
        if checkpoint.read_state(newest).finished and mesh.run_on_main(lambda: _is_whole(final)):
            if mesh.main:
                log.info("%s is finished: %s", ctx.name, final)
            return final
    ctx.folder.mkdir(parents=True, exist_ok=True)
    config = phase_config(ctx.recipe, ctx.name, ctx.tokenizer)
    # A finished phase without its final folder was killed between the two: it is exported again, not trained.
    if newest is None or not checkpoint.read_state(newest).finished:
        model, optimizer, state = begin(ctx, config) if newest is None else resume(ctx, config, newest)
        if ctx.recipe.runtime.compile:
            compile_model(model)
        newest = checkpoint.path_of(ctx.folder, train_phase(ctx, model, optimizer, state))
    end = newest
    return mesh.run_on_main(lambda: export(end, final))


def _is_whole(final: Path) -> bool:
    """Return whether a phase's model is there and undamaged; else it is written again from the last checkpoint."""
    if not final.is_dir():
        return False
    fault = damage(final)
    if fault is not None:
        log.warning("%s is damaged (%s): writing it again from the last checkpoint", final, fault)
    return fault is None


def run_tokenizer(recipe: Recipe, data: Path) -> Tokenizer:
    """Return the tokenizer of a run: named in the recipe, or trained by ``prepare_data``."""
    named = recipe.vocabulary
    return Tokenizer.load(data / "tokenizer" if isinstance(named, TokenizerTraining) else named)


def checkpoints_of(folder: Path) -> list[Path]:
    """Return the models of a finished phase for merging, oldest first: checkpoints before the end, then ``final``.

    Only those whose turn had come: where a run was stopped changes nothing.
    """
    states = {path: checkpoint.read_state(path) for path in checkpoint.checkpoints(folder)}
    # The last checkpoint is ``final`` itself, so it is not taken twice.
    before = [as_model(path) for path, state in states.items() if state.due and not state.finished]
    return [*before, folder / FINAL]
