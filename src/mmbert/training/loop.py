"""The training loop of all phases. It is exact and resumable: each step is a function of its position in the data."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import NamedTuple

import torch
from torch.amp.grad_scaler import GradScaler

from mmbert.data.loader import Loader
from mmbert.data.permute import key_of
from mmbert.data.steps import Step
from mmbert.device import autocast
from mmbert.errors import Spike
from mmbert.memory import keep_memory
from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed
from mmbert.training import spike
from mmbert.training.checkpoint import State
from mmbert.training.loss import loss_sum
from mmbert.training.loss_scale import loss_scaler, move, overflowed, scaler_state
from mmbert.training.metrics_log import Meters
from mmbert.training.optim import StableAdamW, gradient_norm
from mmbert.training.phase_context import PhaseContext
from mmbert.training.process_state import garbage_by_hand, own_random_numbers, sigterm
from mmbert.training.saver import Saver
from mmbert.training.schedule import learning_rate

log = logging.getLogger(__name__)

_COLLECT_EVERY = 100
"""Steps between garbage collections, on all ranks at once: otherwise each rank would make the others wait in turn."""

ShouldStop = Callable[[], bool]
"""Returns whether some rank wants to stop. A collective operation: all ranks must call it at the same places."""


class StepResult(NamedTuple):
    """Loss and gradient norm of an optimiser step."""

    loss: float
    """Mean over all labels, nats."""
    norm: float
    """Euclidean norm of the gradient."""
    moved: bool = True
    """Whether the optimiser moved: not if the scaled gradients overflowed in fp16."""


def train_phase(ctx: PhaseContext, model: MaskedLM, optimizer: StableAdamW, state: State) -> State:
    """Train from ``state`` to the end of the phase; then the last checkpoint is on disk, marked as finished.

    Raises NotFinite or Spike before the optimiser moves, unless ``runtime.on_spike`` is ``rollback``, and TrainingError
    if a checkpoint cannot be written. On SIGTERM, to one rank or all, the current step is dropped, the state before it
    is saved, and SystemExit(0) is raised: the same command resumes.
    """
    with ExitStack() as around:
        around.enter_context(own_random_numbers(ctx.mesh.device))
        around.enter_context(garbage_by_hand())
        keep_memory()
        stop = around.enter_context(sigterm())
        saver = around.enter_context(Saver(ctx))
        model.train()
        if ctx.recipe.runtime.on_spike == "rollback" and state.cursor.step == 0:
            saver.save(replace(state, due=False), model, optimizer)  # a rollback needs a checkpoint
        while not state.finished:
            state = _train(ctx, model, optimizer, state, saver, lambda: ctx.mesh.any(stop.is_set() or saver.failed))
        saver.wait()
        if ctx.mesh.any(stop.is_set()):
            raise _stopped(ctx, state)
    return state


def _train(
    ctx: PhaseContext, model: MaskedLM, optimizer: StableAdamW, state: State, saver: Saver, should_stop: ShouldStop
) -> State:
    """Train until the phase ends or a spike sends it back; return the state to continue from."""
    runtime, saved = ctx.recipe.runtime, state
    scaler = loss_scaler(ctx.mesh.device, ctx.precision, state)
    with (
        Loader(ctx.steps(), state.cursor) as loader,
        Meters(
            ctx.folder, ctx.name, ctx.phase, state, every=runtime.log_every, main=ctx.mesh.main, tracker=ctx.tracker()
        ) as meters,
    ):
        for step in loader:
            # By tokens seen before the step, from the cursor: a resumed run computes the same rate.
            rate = learning_rate(ctx.phase, state.cursor.tokens)
            try:
                result = train_step(ctx, model, optimizer, step, rate, state, should_stop, scaler)
            except Spike as error:
                return spike.handle(ctx, model, optimizer, saver, state, step, error)
            if result is None:
                saver.wait()  # raises if a failed checkpoint is why the step was dropped
                if state is not saved:
                    saver.save(replace(state, due=False), model, optimizer)
                    saver.wait()
                raise _stopped(ctx, state)
            # The last batch may reach beyond the phase's tokens; steps are whole.
            last = step.cursor_after.tokens >= ctx.phase.tokens
            meters.record(step, result.loss, result.norm, rate, saving=saver.waited(), last=last)
            # Due by tokens, not by steps or time: the same checkpoints exist wherever a run was stopped.
            due = step.cursor_after.tokens // runtime.checkpoint_every > state.cursor.tokens // runtime.checkpoint_every
            state = replace(
                state, cursor=step.cursor_after, optimizer_step=state.optimizer_step + result.moved, finished=last,
                norms=(*state.norms, *([result.norm] if result.moved else ()))[-spike.KEPT :],
                meters=asdict(meters.sums), overflows=state.overflows + (not result.moved),
                scaler=scaler_state(scaler),
            )  # fmt: skip
            if due or last:
                saver.save(state, model, optimizer)
                saved = state
            if step.index % _COLLECT_EVERY == 0:
                gc.collect()
    return state


def train_step(
    ctx: PhaseContext,
    model: MaskedLM,
    optimizer: StableAdamW,
    step: Step,
    rate: float,
    state: State,
    should_stop: ShouldStop = bool,
    scaler: GradScaler | None = None,
) -> StepResult | None:
    """Do one optimiser step. Returns None, with nothing changed, if some rank is to stop meanwhile.

    The sum of losses over all micro-batches and ranks is divided by the number of all their labels. In a mean of means
    a label would weigh more the fewer labels its micro-batch has. Raises NotFinite or Spike before anything changed.
    With ``scaler`` (fp16) a step whose gradients overflow leaves the weights as they are and lowers the scale.
    """
    scale = scaler.get_scale() if scaler is not None else 1.0
    mesh, labels = ctx.mesh, max(1, step.labels)
    total = torch.zeros((), device=mesh.device)
    for place, packed in _passes(ctx, step, model):
        if should_stop():
            optimizer.zero_grad()
            return None
        if packed is not None:
            total += backward(ctx, model, step, place, packed, labels, scale)
    mesh.sum_gradients(model.parameters())
    if scaler is not None:
        scaler.unscale_(optimizer)  # of the sum over ranks, so that all ranks find the same overflow
    # One transfer for both numbers: reading them separately would stop the accelerator's queue twice.
    numbers = torch.stack([mesh.all_reduce_sum(total) / labels, gradient_norm(model.parameters())])
    result = StepResult(*numbers.tolist())
    try:
        if scaler is not None and overflowed(model.parameters(), result.loss, result.norm, scale):
            result = result._replace(moved=False)
        else:
            spike.check(ctx, state, result.loss, result.norm)
        optimizer.set_learning_rate(rate)
        move(optimizer, scaler)
    finally:
        optimizer.zero_grad()
    return result


def backward(
    ctx: PhaseContext, model: MaskedLM, step: Step, place: int, packed: Packed, labels: int, scale: float = 1.0
) -> torch.Tensor:
    """Add the gradient of micro-batch ``place`` of a step, and return the sum of its losses.

    The loss of a micro-batch is divided by the labels of the whole step, so gradients only have to be added. They are
    ``scale`` times too large, which keeps small ones from vanishing in fp16.
    """
    device = ctx.mesh.device
    seed_dropout(ctx, step, place)
    with autocast(device, ctx.precision):
        loss = loss_sum(model, packed.to(device))
    (loss / labels * scale).backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def seed_dropout(ctx: PhaseContext, step: Step, place: int) -> None:
    """Seed dropout by the position of a micro-batch in the run, so that checkpoints hold no generator's state."""
    torch.manual_seed(key_of(ctx.recipe.seed_of(ctx.name), "dropout", ctx.name, step.index, place))


def _passes(ctx: PhaseContext, step: Step, model: MaskedLM) -> Iterator[tuple[int, Packed | None]]:
    """Yield (index in the step, micro-batch) of each pass of this rank; equally many on all ranks.

    Rank r has the micro-batches r, r + world, ... A rank with fewer of them than others skips the last pass (None), or,
    where weights are sharded and the other ranks need its shards, runs two tokens without a label, whose loss is 0.
    """
    mesh, mine = ctx.mesh, step.micro_batches
    for number in range(-(-step.tokens // ctx.phase.micro_batch // mesh.world)):
        idle = _unlabelled(model.config.bos_id, model.config.eos_id) if mesh.sharded else None
        yield mesh.rank + number * mesh.world, mine[number] if number < len(mine) else idle


def _unlabelled(*ids: int) -> Packed:
    nothing = torch.zeros(0, dtype=torch.int64)
    return replace(Packed.from_lists([ids]), targets=nothing, labels=nothing)


def _stopped(ctx: PhaseContext, state: State) -> SystemExit:
    if ctx.mesh.main:
        log.info("%s stopped after step %d, as asked; the same command resumes it", ctx.name, state.cursor.step)
    return SystemExit(0)
