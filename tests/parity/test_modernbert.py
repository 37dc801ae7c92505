"""The same function as transformers' ModernBERT: logits and gradients at the published shapes, folders both ways.

Vocabulary reduced to 512. Weights are drawn larger than a fresh model's, so that attention prefers some tokens and an
error in position, window or document border shows. The reference sees one document at a time: no padding, no packing.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmbert.model.config import ModelConfig, config_to_hf
from mmbert.model.encoder import Encoder
from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed
from mmbert.rope_scaling import RopeScaling

transformers = pytest.importorskip("transformers")

LENGTHS = [130, 1, 64, 600, 2, 129, 63, 65, 1500, 66, 127, 128]
TWO_THETAS = {"rope_theta": 160_000.0, "local_rope_theta": 10_000.0}


def documents(lengths: list[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 512, (length,), generator=generator).tolist() for length in lengths]


def ours(preset: str, **changes: object) -> MaskedLM:
    torch.manual_seed(0)
    model = MaskedLM(ModelConfig.preset(preset, vocab_size=512, **{**TWO_THETAS, **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5)
            elif parameter.dim() == 2:
                parameter.normal_(0, 0.05 if "Wqkv" in name else 0.03)
    return model


def theirs(model: MaskedLM) -> torch.nn.Module:
    """transformers' model of the same shape and weights; loading is strict."""
    config = transformers.ModernBertConfig(**config_to_hf(model.config), attn_implementation="sdpa")
    with torch.device("meta"):
        reference = transformers.ModernBertForMaskedLM(config)
    reference = reference.to_empty(device="cpu")
    reference.model.rotary_emb = type(reference.model.rotary_emb)(config)  # its buffers are in no state dict
    reference.load_state_dict(model.state_dict(), strict=True)
    reference.tie_weights()
    return reference.eval()


def worst_difference(model: MaskedLM, reference: torch.nn.Module, lengths: list[int]) -> float:
    texts = documents(lengths)
    packed = Packed.from_lists(texts).to()
    worst = 0.0
    with torch.inference_mode():
        for text, rows in zip(texts, packed.unpack(model.logits(packed)), strict=True):
            expected = reference(torch.tensor([text])).logits[0]
            assert float(expected.std()) > 0.3  # the comparison means something
            worst = max(worst, float((rows - expected).abs().max()))
    return worst


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["small", "base"])
def test_logits_at_the_published_shapes(preset: str) -> None:
    model = ours(preset)
    lengths = LENGTHS if preset == "small" else [length for length in LENGTHS if length < 1500]  # for the time it takes
    assert worst_difference(model, theirs(model), lengths) < 1e-4


SCALINGS: dict[str, dict[str, object]] = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0, "original": 100},
    "yarn": {"factor": 4.0, "original": 25},
    "yarn, attention factor": {"factor": 4.0, "original": 25, "attention_factor": 1.5, "beta_fast": 8.0},
    "yarn, mscale": {"factor": 4.0, "original": 25, "mscale": 1.4, "mscale_all_dim": 0.7},
    "llama3": {"factor": 4.0, "original": 25, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
}


@pytest.mark.parametrize("layers", ["all", "global", "local"])
@pytest.mark.parametrize("name", SCALINGS)
def test_logits_with_scaled_rope_below_and_above_the_original_length(name: str, layers: str) -> None:
    scaling = RopeScaling(**{"original": 100, **SCALINGS[name], "type": name.partition(",")[0]})
    fields = {"global": "rope_scaling", "local": "local_rope_scaling"}
    chosen = [field for kind, field in fields.items() if layers in (kind, "all")]
    model = ours("nano", max_context=100, window=40, **dict.fromkeys(chosen, scaling))
    lengths = [10, 25, 26, 64, 100]
    lengths += [150, 390] if scaling.rope_type == "dynamic" else []
    assert worst_difference(model, theirs(model), lengths) < 1e-4
    plain = ours("nano", max_context=100, window=40)
    assert worst_difference(plain, theirs(model), lengths) > 1e-2  # the comparison means something


