"""What a run tells while the trainer trains: a bar and log lines on stderr, curves for TensorBoard."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from mmbert.log import progress

log = logging.getLogger(__name__)

SAID = 12
"""Numbers of an evaluation that a line of the log has room for; hundreds of languages have three each."""


class LastEvaluation(TrainerCallback):  # type: ignore[misc]
    """The last step is evaluated and saved, whatever it is a multiple of."""

    def __init__(self, judged: bool) -> None:
        self._judged = judged

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = self._judged
            control.should_save = True


class Progress(TrainerCallback):  # type: ignore[misc]
    """The package's own bar: the trainer's writes to stdout, where data goes."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: progress[Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.is_world_process_zero:
            self._bar = progress(total=state.max_steps, initial=state.global_step, desc=self._name, unit="step")

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self._bar is not None:
            self._bar.update()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **more: Any) -> None:
        if self._bar is not None and logs is not None and "loss" in logs:
            self._bar.note(loss=f"{logs['loss']:.4f}")

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **more: Any
    ) -> None:
        if state.is_world_process_zero:
            speed = ("runtime", "per_second", "preparation_time", "epoch")
            said = [
                f"{key.partition('_')[2]} {value:.4f}"
                for key, value in (metrics or {}).items()
                if not key.endswith(speed)
            ]
            more_of_them = [f"{len(said) - SAID} more"] if len(said) > SAID else []
            log.info("step %d: %s", state.global_step, ", ".join([*said[:SAID], *more_of_them]))

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def tensorboard(folder: Path) -> TrainerCallback | None:
    """The trainer's TensorBoard callback with a folder of ours; None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    from transformers.integrations import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(str(folder)))
