"""``tracker: wandb`` and ``tracker: trackio``, with both libraries themselves, offline."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from little_trackio import stored_runs, trackio_folder
from mmbert.data.pack import Cursor
from mmbert.data.steps import Step
from mmbert.errors import ConfigError, MMBertError
from mmbert.recipe import Phase, PhaseData, Recipe
from mmbert.trackers import FILE, Tracker
from mmbert.training.checkpoint import State
from mmbert.training.metrics_log import Meters

__all__ = ["trackio_folder"]

PHASE = Phase(
    tokens=1000, data=PhaseData(temperature=0.5), context=50, mask_rate=0.3, batch=100, micro_batch=100, peak_lr=1e-3
)


def record(folder: Path, steps: range, tracker: Tracker) -> None:
    with Meters(folder, "p", PHASE, State("p", Cursor(step=steps.start)), every=1, tracker=tracker) as meters:
        for number in steps:
            meters.record(
                Step(number, [], 10, 100, 100, Cursor(step=number + 1, tokens=100 * (number + 1))),
                5.0 - number,
                1.0,
                1e-4,
            )


def test_a_resumed_phase_goes_on_with_its_curves(trackio_folder: Path, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for steps in (range(2), range(2, 3)):
        record(folder, steps, Tracker("trackio:mine", folder, "nano-p", group="nano", config={"seed": 1}))
    ((name, lines),) = stored_runs(trackio_folder, "mine").items()
    assert name.startswith("nano-p-")
    assert [(step, line["loss"], line["tokens"]) for step, line in lines] == [
        (1, 5.0, 100),
        (2, 4.0, 200),
        (3, 3.0, 300),
    ]
    assert capsys.readouterr().out == ""  # stdout is for results
    # Begun anew it is another run, even under the same name.
    (folder / FILE).unlink()
    record(folder, range(1), Tracker("trackio:mine", folder, "nano-p", group="nano", config={}))
    assert len(stored_runs(trackio_folder, "mine")) == 2


def test_wandb_writes_what_it_would_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    record(tmp_path, range(2), Tracker("wandb", tmp_path, "nano-p", group="nano", config={"seed": 1}))
    (stored,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    wanted, deadline = (b"nano-p", b"grad_norm", b"learning_rate", b"tokens_per_second"), time.monotonic() + 30
    while not all(name in stored.read_bytes() for name in wanted):  # another process of wandb's writes it
        assert time.monotonic() < deadline, stored.read_bytes()[:100]
        time.sleep(0.1)
    assert json.loads((tmp_path / FILE).read_text())["wandb"] in stored.name
    assert capsys.readouterr().out == ""


def test_a_refusal_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_SERVER_URL", "ftp://nowhere")
    with pytest.raises(MMBertError, match=r"trackio cannot open a run: .*must be a full URL"):
        Tracker("trackio", tmp_path, "p", group="p", config={})


@pytest.mark.parametrize(("given", "says"), [("mlflow", "runtime.tracker"), ("wandb:", "runtime.tracker")])
def test_other_trackers_are_refused(given: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Recipe.load("nano", [f"runtime.tracker='{given}'"])
