"""Where a model is loaded; on Apple's GPU, its numbers beside those of the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sentence_folders import TEXTS

from mmbert.errors import ConfigError
from mmbert.inference import pick_device as module
from mmbert.inference.embedder import Embedder
from mmbert.inference.pick_device import mps_is_faster, pick_device, seconds_per_batch
from mmbert.model.config import ModelConfig

CONFIG = ModelConfig(vocab_size=1024, hidden_size=32, intermediate_size=48, num_layers=3, num_heads=2)
HAS_MPS = torch.backends.mps.is_available()
needs_mps = pytest.mark.skipif(not HAS_MPS, reason="no Apple GPU (MPS)")


def test_named_devices() -> None:
    assert pick_device("cpu", CONFIG) == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match="no device"):
        pick_device("gpu", CONFIG)
    with pytest.raises(ConfigError, match="CUDA devices"):
        pick_device(f"cuda:{torch.cuda.device_count()}", CONFIG)


@pytest.mark.skipif(HAS_MPS, reason="this is a Mac with MPS")
def test_mps_where_there_is_none() -> None:
    with pytest.raises(ConfigError, match="no Apple GPU"):
        pick_device("mps", CONFIG)
    assert not mps_is_faster(CONFIG)  # what MPS cannot run is not chosen, with a warning


def test_the_measurement_runs_and_leaves_random_numbers_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert seconds_per_batch(CONFIG, torch.device("cpu")) > 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="auto is CUDA here")
@pytest.mark.parametrize(("faster", "precision", "wanted"), [
    (True, "auto", "mps"), (True, "int8", "cpu"), (True, "bf16", "cpu"), (False, "auto", "cpu"), (False, "fp16", "cpu"),
])  # fmt: skip
def test_auto_takes_the_faster_one(faster: bool, precision: str, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_has_mps", lambda: True)
    monkeypatch.setattr(module, "mps_is_faster", lambda config: faster)
    assert pick_device("auto", CONFIG, precision).type == wanted


@needs_mps
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("fp16", 5e-3)])
def test_vectors_of_mps_are_those_of_the_cpu(bare: Path, precision: str, bound: float) -> None:
    wanted = Embedder.load(bare, device="cpu", precision="fp32")(TEXTS)
    found = Embedder.load(bare, device="mps", precision=precision)(TEXTS)
    assert abs(found - wanted).max() < bound
