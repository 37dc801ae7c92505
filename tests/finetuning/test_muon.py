"""Muon beside AdamW: torch's own optimizers are the oracle, and a run that goes on makes the same steps."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmbert.finetuning import muon
from mmbert.finetuning.muon import MuonAdamW, matrices_of_layers, orthogonal


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(10, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 24), nn.Linear(24, 8), nn.LayerNorm(8)])
        self.classifier = nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> Any:
        x = self.embeddings(ids)
        for layer in self.layers:
            x = layer(x)
        return self.classifier(x)


def _steps(model: nn.Module, optimizers: list[Any], count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        ids = torch.randint(0, 10, (16,), generator=torch.Generator().manual_seed(number))
        nn.functional.cross_entropy(model(ids), ids % 3).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def _adamw(model: nn.Module) -> torch.optim.AdamW:
    pulled = [weight for weight in model.parameters() if weight.ndim == 2]
    free = [weight for weight in model.parameters() if weight.ndim != 2]
    return torch.optim.AdamW([{"params": pulled, "weight_decay": 0.1}, {"params": free, "weight_decay": 0.0}], lr=1e-2)


@pytest.mark.parametrize("bf16", [True, False])
def test_it_is_torchs_muon_and_adamw(bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "choose_precision", lambda *_: "bf16" if bf16 else "fp32")
    torch.manual_seed(0)
    ours = _Model()
    theirs = copy.deepcopy(ours)
    matrices = matrices_of_layers(theirs)
    moved = {id(weight) for weight in matrices}
    assert [tuple(weight.shape) for weight in matrices] == [(24, 8), (8, 24)]
    rest = [weight for weight in theirs.parameters() if id(weight) not in moved]
    oracle = [
        torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [
                {"params": [weight for weight in rest if weight.ndim == 2], "weight_decay": 0.1},
                {"params": [weight for weight in rest if weight.ndim != 2], "weight_decay": 0.0},
            ],
            lr=1e-2,
        ),
    ]
    _steps(ours, [MuonAdamW(_adamw(ours), matrices_of_layers(ours))], 4)
    _steps(theirs, oracle, 4)
    for (name, own), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        # torch's Muon is always in bf16, whose rounding moves a step by up to a tenth of it
        torch.testing.assert_close(own, other, rtol=0, atol=1e-6 if bf16 else 4e-3, msg=name)


def test_a_step_is_nearly_orthogonal() -> None:
    matrix = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    found = torch.linalg.svdvals(orthogonal(matrix).float())
    assert found.min() > 0.6
    assert found.max() < 1.3
    assert torch.isfinite(orthogonal(torch.zeros(4, 4))).all()


def test_it_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    whole = _Model()
    stopped = copy.deepcopy(whole)
    _steps(whole, [MuonAdamW(_adamw(whole), matrices_of_layers(whole))], 6)
    first = MuonAdamW(_adamw(stopped), matrices_of_layers(stopped))
    _steps(stopped, [first], 3)
    again = MuonAdamW(_adamw(stopped), matrices_of_layers(stopped))
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    _steps(stopped, [again], 3, first=3)
    for (name, own), other in zip(whole.named_parameters(), stopped.parameters(), strict=True):
        assert torch.equal(own, other), name


def _train_as(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    if world > 1:
        torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world)
    torch.manual_seed(0)
    model = _Model()
    _steps(model, [MuonAdamW(_adamw(model), matrices_of_layers(model))], 3)
    torch.save(model.state_dict(), folder / f"{rank}-of-{world}")
    if world > 1:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_work_and_find_the_same(world: int, tmp_path: Path) -> None:
    """Also more processes than there are matrices."""
    for ranks in (1, world):
        torch.multiprocessing.spawn(_train_as, (ranks, tmp_path), ranks)  # type: ignore[no-untyped-call]
    alone, *others = (torch.load(path, weights_only=True) for path in sorted(tmp_path.glob("*-of-*")))
    assert len(others) == world
    for name, weight in alone.items():
        assert all(torch.equal(weight, other[name]) for other in others), name


def test_a_scheduler_sees_every_group() -> None:
    model = _Model()
    optimizer = MuonAdamW(_adamw(model), matrices_of_layers(model))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    assert schedule.get_last_lr() == [0.0] * 3  # matrices of layers; other matrices; the rest
    before = copy.deepcopy(model.state_dict())
    _steps(model, [optimizer], 1)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
