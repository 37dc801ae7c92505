"""Sizes and costs against the published figures and against the model itself."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmbert.model.config import ModelConfig
from mmbert.model.count import flops_per_token, layer_matrices, parameters, seen_in_window
from mmbert.model.encoder import Encoder
from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed

NANO = ModelConfig.preset("nano", vocab_size=500, attention_out_dropout=0.1, num_layers=7)


@pytest.mark.parametrize(
    ("name", "encoder", "inner", "masked_lm"),
    [("base", 306_939_648, 110_331_648, 307_786_240), ("small", 140_493_696, 42_189_696, 140_897_536)],
)
def test_published_sizes(name: str, encoder: int, inner: int, masked_lm: int) -> None:
    counted = parameters(ModelConfig.preset(name))
    assert (counted.encoder, counted.without_embeddings, counted.masked_lm) == (encoder, inner, masked_lm)


def test_sizes_are_those_of_the_modules() -> None:
    assert parameters(NANO).masked_lm == sum(p.numel() for p in MaskedLM(NANO).parameters())
    assert parameters(NANO).encoder == sum(p.numel() for p in Encoder(NANO).parameters())


@pytest.mark.parametrize("length", [1, 3, 64, 65, 66, 100, 128, 129, 130, 1000])
def test_window_is_what_a_full_mask_would_show(length: int) -> None:
    where = torch.arange(length)
    shown = ((where[:, None] - where).abs() <= 64).float().mean(0).sum()
    assert seen_in_window(length, 128) == pytest.approx(float(shown))


def test_flops_of_published_shapes() -> None:
    small, base = ModelConfig.preset("small"), ModelConfig.preset("base")
    assert flops_per_token(small, 1).forward == pytest.approx(2 * 42_172_416, rel=1e-3)
    assert flops_per_token(base, 512).forward - 2 * 110_297_088 == pytest.approx(17.8e6, rel=5e-3)
    assert flops_per_token(small, 8192).forward - 2 * 42_172_416 == pytest.approx(103.4e6, rel=5e-3)
    with_head = flops_per_token(small, 512, mask_rate=0.3)
    assert with_head.forward - flops_per_token(small, 512).forward == pytest.approx(0.6 * (384**2 + 384 * 256_000))
    assert with_head.training == 3 * with_head.forward


def test_flops_of_matrices_are_those_torch_counts() -> None:
    model = MaskedLM(NANO)
    packed = Packed.from_lists([[7] * 64] * 4).to()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.logits(packed)
    products = sum(n for op, n in counter.get_flop_counts()["Global"].items() if "attention" not in str(op))
    assert products == 256 * (2 * 7 * layer_matrices(NANO) + 2 * (192**2 + 192 * 500))
