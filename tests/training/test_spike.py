"""A gradient that jumps, as it really does at step 43 of this run with torch 2.13, and one that is no number."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from ranks import Ranks
from small_run import write_recipe

from conftest import Trained
from mmbert.data.pack import Cursor
from mmbert.errors import ConfigError, MMBertError, NotFinite, Spike, TrainingError
from mmbert.model.weights import load_state
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.training import checkpoint
from mmbert.training.checkpoint import State
from mmbert.training.distributed import Mesh
from mmbert.training.phase_context import PhaseContext
from mmbert.training.pretrain import pretrain
from mmbert.training.replay import replay
from mmbert.training.spike import ENOUGH, SpikeRecord, check, usual_norm

LONG = [
    "phases.second=null",
    "phases.first.tokens=49_152",
    "runtime.log_every=1",
    "runtime.keep=99",
    "runtime.checkpoint_every=7000",
]
JUMP = 43
"""The step whose gradient is 2.3 times the usual one."""
TWICE = "runtime.spike_norm=2"
BACK = "runtime.on_spike=rollback"


@dataclass(frozen=True)
class Stopped:
    trained: Trained
    folder: Path
    error: Spike


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "first" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def same_weights(one: Path, two: Path) -> bool:
    a, b = load_state(one / "first" / "final"), load_state(two / "first" / "final")
    return all(torch.equal(a[name], b[name]) for name in a)


def _jumps() -> None:
    if Version(torch.__version__) < Version("2.13"):
        pytest.skip("with the numbers of older torch no gradient jumps")


@pytest.fixture(scope="module")
def stopped(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """A run that the jump ended."""
    _jumps()
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.raises(Spike) as caught:
        pretrain(write_recipe(trained.home, [*LONG, TWICE])[0], folder, trained.data)
    return Stopped(trained, folder, caught.value)


@pytest.fixture(scope="module")
def back(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that went back before the jump."""
    _jumps()
    folder = tmp_path_factory.mktemp("back")
    pretrain(write_recipe(trained.home, [*LONG, TWICE, BACK])[0], folder, trained.data)
    return folder


def test_what_is_a_spike(trained: Trained) -> None:
    recipe, _ = write_recipe(trained.home, [TWICE])
    ctx = PhaseContext(recipe, "first", Path(), Path(), Tokenizer.load(trained.data / "tokenizer"), Mesh(), "fp32")
    known = State("first", norms=(1.0, 3.0, 2.0) * ENOUGH)
    assert usual_norm(known.norms) == 2.0
    check(ctx, known, 5.0, 4.0)
    with pytest.raises(Spike, match=r"gradient norm 4\.001, usually 2, in phase first at step 0"):
        check(ctx, known, 5.0, 4.001)
    check(ctx, State("first", norms=(1.0,) * (ENOUGH - 1)), 5.0, 100.0)  # too few are known
    for loss, norm in ((math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, -math.inf)):
        with pytest.raises(NotFinite, match="no weight was changed"):
            check(ctx, known, loss, norm)


def test_stops_before_the_weights_move_and_keeps_the_place(stopped: Stopped) -> None:
    assert len(lines(stopped.folder)) == JUMP
    first = stopped.folder / "first"
    record = SpikeRecord.load(first)
    assert (record.phase, record.cursor.step, record.cursor.tokens) == ("first", JUMP, 39936)
    assert record.norm > 2 * (record.usual or math.inf)
    assert f"step {JUMP} (draw {record.cursor.draw}, offset {record.cursor.offset})" in str(stopped.error)
    kept = checkpoint.read_state(first / "spike")
    assert kept.cursor == record.cursor
    newest = checkpoint.latest(first)
    assert newest is not None
    assert checkpoint.read_state(newest).cursor.step <= JUMP  # the spike's own weights are no checkpoint to go on from


def test_goes_on_as_if_nothing_had_been_when_it_may(stopped: Stopped, tmp_path: Path) -> None:
    trained = stopped.trained
    recipe, _ = write_recipe(trained.home, LONG)
    shutil.copytree(stopped.folder, tmp_path / "on")
    pretrain(recipe, tmp_path / "on", trained.data)
    pretrain(recipe, tmp_path / "whole", trained.data)
    assert same_weights(tmp_path / "on", tmp_path / "whole")
    assert lines(tmp_path / "on")[JUMP]["grad_norm"] == stopped.error.norm


