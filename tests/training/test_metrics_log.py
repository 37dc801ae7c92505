"""Lines of metrics: what they say, and that they survive a kill."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mmbert.data.pack import Cursor
from mmbert.data.steps import Step
from mmbert.errors import MMBertError
from mmbert.recipe import Phase, PhaseData
from mmbert.training.checkpoint import State
from mmbert.training.metrics_log import METRICS, Meters

PHASE = Phase(
    tokens=1000, data=PhaseData(temperature=0.5), context=50, mask_rate=0.3, batch=100, micro_batch=100, peak_lr=1e-3
)


def make_step(number: int, labels: int) -> Step:
    return Step(number, [], labels, 100, 100, Cursor(step=number + 1, tokens=100 * (number + 1)))


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]


def test_a_line_is_the_mean_over_labels_since_the_last(tmp_path: Path) -> None:
    with Meters(tmp_path, "first", PHASE, State("first", rollbacks=2, skipped_steps=9), every=2) as meters:
        meters.record(make_step(0, 10), 5.0, 1.0, 1e-4, saving=0.25)
        meters.record(make_step(1, 30), 3.0, 2.0, 2e-4, saving=0.5)
        meters.record(make_step(2, 0), 0.0, 0.5, 3e-4, last=True)
    one, two = read(tmp_path)
    assert one["loss"] == pytest.approx((5.0 * 10 + 3.0 * 30) / 40)
    assert (one["step"], one["tokens"], one["labels"], one["grad_norm"]) == (2, 200, 40, 2.0)
    assert (one["learning_rate"], one["mask_rate"], one["batch"]) == (2e-4, 0.2, 100)
    assert one["tokens_per_second"] > 0
    assert (one["save_s"], two["save_s"]) == (0.75, 0.0)
    assert (one["rollbacks"], one["skipped_steps"]) == (2, 9)
    assert (two["step"], two["loss"], two["labels"]) == (3, 0.0, 0)
    assert two["seconds"] >= one["seconds"]


def test_going_on_in_the_middle_of_a_line_gives_the_same_line(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    losses = [(10, 5.0), (20, 4.0), (5, 3.5), (7, 3.0), (9, 2.0)]
    for folder in (whole, parts):
        folder.mkdir()
    with Meters(whole, "p", PHASE, State("p"), every=3) as meters:
        for number, (labels, loss) in enumerate(losses):
            meters.record(make_step(number, labels), loss, 1.0, 1e-3)
    with Meters(parts, "p", PHASE, State("p"), every=3) as meters:
        for number, (labels, loss) in enumerate(losses[:4]):
            if number == 1:
                saved, step = asdict(meters.sums), number  # the checkpoint after step 1; killed after step 4
            meters.record(make_step(number, labels), loss, 1.0, 1e-3)
    assert len(read(parts)) == 1
    with (parts / METRICS).open("a", encoding="utf-8") as file:
        file.write('{"step": 4, "tok')
    with Meters(parts, "p", PHASE, State("p", Cursor(step=step, tokens=100), meters=saved), every=3) as meters:
        assert read(parts) == []
        for number, (labels, loss) in list(enumerate(losses))[1:]:
            meters.record(make_step(number, labels), loss, 1.0, 1e-3)
        assert meters.sums.labels == 7 + 9
    (a,), (b,) = read(whole), read(parts)
    assert (a["step"], a["loss"], a["labels"], a["mask_rate"]) == (b["step"], b["loss"], b["labels"], b["mask_rate"])


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    with Meters(tmp_path, "p", PHASE, State("p"), every=1, main=False) as meters:
        meters.record(make_step(0, 10), 5.0, 1.0, 1e-4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / METRICS).symlink_to("/dev/full")
    with (
        pytest.raises(MMBertError, match="no space left on the disk"),
        Meters(tmp_path, "p", PHASE, State("p"), every=1) as meters,
    ):
        meters.record(make_step(0, 10), 5.0, 1.0, 1e-4)


def test_tensorboard_reads_the_values(tmp_path: Path) -> None:
    with Meters(tmp_path, "p", PHASE, State("p"), every=1) as meters:
        meters.record(make_step(0, 10), 5.0, 1.5, 1e-4)
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    (file,) = (tmp_path / "tensorboard").glob("events.*")
    values = {
        value.tag: value.tensor.float_val[0]
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    }
    assert values["loss"] == 5.0
    assert values["grad_norm"] == 1.5
    assert set(values) == {"loss", "learning_rate", "grad_norm", "mask_rate", "tokens_per_second", "batch"}
