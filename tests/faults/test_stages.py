"""A whole run that is stopped where it does not train, and started again, ends in the same bits as one that was not.

Stops while preparing and training are tested in tests/data/test_prepare.py and tests/training/test_kill.py; all kinds
of stops at many moments by benchmarks/faults.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "faults"))

from sigterm import WITHIN, moments
from trial import PHASES, Trial, broken

LENGTHS = {"pretrain": 4096, "extend": 2048, **dict.fromkeys(PHASES[2:], 1024)}


@pytest.mark.slow
def test_stopped_while_evaluating_and_merging(tmp_path: Path) -> None:
    changes = [f"phases.{name}.tokens={length}" for name, length in LENGTHS.items()]
    trial, folder = Trial.make(tmp_path, changes), tmp_path / "stopped"
    command, stages = trial.command("run", folder), moments(folder)
    for stage, how in (("evaluation", signal.SIGTERM), ("merge", signal.SIGKILL)):
        stopped = trial.stop(command, how, stages[stage])
        assert stopped.code == -how, stopped.said
        assert stopped.seconds < WITHIN
        assert not broken(folder)
    ended = trial.do("run", folder)
    assert ended.code == 0, ended.said
    assert trial.differences(folder) == []
    assert not list(folder.rglob("*.partial"))