@pytest.mark.parametrize(("preset", "lengths"), [("nano", LENGTHS[:8]), ("small", [65, 1, 130, 200])])
def test_gradients_of_every_weight(preset: str, lengths: list[int]) -> None:
    model = ours(preset)
    reference = theirs(model)
    texts = documents(lengths)
    packed = Packed.from_lists(texts).to()
    weights = torch.randn(packed.tokens, 512, generator=torch.Generator().manual_seed(2))
    (model.logits(packed) * weights).sum().backward()
    for text, weight in zip(texts, packed.unpack(weights), strict=True):
        (reference(torch.tensor([text])).logits[0] * weight).sum().backward()
    compared = 0
    expected = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        grad, other = parameter.grad, expected[name].grad
        assert grad is not None
        assert other is not None
        assert float(other.norm()) > 0, name
        assert float((grad - other).norm() / other.norm()) < 1e-4, name
        compared += 1
    assert compared == len(expected)


def first_logits(model: torch.nn.Module) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor(documents([150]))).logits[0]
        return logits


def our_logits(model: MaskedLM) -> Tensor:
    with torch.inference_mode():
        return model.logits(Packed.from_lists(documents([150])).to())


def test_our_folder_loads_there(tmp_path: Path) -> None:
    model = ours("nano")
    model.save(tmp_path)
    reference, report = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    torch.testing.assert_close(first_logits(reference.eval()), our_logits(model), atol=1e-5, rtol=1e-5)
    assert reference.config.classifier_pooling == "mean"

    model.model.save(tmp_path / "encoder")
    encoder, report = transformers.AutoModel.from_pretrained(tmp_path / "encoder", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    with torch.inference_mode():
        hidden = encoder.eval()(torch.tensor(documents([150]))).last_hidden_state[0]
        packed = Packed.from_lists(documents([150])).to()
        torch.testing.assert_close(model.encode(packed), hidden, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shard", ["5GB", "100KB"])
def test_their_folder_loads_here(shard: str, tmp_path: Path) -> None:
    model = ours("nano")
    reference = theirs(model)
    reference.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "100KB")
    loaded = MaskedLM.load(tmp_path)
    assert (loaded.config.rope_theta, loaded.config.local_rope_theta) == (160_000.0, 10_000.0)
    torch.testing.assert_close(our_logits(loaded), first_logits(reference), atol=1e-5, rtol=1e-5)

    reference.model.save_pretrained(tmp_path / "base")
    encoder = Encoder.load(tmp_path / "base")
    packed = Packed.from_lists(documents([150])).to()
    with torch.inference_mode():
        torch.testing.assert_close(encoder(packed), loaded.encode(packed))


@pytest.mark.parametrize("thetas", [(160_000, 160_000), (50_000, 300), (None, None)])
def test_old_form_of_the_config_is_read_as_there(thetas: tuple[int | None, int | None], tmp_path: Path) -> None:
    model = ours("nano")
    model.save(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    new_only = ("rope_parameters", "layer_types", "dtype", "attention_out_dropout")
    values = {key: value for key, value in values.items() if key not in new_only}
    for key, theta in zip(("global_rope_theta", "local_rope_theta"), thetas, strict=True):
        if theta is None:
            del values[key]
        else:
            values[key] = theta
    (tmp_path / "config.json").write_text(json.dumps(values))
    reference = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    loaded = MaskedLM.load(tmp_path)
    expected = {kind: rope["rope_theta"] for kind, rope in reference.config.rope_parameters.items()}
    assert (loaded.config.rope_theta, loaded.config.local_rope_theta) == tuple(
        expected[kind] for kind in ("full_attention", "sliding_attention")
    )
    torch.testing.assert_close(our_logits(loaded), first_logits(reference), atol=1e-5, rtol=1e-5)
    if thetas != (None, None):
        assert float((our_logits(loaded) - our_logits(model)).abs().max()) > 1e-3  # theta is felt
