"""Predicted memory: against what autograd keeps, and against the peak of a process that trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch

from mmbert.estimate.memory import training_memory
from mmbert.model.config import ModelConfig
from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed


@pytest.fixture(autouse=True)
def by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate counts what torch keeps, as on a GPU; native kernels of a CPU keep less. Also in processes."""
    monkeypatch.setenv("MMBERT_NATIVE", "0")


NANO = ModelConfig.preset("nano", vocab_size=500, attention_out_dropout=0.1, num_layers=7)

SHAPE = {"hidden_size": 128, "intermediate_size": 256, "num_layers": 6, "num_heads": 4, "attention_out_dropout": 0.1}
CASES: list[tuple[int, int, bool, Literal["fp32", "bf16"]]] = [
    (2048, 3072, False, "bf16"),  # activations are most of it
    (2048, 8192, True, "fp32"),  # the inputs of layers, and one layer
    (65536, 512, False, "fp32"),  # weights, moments, and gradients of the table
]
"""(vocabulary, tokens, checkpointing, precision)."""

PEAK = """
import json, sys
from pathlib import Path
import numpy as np, torch
from mmbert.model.config import ModelConfig
from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed
from mmbert.training.loss import loss_sum
from mmbert.training.optim import StableAdamW, gradient_norm, parameter_groups

shape, cases = json.loads(sys.argv[1]), json.loads(sys.argv[2])
torch.set_num_threads(1)

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name))) * 1024

def train(vocab_size, tokens, checkpointing, precision):
    whole = Packed.from_lists([np.random.default_rng(0).integers(5, vocab_size, 128)] * (tokens // 128))
    targets = np.arange(0, whole.tokens, 5)
    packed = Packed(whole.ids, whole.offsets, whole.longest, targets, whole.ids[targets]).to()
    model = MaskedLM(ModelConfig(vocab_size=vocab_size, **shape)).train()
    model.model.gradient_checkpointing = checkpointing
    optimizer = StableAdamW(parameter_groups(model, 0.1), lr=1e-3)
    for move in (True, False):  # the second pass beside the moments, then a third beside gradients too
        for _ in range(1 if move else 2):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                loss = loss_sum(model, packed)
            loss.backward()
        if move:
            gradient_norm(model.parameters())
            optimizer.step()
            optimizer.zero_grad()

train(600, 256, True, "bf16")  # what the libraries set up once is not the model's
for case in cases:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status("VmRSS")
    train(*case)
    print(status("VmHWM") - before)
"""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_are_near_what_autograd_keeps(precision: Literal["fp32", "bf16"]) -> None:
    model = MaskedLM(NANO)
    packed = Packed.from_lists([[7] * 128] * 8 + [[7] * 300] * 3).to()
    packed = Packed(packed.ids, packed.offsets, packed.longest, torch.arange(0, packed.tokens, 4))
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that its address is not given away again
        return x

    mixed = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), mixed:
        features = model.features(packed)
    assert features.requires_grad
    estimate = training_memory(NANO, tokens=packed.tokens, mask_rate=0.25, precision=precision, device="cpu")
    total = sum(storage.nbytes() for storage in kept.values())
    assert estimate.activations + estimate.copies == pytest.approx(total, rel=0.15)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")
def test_a_process_that_trains_takes_what_is_predicted() -> None:
    command = [sys.executable, "-c", PEAK, json.dumps(SHAPE), json.dumps(CASES)]
    # glibc keeps freed memory for itself, a third more than is in use, unless it maps every tensor by itself
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    peaks = [int(line) for line in done.stdout.split()]
    for peak, (vocab_size, tokens, checkpointing, precision) in zip(peaks, CASES, strict=True):
        predicted = training_memory(
            ModelConfig(vocab_size=vocab_size, **SHAPE),
            tokens=tokens, mask_rate=0.2, precision=precision, checkpointing=checkpointing, device="cpu",
        )  # fmt: skip
        assert predicted.total > 100e6  # or the measured peak would be the libraries'
        assert peak == pytest.approx(predicted.total, rel=0.25), (vocab_size, tokens, checkpointing)


def test_memory_of_base_is_what_its_parts_say() -> None:
    config = ModelConfig.preset("base")
    plain = training_memory(config, tokens=65_536, mask_rate=0.3)
    spared = training_memory(config, tokens=65_536, mask_rate=0.3, checkpointing=True)
    assert plain.weights == plain.gradients == 4 * 307_786_240
    assert plain.moments == 8 * 307_786_240
    parts = (plain.weights, plain.gradients, plain.moments, plain.copies, plain.activations, plain.transient)
    assert plain.total == sum(parts)
    assert spared.activations < plain.activations / 3
    assert training_memory(config, tokens=131_072, mask_rate=0.3).activations // 2 == plain.activations
    # 4,096 rows of logits in bf16 and twice in fp32; the loss's gradient of the table in fp32, a copy in bf16
    assert plain.transient == 4096 * 256_000 * (2 + 4 + 4) + 768 * 256_000 * (4 + 2)


def test_sharding_divides_what_every_device_would_hold() -> None:
    config = ModelConfig.preset("base")
    whole = training_memory(config, tokens=8192, mask_rate=0.3)
    part = training_memory(config, tokens=8192, mask_rate=0.3, shards=8)
    assert (part.weights, part.gradients, part.moments) == (
        whole.weights // 8, whole.gradients // 8, whole.moments // 8,
    )  # fmt: skip
    assert part.activations == whole.activations
    # in fp32: two layers, and all that is no layer
    assert part.copies - whole.copies == 4 * (2 * 5_013_504 + 307_786_240 - 22 * 5_013_504)
