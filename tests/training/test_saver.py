"""Saving goes on behind the loop's back, and what goes wrong there is not lost."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch

from conftest import Trained
from mmbert.data.pack import Cursor
from mmbert.errors import TrainingError
from mmbert.model.heads import MaskedLM
from mmbert.model.weights import load_state
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.training import build, checkpoint
from mmbert.training.checkpoint import State
from mmbert.training.distributed import Mesh
from mmbert.training.optim import StableAdamW
from mmbert.training.phase_context import PhaseContext
from mmbert.training.saver import Saver

Parts = tuple[PhaseContext, MaskedLM, StableAdamW]


@pytest.fixture
def parts(trained: Trained, tmp_path: Path) -> Parts:
    tokenizer = Tokenizer.load(trained.data / "tokenizer")
    ctx = PhaseContext(trained.recipe, "first", tmp_path / "first", trained.data / "shards", tokenizer, Mesh(), "fp32")
    ctx.folder.mkdir()
    model, optimizer, _ = build.begin(ctx, build.phase_config(trained.recipe, "first", tokenizer))
    return ctx, model, optimizer


def state(step: int, **values: bool) -> State:
    return State("first", Cursor(step=step, tokens=512 * step), **values)


def slow(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Hold every flush to disk back until the event is set."""
    free, flush = threading.Event(), os.fsync

    def wait(descriptor: int) -> None:
        assert free.wait(30)
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", wait)
    return free


def test_weights_may_change_while_the_disk_writes(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, model, optimizer = parts
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    free = slow(monkeypatch)
    with Saver(ctx) as saver:
        saver.save(state(1), model, optimizer)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        while not list(ctx.folder.glob("*.partial/*.partial")):
            assert not saver.failed
        assert checkpoint.checkpoints(ctx.folder) == []
        assert saver.waited() > 0
        assert saver.waited() == 0
        free.set()
        saver.wait()
        (path,) = checkpoint.checkpoints(ctx.folder)
    assert checkpoint.damage(path) is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_state(path).items())


def test_one_at_a_time_and_none_is_left_at_the_end(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, model, optimizer = parts
    free = slow(monkeypatch)
    with Saver(ctx) as saver:
        saver.save(state(1), model, optimizer)
        later = threading.Timer(0.3, free.set)
        later.start()
        saver.save(state(2), model, optimizer)  # waits for the first
        assert free.is_set()
        assert [path.name for path in checkpoint.checkpoints(ctx.folder)][:1] == ["step-000001"]
    assert [path.name for path in checkpoint.checkpoints(ctx.folder)] == ["step-000001", "step-000002"]
    later.join()


def test_errors_of_the_thread_are_raised_once(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx, model, optimizer = parts

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with Saver(ctx) as saver:
        saver.save(state(1), model, optimizer)
        saver.wait()
        monkeypatch.setattr(os, "fsync", full)
        saver.save(state(2), model, optimizer)
        while not saver.failed:
            threading.Event().wait(0.01)
        size = sum(tensor.numel() * 4 for tensor in checkpoint.tensors_of(model, optimizer).values())
        with pytest.raises(TrainingError, match=rf"cannot save \S*step-000002 \(No space left .*: it needs {size:,} b"):
            saver.save(state(3), model, optimizer)
        monkeypatch.undo()
        assert [path.name for path in ctx.folder.iterdir()] == ["step-000001"]
        saver.save(state(3), model, optimizer)
    assert [path.name for path in checkpoint.checkpoints(ctx.folder)] == ["step-000001", "step-000003"]


def test_a_checkpoint_that_was_not_due_goes_with_the_next(parts: Parts) -> None:
    """What remains, and what merging may average, does not depend on where a run was stopped."""
    ctx, model, optimizer = parts
    assert ctx.keep == 3
    with Saver(ctx) as saver:
        for step, due in ((1, True), (2, True), (3, False), (4, True), (5, False)):
            saver.save(state(step, due=due), model, optimizer)
    assert [path.name for path in checkpoint.checkpoints(ctx.folder)] == [f"step-00000{n}" for n in (1, 2, 4, 5)]
