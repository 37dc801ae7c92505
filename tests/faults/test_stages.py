"""A whole run that is stopped in each of its stages and started again ends in the same bits as one that was not."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "faults"))

from sigterm import WITHIN, moments
from trial import PHASES, Trial, broken, lines

SHORT = [
    "phases.pretrain.tokens=4096",
    "phases.extend.tokens=4096",
    *(f"phases.{name}.tokens=2048" for name in PHASES[2:]),
]


@pytest.mark.slow
def test_stopped_in_every_stage(tmp_path: Path) -> None:
    trial, folder = Trial.make(tmp_path, SHORT), tmp_path / "stopped"
    command, stages = trial.command("run", folder), moments(folder)
    killed = trial.stop(command, signal.SIGKILL, stages["prepare"], 0.05)
    assert killed.code == -signal.SIGKILL, killed.said
    stopped = trial.stop(command, signal.SIGTERM, lambda: lines(folder, "extend") > 1)
    assert stopped.code == 0, stopped.said
    assert "extend stopped after step" in stopped.said
    assert stopped.seconds < WITHIN
    for stage, how in (("evaluation", signal.SIGTERM), ("merge", signal.SIGKILL)):
        stopped = trial.stop(command, how, stages[stage])
        assert stopped.code == -how, stopped.said
        assert not broken(folder)
    ended = trial.do("run", folder)
    assert ended.code == 0, ended.said
    assert trial.differences(folder) == []
    assert not list(folder.rglob("*.partial"))
