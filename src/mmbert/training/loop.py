"""The training loop. One for all phases, exact and resumable: step after step is a function of the position."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple

import torch

from mmbert.data.loader import Loader
from mmbert.data.permute import key_of
from mmbert.data.steps import Step
from mmbert.errors import Spike
from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed
from mmbert.training import spike
from mmbert.training.checkpoint import State
from mmbert.training.loss import loss_sum
from mmbert.training.metrics_log import Meters
from mmbert.training.optim import StableAdamW, gradient_norm
from mmbert.training.phase_context import PhaseContext
from mmbert.training.process_state import garbage_by_hand, keep_memory, own_random_numbers, sigterm
from mmbert.training.saver import Saver
from mmbert.training.schedule import learning_rate

log = logging.getLogger(__name__)

_COLLECT_EVERY = 100
"""Steps between collections of garbage: on all ranks together, or each would make the others wait in its turn."""

Asked = Callable[[], bool]
"""Whether some rank wants to end here. All ranks ask at the same places."""


class StepResult(NamedTuple):
    """What a step of the optimiser is known by."""

    loss: float
    """Mean over all labels, nats."""
    norm: float
    """Of the gradient."""


def train_phase(ctx: PhaseContext, model: MaskedLM, optimizer: StableAdamW, state: State) -> State:
    """Train from ``state`` to the end of the phase; the last checkpoint is on disk, ``finished``.

    Raises NotFinite or Spike before the optimiser moves, unless ``runtime.on_spike`` has another answer, and
    TrainingError if a checkpoint cannot be written. On SIGTERM, to one rank or all, the step at hand is given up, a
    checkpoint of those before it saved, and SystemExit(0) raised: the same command goes on.
    """
    with ExitStack() as around:
        around.enter_context(own_random_numbers(ctx.mesh.device))
        around.enter_context(garbage_by_hand())
        keep_memory()
        stop = around.enter_context(sigterm())
        saver = around.enter_context(Saver(ctx))
        model.train()
        if ctx.recipe.runtime.on_spike == "rollback" and state.cursor.step == 0:
            saver.save(replace(state, due=False), model, optimizer)  # so that there is always one to go back to
        while not state.finished:
            state = _train(ctx, model, optimizer, state, saver, lambda: ctx.mesh.any(stop.is_set() or saver.failed))
        saver.wait()
        if ctx.mesh.any(stop.is_set()):
            raise _stopped(ctx, state)
    return state


def _train(
    ctx: PhaseContext, model: MaskedLM, optimizer: StableAdamW, state: State, saver: Saver, asked: Asked
) -> State:
    """Step after step until the phase ends, or a spike sends it back: the state to go on from."""
    runtime, saved = ctx.recipe.runtime, state
    with (
        Loader(ctx.steps(), state.cursor) as loader,
        Meters(ctx.folder, ctx.name, ctx.phase, state, every=runtime.log_every, main=ctx.mesh.main) as meters,
    ):
        for step in loader:
            rate = learning_rate(ctx.phase, state.cursor.tokens)
            try:
                result = train_step(ctx, model, optimizer, step, rate, state, asked)
            except Spike as error:
                return spike.answer(ctx, model, optimizer, saver, state, step, error)
            if result is None:
                saver.wait()  # if it was its failure that ended the step, this raises
                if state is not saved:
                    saver.save(replace(state, due=False), model, optimizer)
                    saver.wait()
                raise _stopped(ctx, state)
            last = step.cursor_after.tokens >= ctx.phase.tokens
            meters.record(step, result.loss, result.norm, rate, saving=saver.waited(), last=last)
            due = step.cursor_after.tokens // runtime.checkpoint_every > state.cursor.tokens // runtime.checkpoint_every
            state = replace(
                state, cursor=step.cursor_after, optimizer_step=state.optimizer_step + 1, finished=last,
                norms=(*state.norms, result.norm)[-spike.KEPT :], meters=meters.sums.to_json(),
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
    asked: Asked = bool,
) -> StepResult | None:
    """One step of the optimiser; None, and nothing changed, if some rank ``asked`` to end meanwhile.

    The sum of losses over all micro-batches and ranks is divided by all their labels: a mean of means would weigh
    a label by how few neighbours it has.
    Raises NotFinite or Spike before anything changed.
    """
    mesh, labels = ctx.mesh, max(1, step.labels)
    total = torch.zeros((), device=mesh.device)
    for place, packed in _passes(ctx, step, model):
        if asked():
            optimizer.zero_grad()
            return None
        if packed is not None:
            total += backward(ctx, model, step, place, packed, labels)
    mesh.sum_gradients(model.parameters())
    numbers = torch.stack([mesh.all_reduce_sum(total) / labels, gradient_norm(model.parameters())])
    result = StepResult(*numbers.tolist())
    try:
        spike.watch(ctx, state, result.loss, result.norm)
        optimizer.set_learning_rate(rate)
        optimizer.step()
    finally:
        optimizer.zero_grad()
    return result


def backward(ctx: PhaseContext, model: MaskedLM, step: Step, place: int, packed: Packed, labels: int) -> torch.Tensor:
    """Add the gradient of micro-batch ``place`` of a step; returns the sum of its losses."""
    device = ctx.mesh.device
    seed_dropout(ctx, step, place)
    with torch.autocast(device.type, torch.bfloat16, enabled=ctx.precision == "bf16"):
        loss = loss_sum(model, packed.to(device))
    (loss / labels).backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def seed_dropout(ctx: PhaseContext, step: Step, place: int) -> None:
    """Key dropout by the place of a micro-batch in the run: no state of a generator needs saving."""
    torch.manual_seed(key_of(ctx.recipe.seed_of(ctx.name), "dropout", ctx.name, step.index, place))


def _passes(ctx: PhaseContext, step: Step, model: MaskedLM) -> Iterator[tuple[int, Packed | None]]:
    """(place in the step, micro-batch) of each pass of this rank; equally many on all ranks.

    A rank that has fewer micro-batches than others sits the last pass out (None), or, where weights are sharded and the
    others need its parts, runs two tokens without a label.
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
        log.info("%s stopped after step %d, as asked; the same command goes on", ctx.name, state.cursor.step)
    return SystemExit(0)
