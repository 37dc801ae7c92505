"""How near the precisions are on a trained model and real text: learned weights have other ranges than drawn ones."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from native_targets import built

from mmbert.inference import precision
from mmbert.inference.native.kernel import Kernels
from mmbert.model.config import ModelConfig
from mmbert.model.encoder import Encoder
from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed
from mmbert.training.loss import loss_sum

BUILT = {name: found for name, found in built().items() if isinstance(found, Kernels)}
ROOT = Path(__file__).resolve().parents[2]
BOS, EOS, MASK, FIRST = 1, 2, 3, 4
STEPS, BATCH, LENGTH = 250, 16, 64
BOUND = {"fp32": 0.999999, "bf16": 0.99999, "int8": 0.9995}
"""Smallest cosine of a text's vector to that in fp32."""


def ids_of(text: str) -> np.ndarray:
    return np.array([BOS, *(FIRST + byte for byte in text.encode()), EOS])


def paragraphs() -> list[str]:
    """The project's own prose."""
    text = (ROOT / "README.md").read_text(encoding="utf-8") + (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    return [part.strip() for part in text.split("\n") if len(part) > 40]


@pytest.fixture(scope="module")
def trained() -> Encoder:
    """A language model of bytes that was trained until it predicts better than the frequencies of single bytes."""
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=FIRST + 256, hidden_size=64, intermediate_size=96, num_layers=3, num_heads=2, initializer_range=0.08
    )  # fmt: skip
    model = MaskedLM(config)
    text = ids_of("\n".join(paragraphs()))
    draw = np.random.default_rng(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = 3e-3 * (1 - step / STEPS)
        rows, labels, targets = [], [], []
        for row in range(BATCH):
            start = draw.integers(0, len(text) - LENGTH)
            ids = text[start : start + LENGTH].copy()
            hidden = np.flatnonzero(draw.random(LENGTH) < 0.3)
            labels.append(ids[hidden])
            targets.append(hidden + row * LENGTH)
            ids[hidden] = MASK
            rows.append(ids)
        packed = Packed.from_lists(rows)
        packed = replace(packed, labels=np.concatenate(labels), targets=np.concatenate(targets))
        loss = loss_sum(model, packed.to()) / sum(map(len, labels))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    counts = np.bincount(text, minlength=FIRST + 256)
    shares = counts[counts > 0] / counts.sum()
    assert np.mean(losses[-20:]) < 0.8 * -(shares * np.log(shares)).sum(), "it has learned from what stands around"
    return model.model.eval().requires_grad_(False)


def vectors(encoder: Encoder, texts: list[str]) -> torch.Tensor:
    packed = Packed.from_lists([ids_of(text) for text in texts]).to()
    with torch.inference_mode():
        states = encoder(packed)
    return torch.stack([part.mean(0) for part in states.split([len(ids_of(text)) for text in texts])])


@pytest.mark.parametrize("kernels", BUILT.values(), ids=BUILT)  # skipped where none can be built
@pytest.mark.parametrize("used", BOUND)
def test_vectors_of_a_trained_model(
    trained: Encoder, kernels: Kernels, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMBERT_NATIVE", kernels.target.name)
    made = copy.deepcopy(trained)
    assert precision.apply_precision(made, torch.device("cpu"), used) == used
    texts = paragraphs()[:60]
    cosines = torch.nn.functional.cosine_similarity(vectors(made, texts), vectors(trained, texts), dim=1)
    assert cosines.min() > BOUND[used]