def test_replay_is_that_very_step(stopped: Stopped, tmp_path: Path) -> None:
    trained = stopped.trained
    before = {path: path.stat().st_mtime_ns for path in stopped.folder.rglob("*")}
    recipe, _ = write_recipe(trained.home, LONG)
    again = replay(recipe, stopped.folder, trained.data, worst=3)
    assert {path: path.stat().st_mtime_ns for path in stopped.folder.rglob("*")} == before
    assert (again.loss, again.norm, again.behind) == (stopped.error.loss, stopped.error.norm, 0)
    assert len(again.micro_batches) == 2
    labels = sum(batch.labels for batch in again.micro_batches)
    assert sum(b.loss * b.labels for b in again.micro_batches) / labels == pytest.approx(again.loss, rel=1e-6)
    assert sum(norm**2 for norm in again.groups.values()) ** 0.5 == pytest.approx(again.norm, rel=1e-6)
    assert list(again.groups) == ["embeddings", "layer 0", "layer 1", "layer 2", "final_norm", "head", "decoder"]
    worst = again.documents
    assert len(worst) == 3
    assert worst[0].excess >= worst[1].excess >= worst[2].excess > 0
    assert worst[0].excess == pytest.approx(worst[0].labels * (worst[0].loss - again.loss), rel=1e-3)
    corpus = "".join(path.read_text(encoding="utf-8") for path in (trained.home / "text").glob("*.jsonl"))
    middle = " ".join(worst[0].text.removesuffix("...").split()[1:-1])
    assert len(middle) > 20
    assert middle in corpus  # nothing is hidden in it
    text = again.to_text()
    assert "with the weights of this step" in text
    assert worst[0].text in text
    every = replay(recipe, stopped.folder, trained.data, worst=999).documents
    assert sum(d.excess for d in every) == pytest.approx(0, abs=0.05)  # all documents are told of, each once
    assert sum(d.labels for d in every) == labels


def test_replay_with_older_weights_says_so(stopped: Stopped, tmp_path: Path) -> None:
    trained = stopped.trained
    recipe, _ = write_recipe(trained.home, LONG)
    shutil.copytree(stopped.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "first" / "spike")
    older = replay(recipe, tmp_path / "run", trained.data)
    assert 0 < older.behind < 9
    assert f"with the weights of {older.behind} steps before" in older.to_text()
    assert older.norm != stopped.error.norm
    for path in checkpoint.checkpoints(tmp_path / "run" / "first"):
        shutil.rmtree(path)
    assert replay(recipe, tmp_path / "run", trained.data).behind == JUMP  # those that the phase began with


def test_replay_on_the_command_line(stopped: Stopped, tmp_path: Path) -> None:
    _, path = write_recipe(stopped.trained.home)
    where = ["--out", str(stopped.folder), "--data", str(stopped.trained.data)]
    words = ["pretrain", str(path), *LONG, "--replay", *where]
    ranks = Ranks(words, tmp_path)
    assert ranks.wait() == [0]
    assert f"phase first, step {JUMP} (draw " in ranks.words()[0]
    several = Ranks(words, tmp_path, 2)
    assert several.wait() == [2, 2]
    assert "a replay runs in one process" in several.words()[0]
    words[words.index("--out") + 1] = str(tmp_path)
    nothing = Ranks(words, tmp_path)
    assert nothing.wait() == [2]
    assert "nothing to replay: no spike.json in a phase of" in nothing.words()[0]


