"""Detect a loss or gradient that must not reach the weights, before the optimiser moves; record it; act on it.

``runtime.on_spike`` says how. ``stop``: the run ends with the weights of that moment in ``<phase>/spike``, and
``mmbert pretrain RECIPE --replay`` repeats exactly this step. ``rollback``: the run goes back to the last checkpoint
and continues with the data after the spike. Steps and tokens, and with them the learning rate, are those of the
checkpoint; only the position in the data moves on. So the data in between are not trained on, and the phase has as many
steps as before.

Everything here depends on sums over all ranks, so that all ranks decide alike, and on nothing that a checkpoint does
not hold: a run that is killed after a rollback and started again meets the same spike and does the same.
"""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from mmbert.data.pack import Cursor
from mmbert.data.steps import Step
from mmbert.errors import NotFinite, Spike, TrainingError
from mmbert.files import read_json, write_json
from mmbert.model.heads import MaskedLM
from mmbert.training import checkpoint
from mmbert.training.checkpoint import State
from mmbert.training.optim import StableAdamW
from mmbert.training.phase_context import PhaseContext
from mmbert.training.saver import Saver

log = logging.getLogger(__name__)

RECORD = "spike.json"
WEIGHTS = "spike"
"""Folder beside it, in the form of a checkpoint."""
KEPT = 64
"""Norms remembered."""
ENOUGH = 16
"""Norms that must be known before one can be called too large."""
PATIENCE = 3
"""Rollbacks to one and the same checkpoint. If the spike comes back with other data, the data is not the cause."""


@dataclass(frozen=True)
class SpikeRecord:
    """``spike.json``: where it was, and what replaying it needs."""

    phase: str
    cursor: Cursor
    """Where the step begins."""
    loss: float
    norm: float
    usual: float | None
    """Median of the norms before it, null while too few are known."""
    seed: int
    precision: str
    message: str

    def save(self, folder: Path) -> None:
        """Write JSON; what is not finite becomes text (``nan``, ``inf``)."""
        # JSON has no NaN or infinity; ``load`` reads these texts back with float().
        values = asdict(self)
        numbers = {key: str(values[key]) for key in ("loss", "norm") if not math.isfinite(values[key])}
        write_json(folder / RECORD, {**values, **numbers})

    @classmethod
    def load(cls, folder: Path) -> SpikeRecord:
        """Raises MMBertError if there is none."""
        values: dict[str, Any] = read_json(folder / RECORD)
        return cls(**{
            **values, "cursor": Cursor(**values["cursor"]),
            "loss": float(values["loss"]), "norm": float(values["norm"]),
        })  # fmt: skip


def usual_norm(norms: tuple[float, ...]) -> float | None:
    """Return the median of the last norms; None while too few are known."""
    return median(norms) if len(norms) >= ENOUGH else None


def check(ctx: PhaseContext, state: State, loss: float, norm: float) -> None:
    """Raises NotFinite for a loss or norm that is no number, Spike for a norm too large by ``runtime.spike_norm``."""
    # A median is not moved by the spikes themselves, and NaN never enters it: such a step raises first.
    cursor, usual, factor = state.cursor, usual_norm(state.norms), ctx.recipe.runtime.spike_norm
    place = f"in phase {ctx.name} at step {cursor.step} (draw {cursor.draw}, offset {cursor.offset})"
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise NotFinite(
            f"loss {loss} and gradient norm {norm} {place}; no weight was changed: look at the batch with --replay, "
            f"lower phases.{ctx.name}.peak_lr, try runtime.precision=fp32, or skip it with runtime.on_spike=rollback",
            loss, norm,
        )  # fmt: skip
    if factor is not None and usual is not None and norm > factor * usual:
        raise Spike(
            f"gradient norm {norm:.4g}, usually {usual:.4g}, {place}; no weight was changed: look at the batch with "
            "--replay, raise runtime.spike_norm, or skip it with runtime.on_spike=rollback",
            loss, norm,
        )  # fmt: skip


def handle(
    ctx: PhaseContext, model: MaskedLM, optimizer: StableAdamW, saver: Saver, state: State, step: Step, spike: Spike
) -> State:
    """Return the state to continue from after ``spike`` at ``step`` (``state``: before it), or raise it again."""
    saver.wait()
    if ctx.mesh.main:
        usual, seed = usual_norm(state.norms), ctx.recipe.seed_of(ctx.name)
        SpikeRecord(
            ctx.name, state.cursor, spike.loss, spike.norm, usual, seed, ctx.precision, str(spike)
        ).save(ctx.folder)  # fmt: skip
    if ctx.recipe.runtime.on_spike == "rollback":
        return _go_back(ctx, model, optimizer, state, step, spike)
    # No weight has moved yet, so these are exactly the weights that the spike was computed with.
    try:
        saver.save(state, model, optimizer, ctx.folder / WEIGHTS)
        saver.wait()
    except TrainingError as error:
        log.warning("%s; replay will take the weights of a checkpoint before", error)
    raise spike


def _go_back(
    ctx: PhaseContext, model: MaskedLM, optimizer: StableAdamW, state: State, step: Step, spike: Spike
) -> State:
    # One rank looks and all use its answer: on a network disk another rank may not see the newest folder yet.
    newest = ctx.mesh.run_on_main(lambda: checkpoint.latest(ctx.folder))
    if newest is None:
        raise spike
    back = checkpoint.load(newest, model, optimizer, ctx.mesh)
    # Both counts grow over the whole phase; their difference is what happened since this checkpoint was written.
    if state.rollbacks - back.rollbacks >= PATIENCE:
        raise type(spike)(f"{spike}; {PATIENCE} times back to {newest} did not help", spike.loss, spike.norm) from spike
    skipped = step.index + 1 - back.cursor.step
    if ctx.mesh.main:
        log.warning("%s: going back to %s and past the data of %d steps", spike, newest, skipped)
    # The draw and the offset are those behind the spike, the clocks those of the checkpoint.
    after = replace(step.cursor_after, step=back.cursor.step, tokens=back.cursor.tokens)
    return replace(
        back, cursor=after, rollbacks=state.rollbacks + 1, skipped_steps=state.skipped_steps + skipped, finished=False,
    )  # fmt: skip
