"""Texts of many adapters in one batch, against an encoder with the weights of each adapter merged."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmbert.errors import WeightsError
from mmbert.inference.adapted_layers import MATRICES, adapt
from mmbert.model.adapter import Adapter, LowRank
from mmbert.model.config import ModelConfig
from mmbert.model.encoder import Encoder
from mmbert.packed import Packed

SHAPE = ModelConfig(vocab_size=90, hidden_size=64, intermediate_size=96, num_layers=4, num_heads=2, window=8)
LENGTHS = [7, 30, 1, 30, 12, 3]


def plain() -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(SHAPE).eval().requires_grad_(False)
    for name, parameter in encoder.named_parameters():
        if parameter.dim() == 2:
            parameter.normal_(0, 0.3 if "tok_" in name else 0.1)
    return encoder


def adapter(
    seed: int, layers: range, *, dora: bool = False, rank: int = 4, matrices: tuple[str, ...] = MATRICES
) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    encoder = plain()
    changes = {}
    for layer in layers:
        for name in matrices:
            out, width = encoder.layers[layer].get_submodule(name).weight.shape
            down, up = (torch.randn(shape, generator=generator) for shape in ((rank, width), (out, rank)))
            lengths = torch.rand(out, generator=generator) + 0.5 if dora else None
            changes[f"layers.{layer}.{name}"] = LowRank(down, up, 0.05, lengths)
    return Adapter(Path("some/adapter"), "base", None, changes, {})


ADAPTERS = [
    adapter(1, range(4)), adapter(2, range(4), dora=True), adapter(3, range(1, 2), rank=1),
    adapter(4, range(4), matrices=("attn.Wqkv", "attn.Wo", "mlp.Wo")),
]  # fmt: skip
"""With the last one alone, GELU runs inside its product."""


def merged(own: Adapter | None) -> Encoder:
    encoder = plain()
    state = dict(encoder.state_dict())
    if own is not None:
        own.merge(state)
    encoder.load_state_dict(state)
    return encoder


def texts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(5, 90, (length,), generator=generator).tolist() for length in LENGTHS]


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 2e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("order", [[0, 1, 2, -1, 1, 0], [-1] * 6, [2] * 6, [0, 0, 0, 1, 1, 1], [3, -1, 3, 3, 2, 3]])
def test_every_text_is_read_by_its_own_adapter(dtype: torch.dtype, near: float, order: list[int]) -> None:
    encoder = plain()
    adapt(encoder, ADAPTERS, "fp32" if dtype == torch.float32 else "bf16")
    packed = Packed.from_lists(texts()).to()
    with torch.inference_mode():
        found = packed.unpack(encoder(replace(packed, adapters=order)))
        for number, ids, rows in zip(order, texts(), found, strict=True):
            reference = merged(ADAPTERS[number] if number >= 0 else None)
            wanted = reference(Packed.from_lists([ids]).to())
            assert float((rows - wanted).norm() / wanted.norm()) < near
            others = [merged(own)(Packed.from_lists([ids]).to()) for own in ADAPTERS if own is not ADAPTERS[number]]
            assert all(float((rows - other).norm() / other.norm()) > near for other in others)


def test_a_text_does_not_depend_on_the_adapters_beside_it() -> None:
    encoder = plain()
    adapt(encoder, ADAPTERS, "fp32")
    packed = Packed.from_lists(texts()).to()
    with torch.inference_mode():
        first = packed.unpack(encoder(replace(packed, adapters=[1, 0, 1, 2, -1, 0])))
        alone = encoder(replace(Packed.from_lists([texts()[1]]).to(), adapters=[0]))
    torch.testing.assert_close(first[1], alone, atol=1e-5, rtol=1e-5)


def test_an_encoder_bound_to_an_adapter_uses_it_where_the_batch_does_not_say() -> None:
    encoder = plain()
    adapt(encoder, ADAPTERS, "fp32")
    bound = copy.copy(encoder)
    bound.adapter = 2
    packed = Packed.from_lists(texts()).to()
    with torch.inference_mode():
        assert torch.equal(bound(packed), encoder(replace(packed, adapters=[2] * 6)))
        assert torch.equal(bound(replace(packed, adapters=[0] * 6)), encoder(replace(packed, adapters=[0] * 6)))
    assert encoder.adapter is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"replaced": {"embeddings.tok_embeddings.weight": torch.zeros(1)}}, "changes embeddings.tok_embeddings"),
        ({"low_rank": {"layers.0.attn.Wo": LowRank(torch.zeros(2, 9), torch.zeros(64, 2), 1.0)}}, "was made for base"),
        ({"low_rank": {"layers.9.attn.Wo": LowRank(torch.zeros(2, 64), torch.zeros(64, 2), 1.0)}}, "changes layers.9"),
    ],
)
def test_what_adapters_cannot_share_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(WeightsError, match=named):
        adapt(plain(), [replace(ADAPTERS[0], **changes)], "fp32")
