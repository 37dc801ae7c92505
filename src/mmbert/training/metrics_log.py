"""Metrics of a run while it trains: a progress bar, a line of ``metrics.jsonl`` every few steps, TensorBoard's files,
and an experiment tracker where the recipe names one.

A line covers the steps since the previous one. The sums for the next line are part of a checkpoint, and lines after a
checkpoint are dropped when training resumes from it: a run that was killed leaves the same lines as one that was not,
except for times.
"""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mmbert.data.steps import Step
from mmbert.files import disk_errors, write_text
from mmbert.log import progress
from mmbert.recipe import Phase
from mmbert.trackers import Tracker
from mmbert.training.checkpoint import State

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
CURVES = ("loss", "learning_rate", "grad_norm", "mask_rate", "tokens_per_second", "batch")
"""What is drawn of a line."""


@dataclass
class Sums:
    """Over the steps since the last line; ``seconds`` over the whole phase."""

    loss: float = 0.0
    labels: int = 0
    tokens: int = 0
    span: float = 0.0
    """Seconds since the last line."""
    seconds: float = 0.0
    saving: float = 0.0
    """Seconds of ``span`` that the loop waited for checkpoints."""


class Meters:
    """Metrics of one phase, from ``state`` on. Of several processes only the ``main`` one writes and logs."""

    def __init__(
        self,
        folder: Path,
        name: str,
        phase: Phase,
        state: State,
        *,
        every: int,
        main: bool = True,
        tracker: Tracker | None = None,
    ) -> None:
        """Open the files of a phase.

        every    steps between lines
        tracker  where the numbers of a line are sent too; closed with the files
        """
        self.sums = Sums(**state.meters)  # type: ignore[arg-type]
        self._past = {"rollbacks": state.rollbacks, "skipped_steps": state.skipped_steps}
        self._path = folder / METRICS
        self._phase, self._every, self._main, self._tracker = phase, every, main, tracker
        # perf_counter, not time(): the clock of the day may be set back.
        self._clock = time.perf_counter()
        if main:
            # Steps after the checkpoint are run again; their lines would stand twice.
            _keep_lines(self._path, state.cursor.step)
            self._file = self._path.open("ab", buffering=0)  # nothing is left to write when the disk is full
            self._board = _tensorboard(folder / "tensorboard", state.cursor.step)
            self._bar: progress[None] = progress(total=phase.tokens, desc=name, unit="tok", initial=state.cursor.tokens)

    def record(
        self, step: Step, loss: float, grad_norm: float, learning_rate: float, *, saving: float = 0, last: bool = False
    ) -> None:
        """Take in a finished step; ``loss`` is its mean over labels. Writes a line when one is due.

        saving  seconds that the loop waited for checkpoints since the step before
        """
        now = time.perf_counter()
        sums, elapsed = self.sums, now - self._clock
        self._clock = now
        # Weighted by labels: a mean of means would depend on how often lines are written.
        sums.loss += loss * step.labels
        sums.labels += step.labels
        sums.tokens += step.tokens
        sums.span += elapsed
        sums.seconds += elapsed
        sums.saving += saving
        if not self._main:
            return
        speed = sums.tokens / max(sums.span, 1e-9)
        mean = sums.loss / max(1, sums.labels)
        mask_rate = sums.labels / max(1, sums.tokens)
        self._bar.note(loss=f"{mean:.3f}", lr=f"{learning_rate:.1e}", mask=f"{mask_rate:.2f}", tok_s=f"{speed:,.0f}")
        self._bar.update(step.tokens)
        if last or step.cursor_after.step % self._every == 0:
            norm = grad_norm if math.isfinite(grad_norm) else None  # JSON has no infinity
            self._write({
                "step": step.cursor_after.step, "tokens": step.cursor_after.tokens, "loss": mean,
                "learning_rate": learning_rate, "grad_norm": norm, "mask_rate": mask_rate, "labels": sums.labels,
                "batch": step.batch, "tokens_per_second": round(speed, 1), "save_s": round(sums.saving, 4),
                **self._past, "seconds": round(sums.seconds, 3), "time": round(time.time(), 3),
            })  # fmt: skip
            # Everything begins anew but the seconds of the whole phase.
            self.sums = Sums(seconds=sums.seconds)

    def close(self) -> None:
        """Finish the files and the bar."""
        if self._main:
            self._bar.close()
            self._file.close()
            if self._board is not None:
                self._board.close()
            if self._tracker is not None:
                self._tracker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, line: dict[str, Any]) -> None:
        with disk_errors(self._path):
            self._file.write(json.dumps(line).encode() + b"\n")
        if self._board is not None:
            for name in CURVES:
                if line[name] is not None:  # the gradient of a step that fp16 could not hold
                    self._board.add_scalar(name, line[name], line["step"])
        if self._tracker is not None:
            self._tracker.log({name: line[name] for name in ("tokens", *CURVES)}, line["step"])


def _keep_lines(path: Path, step: int) -> None:
    """Drop the lines of steps after ``step``, and one that a killed process left unfinished."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            # Only the last line can be cut, by a killed process; behind it there is nothing.
            break
    write_text(path, "".join(kept))


def _tensorboard(folder: Path, step: int) -> Any:
    """Return a writer of TensorBoard's files, None if it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.info("no TensorBoard files: pip install 'mmbert[train]' to have them")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
