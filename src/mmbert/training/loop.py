"""The training loop. One for all phases, exact and resumable: step after step is a function of the position."""

from __future__ import annotations

import gc
import logging
import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mmbert.data.loader import Loader
from mmbert.data.pack import Cursor
from mmbert.data.permute import key_of
from mmbert.data.steps import Step, Steps
from mmbert.errors import NotFinite
from mmbert.model.heads import MaskedLM
from mmbert.recipe import Phase, Recipe
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.training import checkpoint
from mmbert.training.checkpoint import State
from mmbert.training.distributed import Mesh
from mmbert.training.loss import loss_sum
from mmbert.training.meters import Meters
from mmbert.training.optim import StableAdamW, gradient_norm
from mmbert.training.schedule import learning_rate

log = logging.getLogger(__name__)

_COLLECT_EVERY = 100
"""Steps between collections of garbage: on all ranks together, or each would make the others wait in its turn."""


@dataclass(frozen=True)
class Job:
    """One phase of one run, and where and how it runs."""

    recipe: Recipe
    name: str
    """Of the phase."""
    folder: Path
    """Of the phase: checkpoints, metrics, final model."""
    shards: Path
    tokenizer: Tokenizer
    mesh: Mesh
    precision: str

    @property
    def phase(self) -> Phase:
        return self.recipe.phases[self.name]

    @property
    def keep(self) -> int:
        """Checkpoints to keep: the newest and ``runtime.keep`` before it, more if they will be averaged."""
        merge = self.recipe.merge
        averaged = merge.checkpoints if merge and merge.method == "average" and self.name in merge.phases else 0
        return max(self.recipe.runtime.keep + 1, averaged)


def train_phase(job: Job, model: MaskedLM, optimizer: StableAdamW, state: State) -> State:
    """Train from ``state`` to the end of the phase; the last checkpoint is saved, ``finished``.

    Raises NotFinite before the optimiser moves. On SIGTERM the step at hand is finished, a checkpoint saved, and
    SystemExit(0) raised: the same command goes on.
    """
    mesh, runtime, cursor = job.mesh, job.recipe.runtime, state.cursor
    model.train()
    with (
        Loader(Steps(job.recipe, job.name, job.shards, job.tokenizer, mesh), cursor) as loader,
        Meters(
            job.folder, job.name, job.phase, every=runtime.log_every, step=cursor.step, tokens=cursor.tokens,
            sums=state.meters, main=mesh.main,
        ) as meters,
        _sigterm() as stop,
        _own_random_numbers(mesh),
        _garbage_by_hand(),
    ):  # fmt: skip
        for step in loader:
            rate = learning_rate(job.phase, state.cursor.tokens)
            loss, norm = train_step(job, model, optimizer, step, rate, state.cursor)
            last = step.cursor_after.tokens >= job.phase.tokens
            meters.record(step, loss, norm, rate, last=last)
            stopped = mesh.all_reduce_sum(torch.tensor(int(stop.is_set()), device=mesh.device)).item() > 0
            due = step.cursor_after.tokens // runtime.checkpoint_every > state.cursor.tokens // runtime.checkpoint_every
            state = replace(
                state, cursor=step.cursor_after, optimizer_step=state.optimizer_step + 1, finished=last,
                meters=meters.sums.to_json(),
            )  # fmt: skip
            if due or stopped or last:
                _save(job, state, model, optimizer)
            if stopped:
                log.info("%s stopped after step %d, as asked; the same command goes on", job.name, state.cursor.step)
                raise SystemExit(0)
            if step.index % _COLLECT_EVERY == 0:
                gc.collect()
    return state


def train_step(
    job: Job, model: MaskedLM, optimizer: StableAdamW, step: Step, rate: float, cursor: Cursor
) -> tuple[float, float]:
    """One step of the optimiser; returns the mean loss over all labels (nats) and the norm of the gradient.

    The sum of losses over all micro-batches and ranks is divided by all their labels: a mean of means would weigh
    a label by how few neighbours it has. Dropout is keyed by the place of the micro-batch in the run.
    """
    mesh, labels = job.mesh, max(1, step.labels)
    total = torch.zeros((), device=mesh.device)
    for number, packed in enumerate(step.micro_batches):
        place = mesh.rank + number * mesh.world
        torch.manual_seed(key_of(job.recipe.seed, "dropout", job.name, step.index, place))
        with torch.autocast(mesh.device.type, torch.bfloat16, enabled=job.precision == "bf16"):
            loss = loss_sum(model, packed.to(mesh.device))
        (loss / labels).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    mesh.sum_gradients(model.parameters())
    loss, norm = torch.stack([mesh.all_reduce_sum(total) / labels, gradient_norm(model.parameters())]).tolist()
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise NotFinite(_not_finite(job, cursor, loss, norm))
    optimizer.set_learning_rate(rate)
    optimizer.step()
    optimizer.zero_grad()
    return loss, norm


def _save(job: Job, state: State, model: MaskedLM, optimizer: StableAdamW) -> None:
    if job.mesh.main:
        checkpoint.save(job.folder, state, model, optimizer, job.tokenizer)
        checkpoint.prune(job.folder, job.keep)
    job.mesh.barrier()


def _not_finite(job: Job, cursor: Cursor, loss: float, norm: float) -> str:
    return (
        f"loss {loss} and gradient norm {norm} in phase {job.name} at step {cursor.step} (draw {cursor.draw}, offset "
        f"{cursor.offset}); no weight was changed: lower phases.{job.name}.peak_lr, or try runtime.precision=fp32"
    )


@contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets instead of ending the process. Elsewhere than in the main thread it stays as it is."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _own_random_numbers(mesh: Mesh) -> Iterator[None]:
    """Leave the caller's random numbers as they were: dropout seeds torch's global generator."""
    with torch.random.fork_rng([mesh.device] if mesh.device.type == "cuda" else []):
        yield


@contextmanager
def _garbage_by_hand() -> Iterator[None]:
    """Collect garbage when the loop says so; graphs and batches are freed by counting anyway."""
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()
