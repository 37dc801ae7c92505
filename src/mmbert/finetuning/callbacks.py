"""Callbacks of a run: progress bar and log lines on stderr, curves, early stopping, the last evaluation."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback

from mmbert.files import is_main_process
from mmbert.finetuning.figures import summarise
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.log import progress
from mmbert.trackers import Tracker

log = logging.getLogger(__name__)

SPEED = ("runtime", "per_second", "preparation_time", "epoch")
"""What the trainer says of speed, at the end of names."""


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
        found = {key: value for key, value in (metrics or {}).items() if not key.endswith(SPEED)}
        if state.is_world_process_zero and all(key.startswith("eval_") for key in found):  # of dev, not of test
            line = summarise({key.removeprefix("eval_"): value for key, value in found.items()})
            log.info("step %d of %d, dev: %s", state.global_step, state.max_steps, line)

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Tracked(TrainerCallback):  # type: ignore[misc]
    """Sends what the trainer logs to an experiment tracker, as ``train/loss``, ``eval/f1`` and so on."""

    def __init__(self, wanted: str, recipe: FinetuneRecipe, folder: Path) -> None:
        self._open = partial(Tracker, wanted, folder, folder.resolve().name, group=recipe.name)
        self._config = recipe.model_dump(mode="json")
        self._tracker: Tracker | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._tracker = self._open(config=self._config)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **more: Any) -> None:
        if self._tracker is not None:
            named = {key.replace("eval_", "eval/", 1): value for key, value in (logs or {}).items()}
            self._tracker.log(
                {key if key.startswith("eval/") else f"train/{key}": value for key, value in named.items()},
                state.global_step,
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self._tracker is not None:
            self._tracker.close()
            self._tracker = None


class Patience(EarlyStoppingCallback):  # type: ignore[misc]
    """The trainer's early stopping, which says that it stops, why, and what is kept."""

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **more: Any) -> None:
        super().on_evaluate(args, state, control, metrics, **more)
        patient = self.early_stopping_patience_counter < self.early_stopping_patience
        if not patient and state.is_world_process_zero:  # a run that is at its last step stops as well
            metric = args.metric_for_best_model.removeprefix("eval_")
            log.info(
                "stopped at step %d of %d: %s has not risen above %.4f in the last %d evaluation%s (training.patience)",
                state.global_step, state.max_steps, metric, state.best_metric, self.early_stopping_patience,
                "" if self.early_stopping_patience == 1 else "s",
            )  # fmt: skip


def run_callbacks(recipe: FinetuneRecipe, folder: Path, own: Sequence[Any], *, dev: bool) -> list[Any]:
    """Return the callbacks of a run, those of the user (``own``) after ours.

    dev  whether there is one, which early stopping goes by
    """
    found: list[Any] = [LastEvaluation(dev), Progress(recipe.name)]
    if recipe.training.patience is not None and dev:
        found.append(Patience(recipe.training.patience))
    if is_main_process():
        curves = tensorboard_callback(folder / "tensorboard")
        found += [] if curves is None else [curves]
        found += [] if recipe.training.tracker is None else [Tracked(recipe.training.tracker, recipe, folder)]
    return [*found, *own]


def last_checkpoint(folder: Path) -> str | None:
    """Return the newest complete checkpoint to resume from; one whose writing was interrupted is removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    while found:
        newest = found.pop()
        if (newest / "trainer_state.json").is_file():  # the trainer writes it last
            log.info("resuming from %s", newest)
            return str(newest)
        if is_main_process():
            shutil.rmtree(newest)
    return None


def log_kept(state: Any, metric: str) -> None:
    """Log which checkpoint the tuned model is."""
    if state.best_metric is not None and state.is_world_process_zero:
        log.info("kept: step %d, the best on dev (%s %.4f)", state.best_global_step, metric, state.best_metric)


def tensorboard_callback(folder: Path) -> TrainerCallback | None:
    """Return the trainer's TensorBoard callback with a folder of ours; None if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    from transformers.integrations import TensorBoardCallback

    return TensorBoardCallback(SummaryWriter(str(folder)))
