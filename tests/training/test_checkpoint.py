"""Checkpoints are whole or absent, and know when they are damaged."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import Trained
from mmbert.data.pack import Cursor
from mmbert.errors import TrainingError
from mmbert.model.config import ModelConfig
from mmbert.model.heads import MaskedLM
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.training import checkpoint
from mmbert.training.checkpoint import State
from mmbert.training.distributed import Mesh
from mmbert.training.optim import StableAdamW, parameter_groups
from mmbert.training.phase_context import PhaseContext
from mmbert.training.saver import Saver


def make(layers: int = 2, seed: int = 0) -> tuple[MaskedLM, StableAdamW]:
    torch.manual_seed(seed)
    config = ModelConfig.preset("nano", vocab_size=64, hidden_size=16, intermediate_size=16, num_heads=2)
    model = MaskedLM(config.model_copy(update={"num_layers": layers}))
    optimizer = StableAdamW(parameter_groups(model, 0.1), lr=1e-2)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return model, optimizer


def state(step: int, **values: object) -> State:
    return State("decay", Cursor(draw=7 * step, offset=3, step=step, tokens=100 * step), **values)  # type: ignore[arg-type]


Save = Callable[[int | State, MaskedLM, StableAdamW], Path]


@pytest.fixture
def save(trained: Trained, tmp_path: Path) -> Save:
    """Writes ``tmp_path/step-<number>`` and returns it."""
    tokenizer = Tokenizer.load(trained.data / "tokenizer")
    ctx = PhaseContext(trained.recipe, "first", tmp_path, Path(), tokenizer, Mesh(), "fp32")

    def write(what: int | State, model: MaskedLM, optimizer: StableAdamW) -> Path:
        now = what if isinstance(what, State) else state(what)
        with Saver(ctx) as saver:
            saver.save(now, model, optimizer)
        return checkpoint.path_of(tmp_path, now)

    return write


def test_comes_back_as_it_was(tmp_path: Path, save: Save) -> None:
    model, optimizer = make()
    saved = state(12, optimizer_step=1, meters={"loss": 1.5, "labels": 3}, recipe="abc", precision="bf16")
    path = save(saved, model, optimizer)
    assert path == tmp_path / "step-000012"
    other, moments = make(seed=1)
    assert checkpoint.load(path, other, moments) == saved
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    theirs = moments.state_tensors()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in optimizer.state_tensors().items())
    assert other.decoder.weight is other.model.embeddings.tok_embeddings.weight
    assert [group["step"] for group in moments.param_groups] == [1, 1]


def test_is_a_model_folder_with_sums_that_others_can_check(trained: Trained, save: Save) -> None:
    model, optimizer = make()
    path = save(1, model, optimizer)
    loaded = MaskedLM.load(path)
    assert torch.equal(loaded.head.dense.weight, model.head.dense.weight)
    assert Tokenizer.load(path).fingerprint == Tokenizer.load(trained.data / "tokenizer").fingerprint
    if shutil.which("sha256sum"):
        assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=path, check=False).returncode == 0


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "SHA256SUMS"])
@pytest.mark.parametrize("fault", ["flipped", "cut", "gone"])
def test_latest_is_the_newest_whole_one(
    tmp_path: Path, save: Save, name: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = make()
    older, newer = (save(step, model, optimizer) for step in (9, 10))
    assert checkpoint.latest(tmp_path) == newer
    file = newer / name
    content = bytearray(file.read_bytes())
    if fault == "flipped":
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
    elif fault == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.unlink()
    assert checkpoint.latest(tmp_path) == older
    assert f"{newer} is damaged" in caplog.text


def test_none_where_none_is(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "nowhere") is None


def test_pruning_keeps_the_newest_and_sweeps_up(tmp_path: Path, save: Save) -> None:
    model, optimizer = make()
    for step in (2, 10, 9):
        save(step, model, optimizer)
    (tmp_path / "step-000011.partial").mkdir()
    (tmp_path / "final").mkdir()
    checkpoint.prune(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final", "step-000009", "step-000010"]
    checkpoint.prune(tmp_path, 2)
    assert len(checkpoint.checkpoints(tmp_path)) == 2


def test_a_million_steps_sort_as_numbers(tmp_path: Path) -> None:
    for name in ("step-999999", "step-1000000", "step-000001.old.partial", "step-x"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-999999", "step-1000000"]


def test_another_model_and_another_version_are_refused(tmp_path: Path, save: Save) -> None:
    model, optimizer = make()
    path = save(1, model, optimizer)
    with pytest.raises(TrainingError, match="holds another model"):
        checkpoint.load(path, *make(layers=3))
    values = json.loads((path / "state.json").read_text(encoding="utf-8"))
    (path / "state.json").write_text(json.dumps({**values, "version": 99}), encoding="utf-8")
    with pytest.raises(TrainingError, match="has version 99, and only 1 to 3 can be read"):
        checkpoint.load(path, model, optimizer)
