"""Several processes train as one does, stop as one, and leave checkpoints that any number of processes reads."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import Ranks
from small_run import write_recipe

from conftest import Trained
from mmbert.errors import TrainingError
from mmbert.model.heads import MaskedLM
from mmbert.model.weights import load_state
from mmbert.training import checkpoint
from mmbert.training.export import export
from mmbert.training.pretrain import checkpoints_of, pretrain

pytestmark = [pytest.mark.distributed]

SHORT = ["phases.second=null", "phases.first.tokens=8192", "runtime.keep=9"]
"""A phase that begins with one micro-batch a step (so that some ranks have none) and goes on with two."""

Command = Callable[..., list[str]]


@pytest.fixture
def command(trained: Trained) -> Command:
    """The words of ``mmbert pretrain`` on the small corpus."""

    def words(out: Path, *changes: str) -> list[str]:
        _, path = write_recipe(trained.home)
        return ["pretrain", str(path), *SHORT, *changes, "--out", str(out), "--data", str(trained.data)]

    return words


@pytest.fixture(scope="module")
def alone(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in one process."""
    out = tmp_path_factory.mktemp("alone")
    pretrain(write_recipe(trained.home, SHORT)[0], out, trained.data)
    return out / "first"


def lines(phase: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (phase / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def assert_same(mine: Path, alone: Path) -> None:
    """The same samples, and losses and weights to the tolerance of sums in another order."""
    one, two = lines(alone), lines(mine)
    for key in ("step", "tokens", "labels", "batch", "mask_rate"):
        assert [line[key] for line in two] == [line[key] for line in one]
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-5)
    assert [line["grad_norm"] for line in two] == pytest.approx([line["grad_norm"] for line in one], rel=1e-4)
    ours, theirs = load_state(mine / "final"), load_state(alone / "final")
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("parallel", "world", "more"),
    [("ddp", 2, ()), ("fsdp", 2, ()), ("fsdp", 3, ("runtime.gradient_checkpointing=true",))],
)
def test_several_train_as_one(
    alone: Path, tmp_path: Path, command: Command, parallel: str, world: int, more: tuple[str, ...]
) -> None:
    ranks = Ranks(command(tmp_path / "run", f"runtime.parallel={parallel}", *more), tmp_path, world)
    assert ranks.wait() == [0] * world, ranks.words()
    first = tmp_path / "run" / "first"
    assert_same(first, alone)
    talk = [words for words in ranks.words() if "\t" in words]
    assert talk == [ranks.words()[0]]  # one of them prints
    last = checkpoint.checkpoints(first)[-1]
    parts = sorted(file.name for file in last.glob("model*.safetensors"))
    assert len(parts) == (1 if parallel == "ddp" else world)
    assert checkpoint.damage(last) is None


def test_saved_on_two_goes_on_on_one_and_on_three(alone: Path, tmp_path: Path, command: Command) -> None:
    """Stopped by a SIGTERM to the second rank only, wherever it is; sharded on two, whole on one, sharded on three."""
    out = tmp_path / "run"
    first = out / "first"
    for number, (world, parallel) in enumerate([(2, "fsdp"), (1, "ddp"), (3, "fsdp"), (2, "ddp")]):
        steps = 2 * (number + 1)
        ranks = Ranks(command(out, f"runtime.parallel={parallel}", "runtime.log_every=1"), tmp_path, world)
        if number < 3:
            ranks.signal(min(1, world - 1), signal.SIGTERM, at_least(first, steps))
            asked = time.monotonic()
        codes = ranks.wait()
        assert codes == [0] * world, ranks.words()
        newest = checkpoint.latest(first)
        assert newest is not None
        state = checkpoint.read_state(newest)
        if number < 3:
            assert time.monotonic() - asked < 60  # ten seconds on a machine of its own
            assert f"first stopped after step {state.cursor.step}, as asked" in ranks.words()[0]
            assert not state.finished
            assert not state.due or state.cursor.tokens % 3000 < 1024
    every = lines(alone)
    mine = {line["step"]: line for line in lines(first)}
    assert list(mine) == list(range(1, 13))
    assert [mine[line["step"]]["tokens"] for line in every] == [line["tokens"] for line in every]
    last = [line["grad_norm"] for line in every]
    assert [mine[line["step"]]["grad_norm"] for line in every] == pytest.approx(last, rel=1e-4)
    theirs = load_state(alone / "final")
    for name, tensor in load_state(first / "final").items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-5)


