"""A run whose shards are damaged: it ends and says where, or goes on without them, the same each time."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from small_run import write_recipe

from conftest import Trained
from mmbert.data.bad_shards import BadShards
from mmbert.errors import BadShard
from mmbert.model.weights import load_state
from mmbert.recipe import Recipe
from mmbert.training.pretrain import pretrain

SHARD = "shards/words/swh_Latn/00000.tokens"


@pytest.fixture
def data(trained: Trained, tmp_path: Path) -> Path:
    """The corpus once more, a bit of one of its shards flipped."""
    shutil.copytree(trained.data, tmp_path / "data")
    path = tmp_path / "data" / SHARD
    content = bytearray(path.read_bytes())
    content[4 * 1500] ^= 1
    path.write_bytes(content)
    return tmp_path / "data"


def recipe(trained: Trained, *changes: str) -> Recipe:
    return write_recipe(trained.home, [*changes, "phases.first.tokens=4096", "phases.second.tokens=2048"])[0]


def test_the_run_stops_before_its_first_step(trained: Trained, data: Path, tmp_path: Path) -> None:
    with pytest.raises(BadShard, match=r"00000\.tokens is damaged at tokens 1024 to 2047, documents \d+ to \d+"):
        pretrain(recipe(trained), tmp_path / "run", data)
    assert not (tmp_path / "run" / "first").exists()


@pytest.mark.parametrize("verify", ["true", "false"])
def test_the_run_goes_on_without_it(trained: Trained, data: Path, tmp_path: Path, verify: str) -> None:
    skip = ["runtime.on_bad_shard=skip", f"runtime.verify={verify}"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    pretrain(recipe(trained, *skip), whole, data)
    (left,) = BadShards(whole).shards
    assert (left.file, left.phase) == (SHARD.removeprefix("shards/"), None if verify == "true" else "first")
    pretrain(recipe(trained, *skip), parts, data, phases=["first"])
    shutil.copy(trained.data / SHARD, data / SHARD)  # repaired meanwhile, and the option put back: the list holds
    pretrain(recipe(trained), parts, data)
    assert BadShards(parts).shards == BadShards(whole).shards
    mine, theirs = (load_state(folder / "second" / "final") for folder in (parts, whole))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
