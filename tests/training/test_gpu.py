"""What only CUDA devices can show: the same training on them, alone and together over NCCL."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import Ranks
from small_run import write_recipe

from conftest import Trained
from mmbert.model.weights import load_state
from mmbert.training import checkpoint
from mmbert.training.pretrain import pretrain

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CHANGES = ["phases.second=null", "phases.first.tokens=8192", "runtime.keep=9", "model.mlp_dropout=0.0"]
"""Without dropout: its random numbers are the device's own."""


def lines(phase: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (phase / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def assert_close(mine: Path, theirs: Path, rel: float) -> None:
    for key in ("step", "tokens", "labels"):
        assert [line[key] for line in lines(mine)] == [line[key] for line in lines(theirs)]
    for key in ("loss", "grad_norm"):
        assert [line[key] for line in lines(mine)] == pytest.approx([line[key] for line in lines(theirs)], rel=rel)


@pytest.fixture(scope="module")
def on_cpu(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cpu")
    pretrain(write_recipe(trained.home, [*CHANGES, "runtime.device=cpu"])[0], out, trained.data)
    return out / "first"


@pytest.mark.parametrize(("precision", "rel"), [("fp32", 1e-3), ("bf16", 3e-2), ("fp16", 1e-2)])
def test_one_device_trains_as_the_cpu_does(
    on_cpu: Path, trained: Trained, tmp_path: Path, precision: str, rel: float
) -> None:
    changes = [*CHANGES, "runtime.device=cuda", f"runtime.precision={precision}"]
    pretrain(write_recipe(trained.home, changes)[0], tmp_path, trained.data)
    assert_close(tmp_path / "first", on_cpu, rel)


def test_a_checkpoint_is_a_copy_of_its_moment(on_cpu: Path, trained: Trained, tmp_path: Path) -> None:
    """Saved on the device while it trains on: the run goes on from it, on the CPU, to the same end."""
    changes = [*CHANGES, "runtime.precision=fp32"]
    pretrain(write_recipe(trained.home, [*changes, "runtime.device=cuda"])[0], tmp_path, trained.data)
    first = tmp_path / "first"
    for path in checkpoint.checkpoints(first)[1:]:
        path.rename(path.with_name(f"not-{path.name}"))
    (first / "final").rename(first / "on-cuda")
    pretrain(write_recipe(trained.home, [*changes, "runtime.device=cpu"])[0], tmp_path, trained.data)
    there, here = load_state(first / "on-cuda"), load_state(first / "final")
    assert all((there[name] - here[name]).abs().max() < 1e-3 for name in here)


def test_fp16_resumes_with_its_scale(trained: Trained, tmp_path: Path) -> None:
    changes = [*CHANGES, "runtime.device=cuda", "runtime.precision=fp16"]
    pretrain(write_recipe(trained.home, changes)[0], tmp_path, trained.data)
    first = tmp_path / "first"
    whole = checkpoint.read_state(checkpoint.checkpoints(first)[-1])
    for path in checkpoint.checkpoints(first)[1:]:
        path.rename(path.with_name(f"not-{path.name}"))
    (first / "final").rename(first / "before")
    pretrain(write_recipe(trained.home, changes)[0], tmp_path, trained.data)
    assert checkpoint.read_state(checkpoint.checkpoints(first)[-1]).scaler == whole.scaler
    one, two = load_state(first / "before"), load_state(first / "final")
    assert all((one[name] - two[name]).abs().max() < 1e-3 for name in one)  # atomics of CUDA's embedding gradient


@pytest.mark.distributed
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_devices_train_as_one(on_cpu: Path, trained: Trained, tmp_path: Path, parallel: str) -> None:
    _, path = write_recipe(trained.home)
    changes = [*CHANGES, "runtime.precision=fp32", f"runtime.parallel={parallel}"]
    words = ["pretrain", str(path), *changes, "--out", str(tmp_path / "run"), "--data", str(trained.data)]
    ranks = Ranks(words, tmp_path, 2)
    assert ranks.wait() == [0, 0], ranks.words()
    assert_close(tmp_path / "run" / "first", on_cpu, 1e-3)


@pytest.mark.distributed
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_two_devices_end_together(trained: Trained, tmp_path: Path, parallel: str, how: signal.Signals) -> None:
    """NCCL itself does not notice a lost rank: the flags over gloo before each pass do, or the time runs out."""
    _, path = write_recipe(trained.home)
    changes = [*CHANGES, "phases.first.tokens=1B", f"runtime.parallel={parallel}", "runtime.timeout=20"]
    words = ["pretrain", str(path), *changes, "--out", str(tmp_path / "run"), "--data", str(trained.data)]
    ranks = Ranks(words, tmp_path, 2)
    metrics = tmp_path / "run" / "first" / "metrics.jsonl"
    ranks.signal(1, how, lambda: metrics.is_file() and metrics.read_bytes().count(b"\n") >= 2)
    codes = ranks.wait()
    if how == signal.SIGTERM:
        assert codes == [0, 0], ranks.words()
    else:
        assert codes[0] not in (0, None, -signal.SIGKILL), ranks.words()
