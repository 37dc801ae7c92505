"""SIGTERM to a run in each of its stages."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from trial import PHASES, Row, Trial, broken, lines

WITHIN = 10.0
"""Seconds that a cluster leaves to a job between SIGTERM and SIGKILL, with a margin."""


def moments(folder: Path) -> dict[str, Callable[[], bool]]:
    """Stage -> whether the run is in it."""
    evaluated = folder / "evaluation"
    return {
        "prepare": lambda: (folder / "data/text").is_dir(),
        "a phase": lambda: lines(folder, "extend") > 5,
        "evaluation": lambda: (folder / "extend/final").is_dir() and not (evaluated / "extend.json").is_file(),
        "merge": lambda: (evaluated / f"{PHASES[-1]}.json").is_file(),
    }


def sigterm(trial: Trial) -> list[Row]:
    """One row a stage."""
    rows = []
    trial.reference()
    for stage in moments(Path()):
        folder = trial.home / "sigterm"
        began = time.monotonic()
        stopped = trial.stop(trial.command("run", folder), signal.SIGTERM, moments(folder)[stage])
        bad, again = broken(folder), trial.do("run", folder)
        wrong = trial.differences(folder)
        happened = f"exit code {stopped.code} after {stopped.seconds:.1f} s"
        if "stopped after" in stopped.said:
            happened += ", a checkpoint saved"
        happened += f"; the same command went on and ended with {_count(wrong)} models"
        held = stopped.seconds < WITHIN and not bad and again.code == 0 and not wrong
        rows.append(Row("SIGTERM", f"during {stage}", happened, time.monotonic() - began, held))
        shutil.rmtree(folder)
    return rows


def _count(wrong: list[str]) -> str:
    return f"{len(wrong)} different" if wrong else "the same"
