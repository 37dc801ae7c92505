"""A loss that is not finite, and gradients far above the usual."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from trial import Row, Trial, broken


def spikes(trial: Trial) -> list[Row]:
    """An absurd learning rate, and a low bound on the gradient."""
    return [_absurd(trial), *_bounded(trial)]


def _absurd(trial: Trial) -> Row:
    folder, began = trial.home / "spikes", time.monotonic()
    rate = "phases.pretrain.peak_lr=1e30"
    ended = trial.do("pretrain", folder, rate, *trial.data(), "--phase", "pretrain")
    bad = broken(folder)
    replayed = trial.do("pretrain", folder, rate, *trial.data(), "--replay")
    happened = f"exit code {ended.code}: {ended.error}; `--replay` ends with {replayed.code}"
    held = ended.code == 2 and "no weight was changed" in ended.error and not bad and replayed.code == 0
    shutil.rmtree(folder)
    return Row("loss not finite", f"`{rate}`", happened, time.monotonic() - began, held)


def _bounded(trial: Trial) -> list[Row]:
    rows = []
    for answer in ("stop", "rollback"):
        folder, began = trial.home / "spikes", time.monotonic()
        options = ["runtime.spike_norm=1.25", f"runtime.on_spike={answer}"]  # one step of ``extend`` is above
        ended = trial.do("pretrain", folder, *options, *trial.data(), "--phase", "pretrain", "--phase", "extend")
        if answer == "stop":
            held = ended.code == 2 and "gradient norm" in ended.error and "no weight was changed" in ended.error
            happened = f"exit code {ended.code}: {ended.error}"
        else:
            back = ended.said.count("going back to")
            counted = _rollbacks(folder)
            happened = f"exit code {ended.code}; went back {back} times, the metrics count {counted:.0f}"
            held = back > 0 and counted == back and ended.code == 0
            if ended.code:
                happened += f"; {ended.error}"
        rows.append(Row("gradient spike", f"`{' '.join(options)}`", happened, time.monotonic() - began, held))
        shutil.rmtree(folder)
    return rows


def _rollbacks(folder: Path) -> float:
    """The highest count of rollbacks in the metrics."""
    values = [json.loads(line) for line in (folder / "extend/metrics.jsonl").read_text().splitlines()]
    return max((value.get("rollbacks", 0) for value in values), default=0)
