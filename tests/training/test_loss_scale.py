"""fp16: the scale of the loss, steps that overflow, and resuming to the bit. On a CPU, whose fp16 is slow but exact."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_run import write_recipe

from conftest import Trained
from mmbert.data.pack import Cursor
from mmbert.data.steps import Steps
from mmbert.errors import ConfigError, NotFinite
from mmbert.model.heads import MaskedLM
from mmbert.model.weights import load_state
from mmbert.recipe import Recipe
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.training import checkpoint
from mmbert.training import pretrain as pretrain_module
from mmbert.training.build import phase_config
from mmbert.training.checkpoint import State
from mmbert.training.distributed import Mesh
from mmbert.training.loop import train_step
from mmbert.training.loss_scale import loss_scaler, overflowed, scaler_state
from mmbert.training.optim import StableAdamW, parameter_groups
from mmbert.training.phase_context import PhaseContext
from mmbert.training.pretrain import pretrain

CPU = torch.device("cpu")
CHANGES = ["runtime.precision=fp16", "runtime.device=cpu", "phases.second=null", "phases.first.tokens=6144"]


@pytest.fixture(scope="module")
def in_fp16(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    """A finished run in fp16."""
    recipe, _ = write_recipe(trained.home, [*CHANGES, "runtime.keep=9", "runtime.checkpoint_every=1024"])
    folder = tmp_path_factory.mktemp("fp16")
    pretrain(recipe, folder, trained.data)
    return recipe, folder


def make(trained: Trained, state: State) -> tuple[PhaseContext, MaskedLM, StableAdamW]:
    recipe, _ = write_recipe(trained.home, ["model.mlp_dropout=0.0"])
    tokenizer = Tokenizer.load(trained.data / "tokenizer")
    ctx = PhaseContext(recipe, state.phase, Path(), trained.data / "shards", tokenizer, Mesh(), "fp16")
    torch.manual_seed(0)
    model = MaskedLM(phase_config(recipe, state.phase, tokenizer)).train()
    return ctx, model, StableAdamW(parameter_groups(model, 0.1), lr=1.0)


def test_resuming_gives_the_same_bits_and_scale(in_fp16: tuple[Recipe, Path], trained: Trained, tmp_path: Path) -> None:
    recipe, folder = in_fp16
    shutil.copytree(folder, tmp_path / "run")
    kept = checkpoint.checkpoints(tmp_path / "run" / "first")
    for path in (*kept[1:], tmp_path / "run" / "first" / "final"):
        shutil.rmtree(path)
    scaler = checkpoint.read_state(kept[0]).scaler
    assert scaler == {"scale": 65536.0, "_growth_tracker": checkpoint.read_state(kept[0]).cursor.step}
    pretrain(recipe, tmp_path / "run", trained.data)
    ends = [checkpoint.read_state(checkpoint.checkpoints(run / "first")[-1]) for run in (folder, tmp_path / "run")]
    assert ends[0].scaler == ends[1].scaler
    one, two = (load_state(run / "first" / "final") for run in (folder, tmp_path / "run"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_trains_as_fp32_does(in_fp16: tuple[Recipe, Path], trained: Trained, tmp_path: Path) -> None:
    changes = [change for change in CHANGES if "precision" not in change]
    pretrain(write_recipe(trained.home, [*changes, "runtime.precision=fp32"])[0], tmp_path, trained.data)
    half, single = (checkpoint.checkpoints(run / "first")[-1] for run in (in_fp16[1], tmp_path))
    norms = [checkpoint.read_state(path).norms for path in (half, single)]
    assert norms[0] == pytest.approx(norms[1], rel=0.02)
    assert norms[0] != norms[1]


def test_an_overflow_moves_nothing_and_halves_the_scale(trained: Trained) -> None:
    state = State("second", scaler={"scale": 2.0**60, "_growth_tracker": 7})
    ctx, model, optimizer = make(trained, state)
    step = next(Steps(ctx.recipe, "second", ctx.shards, ctx.tokenizer).after(Cursor()))
    scaler = loss_scaler(CPU, "fp16", state)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = train_step(ctx, model, optimizer, step, 1e-3, state, scaler=scaler)
    assert result is not None
    assert not result.moved
    assert math.isfinite(result.loss)
    assert scaler_state(scaler) == {"scale": 2.0**59, "_growth_tracker": 0}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(group["step"] == 0 for group in optimizer.param_groups)
    scaler = loss_scaler(CPU, "fp16", replace(state, scaler={"scale": 1024.0, "_growth_tracker": 0}))
    result = train_step(ctx, model, optimizer, step, 1e-3, state, scaler=scaler)
    assert result is not None
    assert result.moved
    assert not all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_no_scale_can_mend_is_an_error(trained: Trained) -> None:
    state = State("second", scaler={"scale": 1.0, "_growth_tracker": 0})
    ctx, model, optimizer = make(trained, state)
    step = next(Steps(ctx.recipe, "second", ctx.shards, ctx.tokenizer).after(Cursor()))
    model.head.dense.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(NotFinite, match=r"try runtime\.precision=fp32"):
        train_step(ctx, model, optimizer, step, 1e-3, state, scaler=loss_scaler(CPU, "fp16", state))


def test_only_gradients_that_are_not_finite_are_overflows() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.tensor([1.0, float("inf"), 0.0])
    assert overflowed([parameter], 1.0, math.inf, 2.0)
    assert not overflowed([parameter], math.nan, math.inf, 2.0), "the forward pass itself"
    assert not overflowed([parameter], 1.0, math.inf, 1.0), "nothing left to halve"
    parameter.grad = torch.full((3,), 3e38)
    assert not overflowed([parameter], 1.0, math.inf, 2.0), "finite gradients, whose norm is none"


def test_other_precisions_have_no_scale() -> None:
    assert loss_scaler(CPU, "bf16", State("first")) is None
    assert scaler_state(None) == {}


def test_shards_do_not_train_in_fp16(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain_module.Mesh, "sharded", property(lambda mesh: True))
    recipe, _ = write_recipe(trained.home, [*CHANGES, "runtime.parallel=fsdp"])
    with pytest.raises(ConfigError, match="take ddp"):
        pretrain(recipe, tmp_path, trained.data)