def test_goes_back_and_past_the_window(back: Path, stopped: Stopped) -> None:
    told = lines(back)
    assert [line["step"] for line in told] == list(range(1, 53))
    assert told[-1]["tokens"] == 49152  # the clock is as ever
    went_back = next(line["step"] for line in told if line["rollbacks"]) - 1
    assert went_back in [checkpoint.read_state(path).cursor.step for path in checkpoint.checkpoints(back / "first")]
    assert 0 < went_back <= JUMP
    assert told[-1]["rollbacks"] == 2  # it met another one on the way
    assert told[-1]["skipped_steps"] > JUMP + 1 - went_back
    assert told[:went_back] == [
        {**line, "rollbacks": 0, "skipped_steps": 0, **times(told[n])}
        for n, line in enumerate(lines(stopped.folder)[:went_back])
    ]
    assert max(line["grad_norm"] for line in told[JUMP:]) < stopped.error.norm
    end = checkpoint.read_state(checkpoint.checkpoints(back / "first")[-1])
    assert (end.finished, end.rollbacks, end.cursor.step) == (True, 2, 52)
    assert end.optimizer_step == 52
    assert SpikeRecord.load(back / "first").cursor.step > went_back
    assert not (back / "first" / "spike").exists()


def times(line: dict[str, Any]) -> dict[str, Any]:
    return {key: line[key] for key in ("tokens_per_second", "seconds", "save_s", "time")}


@pytest.mark.parametrize("kept", [-3, -1], ids=["from before it went back", "from after"])
def test_going_back_is_exact_when_the_run_goes_on(back: Path, trained: Trained, tmp_path: Path, kept: int) -> None:
    shutil.copytree(back, tmp_path / "run")
    first = tmp_path / "run" / "first"
    went_back = next(line["step"] for line in lines(back) if line["rollbacks"]) - 1
    found = checkpoint.checkpoints(first)
    after = [path for path in found if int(path.name.removeprefix("step-")) > went_back]
    for path in after if kept == -3 else after[1:]:
        shutil.rmtree(path)
    shutil.rmtree(first / "final")
    pretrain(write_recipe(trained.home, [*LONG, TWICE, BACK])[0], tmp_path / "run", trained.data)
    assert same_weights(tmp_path / "run", back)
    assert [{**line, **times(line)} for line in lines(back)] == [
        {**line, **times(old)} for line, old in zip(lines(tmp_path / "run"), lines(back), strict=True)
    ]


@pytest.mark.distributed
def test_two_ranks_go_back_as_one_does(back: Path, trained: Trained, tmp_path: Path) -> None:
    _, path = write_recipe(trained.home)
    words = ["pretrain", str(path), *LONG, TWICE, BACK, "runtime.parallel=fsdp"]
    ranks = Ranks([*words, "--out", str(tmp_path / "run"), "--data", str(trained.data)], tmp_path, 2)
    assert ranks.wait() == [0, 0], ranks.words()
    mine, theirs = lines(tmp_path / "run"), lines(back)
    for key in ("step", "tokens", "labels", "rollbacks", "skipped_steps"):
        assert [line[key] for line in mine] == [line[key] for line in theirs]
    assert [line["loss"] for line in mine] == pytest.approx([line["loss"] for line in theirs], rel=1e-4)
    assert sum("going back to" in words for words in ranks.words()) == 1


def test_what_is_not_the_datas_fault_stops_in_the_end(trained: Trained, tmp_path: Path) -> None:
    """A learning rate that destroys any weights: back to the phase's beginning three times, then the end."""
    changes = ["phases.first.peak_lr=1e30", "phases.first.warmup=0", "phases.second=null", BACK]
    with pytest.raises(NotFinite, match=r"3 times back to .*step-000000 did not help") as caught:
        pretrain(write_recipe(trained.home, changes)[0], tmp_path, trained.data)
    assert not math.isfinite(caught.value.loss)
    record = SpikeRecord.load(tmp_path / "first")
    assert not math.isfinite(record.loss)
    assert "NaN" not in (tmp_path / "first" / "spike.json").read_text(encoding="utf-8")  # it is JSON
    (only,) = checkpoint.checkpoints(tmp_path / "first")
    state = checkpoint.read_state(only)
    assert (state.cursor, state.due) == (Cursor(), False)


def test_a_factor_below_one_is_refused(trained: Trained) -> None:
    with pytest.raises(ConfigError, match=r"runtime\.spike_norm"):
        write_recipe(trained.home, ["runtime.spike_norm=0.5"])


def test_no_record_is_an_error_of_one_line(tmp_path: Path, trained: Trained) -> None:
    with pytest.raises(MMBertError, match="no such file"):
        SpikeRecord.load(tmp_path)
    with pytest.raises(TrainingError, match="nothing to replay"):
        replay(trained.recipe, tmp_path, trained.data)
