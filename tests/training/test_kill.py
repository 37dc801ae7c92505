"""A run that is killed at any moment and started again ends in the same bits as one that was not."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ranks import Ranks
from small_run import write_recipe

from conftest import Trained
from mmbert.model.weights import load_state
from mmbert.training import checkpoint


class Run:
    """``mmbert pretrain`` in processes of its own, on the corpus of the finished run."""

    def __init__(self, trained: Trained, folder: Path) -> None:
        _, path = write_recipe(trained.home)
        self.folder = folder
        self.words = ["pretrain", str(path), "--out", str(folder), "--data", str(trained.data)]

    def start(self) -> Ranks:
        return Ranks(self.words, self.folder.with_name("said"))

    def finish(self) -> str:
        """Run to the end; returns what was printed."""
        ranks = self.start()
        assert ranks.wait() == [0], ranks.words()
        return ranks.words()[0]

    def stop(self, how: signal.Signals, when: Callable[[], bool], delay: float = 0.0) -> tuple[int | None, str]:
        """Start, send a signal ``delay`` seconds after ``when`` holds; returns the exit code and what was printed."""
        ranks = self.start()
        ranks.signal(0, how, when, delay)
        (code,) = ranks.wait()
        return code, ranks.words()[0]

    def lines(self) -> int:
        """Of metrics, written so far."""
        return sum(path.read_bytes().count(b"\n") for path in self.folder.glob("*/metrics.jsonl"))


def numbers(phase: Path) -> list[dict[str, float]]:
    lines = (phase / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: json.loads(line)[key] for key in ("step", "tokens", "loss", "grad_norm", "labels")} for line in lines]


@pytest.mark.slow
def test_stopped_at_several_moments(trained: Trained, tmp_path: Path) -> None:
    draw = random.Random(1)
    run = Run(trained, tmp_path / "run")
    first, second = run.folder / "first", run.folder / "second"
    some = draw.randint(3, 6)
    moments: list[Callable[[], bool]] = [
        lambda: (run.folder / "recipe.yaml").is_file(),  # before the first step
        lambda: run.lines() >= some,  # somewhere in the first phase
        lambda: any(first.glob("step-*.partial")),  # while a checkpoint is being written
        lambda: second.is_dir() and any(second.glob("step-*")),  # in the second phase
    ]
    for number, moment in enumerate(moments):
        code, err = run.stop(signal.SIGKILL, moment, draw.uniform(0, 0.02))
        assert code == -signal.SIGKILL, err
        if number == 0:
            stopped_as_asked(run, first)
    assert not (second / "final").exists()
    printed = run.finish()
    assert printed.endswith(f"first\t{first / 'final'}\nsecond\t{second / 'final'}\n")
    for name in ("first", "second"):
        mine, theirs = load_state(run.folder / name / "final"), load_state(trained.folder / name / "final")
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
        assert numbers(run.folder / name) == numbers(trained.folder / name)
        assert not list((run.folder / name).glob("*.partial"))


def stopped_as_asked(run: Run, phase: Path) -> None:
    """SIGTERM: what was trained is saved, also where no checkpoint was due, and the exit code is 0."""
    code, err = run.stop(signal.SIGTERM, lambda: run.lines() >= 1)
    assert code == 0, err
    newest = checkpoint.latest(phase)
    assert newest is not None
    assert f"first stopped after step {checkpoint.read_state(newest).cursor.step}, as asked" in err
    assert not checkpoint.read_state(newest).finished
