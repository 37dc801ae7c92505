"""Fresh weights: the distributions of full_megatron."""

from __future__ import annotations

import math

import pytest
import torch

from mmbert.model.config import ModelConfig
from mmbert.model.heads import MaskedLM
from mmbert.model.init import init_weights

CONFIG = ModelConfig(vocab_size=4000, hidden_size=64, intermediate_size=96, num_layers=8, num_heads=4)
TRUNCATED = 0.8796  # standard deviation of a unit normal cut at two deviations


def test_every_weight_has_its_distribution() -> None:
    torch.manual_seed(0)
    model = MaskedLM(CONFIG)
    assert model.decoder.weight is model.model.embeddings.tok_embeddings.weight
    for name, weight in model.state_dict().items():
        if name.endswith("norm.weight"):
            assert torch.equal(weight, torch.ones_like(weight)), name
        elif name == "decoder.bias":
            bound = 1 / math.sqrt(64)
            assert bound * 0.99 < float(weight.abs().max()) <= bound
            assert abs(float(weight.std()) / (bound / math.sqrt(3)) - 1) < 0.05
        else:
            out = name.endswith(("attn.Wo.weight", "mlp.Wo.weight"))
            std = 0.02 / math.sqrt(2 * 8) if out else 0.02
            assert abs(float(weight.std()) / (std * TRUNCATED) - 1) < 0.05, name
            assert float(weight.abs().max()) <= 2 * std, name
            assert abs(float(weight.mean())) < 0.1 * std, name
    padding = model.model.embeddings.tok_embeddings.weight[0]
    assert float(padding.detach().std()) > 0.01  # not zeroed, as in the trainer


def test_a_generator_decides_the_weights_alone() -> None:
    model = MaskedLM(CONFIG)

    def draw(seed: int) -> torch.Tensor:
        init_weights(model, CONFIG, torch.Generator().manual_seed(seed))
        return torch.cat([p.detach().flatten().clone() for p in model.parameters()])

    first, other, again = draw(1), draw(2), draw(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_model_can_be_built_without_memory() -> None:
    with torch.device("meta"):
        model = MaskedLM(ModelConfig.preset("base"))
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert sum(p.numel() for p in model.parameters()) == 307_786_240


def test_expected_shares_are_the_outputs_bias_and_change_nothing_else() -> None:
    shares = torch.rand(4000, dtype=torch.float64).softmax(0)
    plain, told = MaskedLM(CONFIG), MaskedLM(CONFIG)
    init_weights(plain, CONFIG, torch.Generator().manual_seed(1))
    init_weights(told, CONFIG, torch.Generator().manual_seed(1), shares)
    torch.testing.assert_close(told.decoder.bias.softmax(0), shares.float())
    for name, weight in plain.state_dict().items():
        assert torch.equal(weight, told.state_dict()[name]) != (name == "decoder.bias"), name


def test_counted_vectors_are_as_long_as_drawn_ones_and_change_nothing_else() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(4000, CONFIG.hidden_size), dim=1)
    vectors[:50] = 0
    plain, told = MaskedLM(CONFIG), MaskedLM(CONFIG)
    init_weights(plain, CONFIG, torch.Generator().manual_seed(1))
    init_weights(told, CONFIG, torch.Generator().manual_seed(1), vectors=vectors)
    table, drawn = (model.model.embeddings.tok_embeddings.weight.detach() for model in (told, plain))
    assert torch.equal(table[:50], drawn[:50]), "a token without neighbours is drawn"
    torch.testing.assert_close(torch.nn.functional.normalize(table[50:], dim=1), vectors[50:])
    assert float(table[50:].norm(dim=1).mean() / drawn.norm(dim=1).mean()) == pytest.approx(1.13, abs=0.03)  # uncut
    assert torch.equal(told.decoder.weight, told.model.embeddings.tok_embeddings.weight)
    for name, weight in plain.named_parameters():
        assert torch.equal(weight, told.get_parameter(name)) != name.endswith("tok_embeddings.weight"), name
