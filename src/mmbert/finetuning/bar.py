"""The house's progress bar in the trainers' hands."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from mmbert.log import progress


class Bar(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Steps done, with the loss and what was measured last, on stderr; of the first process alone."""

    def __init__(self) -> None:
        self._bar: progress[int] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self._bar = progress(
                total=state.max_steps, desc="training", unit="step", initial=state.global_step
            ).__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._bar is not None:
            self._bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        shown = {name: f"{logs[name]:.4g}" for name in ("loss", "eval_score") if logs and name in logs}
        if self._bar is not None and shown:
            self._bar.note(**shown)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None
