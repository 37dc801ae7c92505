"""Two processes train as one does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_run import write_recipe

from conftest import Trained
from mmbert.errors import ConfigError
from mmbert.model.weights import load_state
from mmbert.training import checkpoint
from mmbert.training.distributed import Mesh, connect
from mmbert.training.pretrain import pretrain


def test_one_process_needs_no_others() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    with connect("auto" if not torch.cuda.is_available() else "cpu") as mesh:
        assert mesh == Mesh(0, 1, torch.device("cpu"))
        assert mesh.main
        mesh.sum_gradients([parameter])
        assert parameter.grad is None
        assert mesh.all_reduce_sum(torch.tensor(3.0)).item() == 3.0
        mesh.barrier()
    assert not torch.distributed.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"runtime\.device is cuda"), connect("cuda"):
        pass


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(trained: Trained, tmp_path: Path) -> None:
    """The batch warm-up begins with one micro-batch a step: there the second process has none and adds zero."""
    changes = ["phases.second=null", "phases.first.tokens=8192"]
    recipe, path = write_recipe(trained.home, changes)
    pretrain(recipe, tmp_path / "one", trained.data)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["--out", str(tmp_path / "two"), "--data", str(trained.data)]
    command = [sys.executable, "-m", "mmbert", "pretrain", str(path), *changes, *where]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank), "MMBERT_QUIET": "1"},
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert [out for out, _ in said] == [f"first\t{tmp_path / 'two' / 'first' / 'final'}\n", ""]  # one of them talks
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "first" / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert [line["tokens"] for line in one] == [line["tokens"] for line in two]
    assert [line["labels"] for line in one] == [line["labels"] for line in two]
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-5)
    assert [line["grad_norm"] for line in two] == pytest.approx([line["grad_norm"] for line in one], rel=1e-3)
    mine, theirs = (load_state(tmp_path / name / "first" / "final") for name in ("two", "one"))
    assert all((mine[key] - theirs[key]).abs().max() < 1e-3 for key in theirs)
    newest = checkpoint.latest(tmp_path / "two" / "first")
    assert newest is not None
    assert checkpoint.read_state(newest).cursor.tokens == 8192