def at_least(phase: Path, count: int) -> Callable[[], bool]:
    """Whether so many lines of metrics are written."""
    path = phase / "metrics.jsonl"
    return lambda: path.is_file() and path.read_bytes().count(b"\n") >= count


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_rank_that_dies_ends_the_others(tmp_path: Path, command: Command, parallel: str) -> None:
    out = tmp_path / "run"
    forever = ["phases.first.tokens=1B", f"runtime.parallel={parallel}", "runtime.timeout=30"]
    ranks = Ranks(command(out, *forever), tmp_path, 2)
    ranks.signal(1, signal.SIGKILL, at_least(out / "first", 2))
    assert ranks.wait() == [2, -signal.SIGKILL]
    said = [line for line in ranks.words()[0].splitlines() if line.startswith("mmbert: ")]
    assert said == ranks.words()[0].splitlines()[-1:], ranks.words()[0]
    assert "process 0 lost another of the 2" in said[0]
    assert "resumes from the last checkpoint" in said[0]


def test_what_stops_the_first_stops_all(tmp_path: Path, command: Command) -> None:
    """The others wait for the first one to look at the shards, and are told what it found."""
    words = command(tmp_path / "run")
    words[words.index("--data") + 1] = str(tmp_path / "nowhere")
    ranks = Ranks(words, tmp_path, 2)
    assert ranks.wait() == [2, 2]
    assert "mmbert: no such file" in ranks.words()[0]
    assert "mmbert: process 0 stopped: no such file" in ranks.words()[1]


def test_a_full_disk_is_one_line_and_the_run_goes_on(alone: Path, tmp_path: Path, command: Command) -> None:
    """A limit on the size of files gives real write errors, here in a thread of one rank of two, while both train."""
    out = tmp_path / "run"
    words = command(out, "runtime.parallel=fsdp")
    stopped = Ranks(words, tmp_path / "a", 2)
    stopped.signal(0, signal.SIGTERM, lambda: any((out / "first").glob("step-*")))
    assert stopped.wait() == [0, 0], stopped.words()
    whole = checkpoint.latest(out / "first")
    assert whole is not None
    full = Ranks(words, tmp_path / "b", 2, largest_file=60_000)
    assert full.wait() == [2, 2], full.words()
    said = [line for line in full.words()[0].splitlines() if line.startswith("mmbert: ")]
    assert len(said) == 1
    assert f"cannot save {out / 'first' / 'step-0000'}" in said[0]
    assert "(File too large): it needs 5" in said[0]
    assert checkpoint.latest(out / "first") == whole
    assert not list((out / "first").glob("*.partial"))
    again = Ranks(words, tmp_path / "c", 2)
    assert again.wait() == [0, 0], again.words()
    assert_same(out / "first", alone)


def test_a_model_comes_out_of_any_checkpoint(alone: Path, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "run"
    assert Ranks(command(out, "runtime.parallel=fsdp"), tmp_path, 2).wait() == [0, 0]
    found = checkpoint.checkpoints(out / "first")
    model = tmp_path / "model"
    exported = Ranks(["checkpoint", "export", str(found[0]), "--out", str(model)], tmp_path)
    assert exported.wait() == [0], exported.words()
    assert exported.words() == [f"{model}\n"]
    theirs = MaskedLM.load(checkpoint.checkpoints(alone)[0])
    for name, tensor in MaskedLM.load(model).state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=0, atol=1e-5)
    models = checkpoints_of(out / "first")
    assert models == [*(out / "first" / "models" / path.name for path in found[:-1]), out / "first" / "final"]
    assert load_state(models[0]).keys() == load_state(model).keys()
    (found[0] / "state.json").write_text("{}", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"no whole checkpoint \(the checksum of state.json"):
        export(found[0], tmp_path / "other")
    with pytest.raises(TrainingError, match="no such checkpoint"):
        export(tmp_path / "nowhere", tmp_path / "other")
