"""One step: the loss and gradient of all labels together, whatever their micro-batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_run import write_recipe

from conftest import Trained
from mmbert.data.pack import Cursor
from mmbert.data.steps import Step, Steps
from mmbert.errors import NotFinite
from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.training.build import phase_config
from mmbert.training.checkpoint import State
from mmbert.training.distributed import Mesh
from mmbert.training.loop import seed_dropout, train_step
from mmbert.training.optim import StableAdamW, gradient_norm, parameter_groups
from mmbert.training.phase_context import PhaseContext


def make(trained: Trained, dropout: float = 0.0) -> tuple[PhaseContext, MaskedLM, StableAdamW, Step]:
    recipe, _ = write_recipe(trained.home, [f"model.mlp_dropout={dropout}"])
    tokenizer = Tokenizer.load(trained.data / "tokenizer")
    ctx = PhaseContext(recipe, "second", Path(), trained.data / "shards", tokenizer, Mesh(), "fp32")
    torch.manual_seed(0)
    model = MaskedLM(phase_config(recipe, "second", tokenizer)).train()
    step = next(Steps(recipe, "second", ctx.shards, tokenizer).after(Cursor()))
    return ctx, model, StableAdamW(parameter_groups(model, 0.1), lr=1.0), step


def without_labels(packed: Packed) -> Packed:
    nothing = torch.zeros(0, dtype=torch.int64)
    return Packed(packed.ids, packed.offsets, packed.longest, nothing, nothing)


@pytest.mark.parametrize("uneven", [False, True])
def test_equals_the_plain_formula(trained: Trained, uneven: bool) -> None:
    ctx, model, optimizer, step = make(trained)
    first, second = step.micro_batches
    assert step.labels == len(first.labels) + len(second.labels)
    if uneven:  # a mean of means would now be far off
        second = Packed(second.ids, second.offsets, second.longest, second.targets[:3], second.labels[:3])
        step = replace(step, micro_batches=[first, second], labels=len(first.labels) + 3)
    logits = torch.cat([model.logits(first), model.logits(second)])
    expected = F.cross_entropy(logits, torch.cat([first.labels, second.labels]))
    expected.backward()
    norm = gradient_norm(model.parameters()).item()
    model.zero_grad()
    found = train_step(ctx, model, optimizer, step, 1e-3, State("second"))
    assert found == pytest.approx((expected.item(), norm, True), rel=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_micro_batches_without_labels_add_zero(trained: Trained) -> None:
    ctx, model, optimizer, step = make(trained)
    first, second = step.micro_batches
    alone = train_step(ctx, model, optimizer, replace(step, micro_batches=[first]), 0.0, State("second"))
    with_empty = replace(step, micro_batches=[first, without_labels(second)])
    assert train_step(ctx, model, optimizer, with_empty, 0.0, State("second")) == pytest.approx(alone, rel=1e-6)
    nothing = replace(step, micro_batches=[without_labels(first)], labels=0)
    assert train_step(ctx, model, optimizer, nothing, 1e-3, State("second")) == (0.0, 0.0, True)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_dropout_belongs_to_the_place_in_the_run(trained: Trained) -> None:
    ctx, model, optimizer, step = make(trained, dropout=0.3)
    once = train_step(ctx, model, optimizer, step, 0.0, State("second"))
    torch.rand(7)
    assert train_step(ctx, model, optimizer, step, 0.0, State("second")) == once
    assert train_step(ctx, model, optimizer, replace(step, index=1), 0.0, State("second")) != once
    assert train_step(replace(ctx, name="first"), model, optimizer, step, 0.0, State("second")) != once


def test_a_gradient_that_is_not_finite_moves_nothing(trained: Trained) -> None:
    ctx, model, optimizer, step = make(trained)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.head.dense.weight.register_hook(lambda gradient: gradient * float("inf"))
    where = Cursor(draw=41, offset=6, step=9, tokens=9216)
    with pytest.raises(NotFinite, match=r"in phase second at step 9 \(draw 41, offset 6\); no weight was changed"):
        train_step(ctx, model, optimizer, step, 1e-3, State("second", where))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not optimizer.state


def test_dropout_has_the_seed_of_the_phase(trained: Trained) -> None:
    ctx, _, _, step = make(trained)

    def drawn(**seeds: int) -> int:
        phases = {name: phase.model_copy(update={"seed": seeds.get(name)}) for name, phase in ctx.recipe.phases.items()}
        with torch.random.fork_rng():
            seed_dropout(replace(ctx, recipe=ctx.recipe.model_copy(update={"phases": phases})), step, 0)
            return torch.initial_seed()

    assert drawn() == drawn(second=ctx.recipe.seed) != drawn(second=99)
    assert drawn() == drawn(**{next(iter(ctx.recipe.phases)): 99})
