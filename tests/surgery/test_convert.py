"""Composer's checkpoints become folders that compute the same; what is not plain or not whole is refused."""

from __future__ import annotations

import datetime
import json
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from little_vocabulary import tokenizer_json
from torch import Tensor

from mmbert.errors import ConfigError, WeightsError
from mmbert.model.config import ModelConfig
from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed
from mmbert.surgery.convert import convert

CONFIG = ModelConfig(
    vocab_size=400, hidden_size=128, intermediate_size=48, num_layers=4, num_heads=2, rope_theta=160_000,
    local_rope_theta=160_000, attention_out_dropout=0.1,
)  # fmt: skip
FLEX: dict[str, Any] = {
    "num_attention_heads": 2, "rotary_emb_base": 160_000.0, "local_attn_rotary_emb_base": 160_000.0,
    "sliding_window": 128, "global_attn_every_n_layers": 3,
}  # fmt: skip


def model(config: ModelConfig = CONFIG) -> MaskedLM:
    torch.manual_seed(0)
    made = MaskedLM(config)
    with torch.no_grad():
        for value in made.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return made.eval()


def composer_names(made: MaskedLM) -> OrderedDict[str, Tensor]:
    """The names that the release's checkpoints have: Composer's wrapper around FlexBERT's."""
    state: OrderedDict[str, Tensor] = OrderedDict()
    for name, value in made.state_dict().items():
        if name.startswith("model.layers."):
            name = "bert.encoder.layers." + name.removeprefix("model.layers.")
        elif name.startswith("model."):
            name = "bert." + name.removeprefix("model.")
        state["model." + name] = value
    return state


def checkpoint(path: Path, state: dict[str, Tensor], *, config: dict[str, Any] | None = None, **more: Any) -> Path:
    """A file with all that Composer puts into one."""
    integrations = {} if config is None else {"huggingface": {"model": {"config": {"content": config}}}}
    content = {
        "state": {
            "model": state,
            "optimizers": {"DecoupledStableAdamW": {"state": {}, "param_groups": [{"lr": 8e-4, "params": [0, 1]}]}},
            "timestamp": {"Timestamp": {"token": 12, "total_wct": datetime.timedelta(seconds=3)}},
            "integrations": integrations,
            **more,
        },
        "rng": [{"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def test_names_of_the_release() -> None:
    names = composer_names(model())
    for name in ("model.bert.embeddings.tok_embeddings.weight", "model.bert.encoder.layers.0.attn.Wqkv.weight",
                 "model.bert.encoder.layers.1.attn_norm.weight", "model.bert.encoder.layers.3.mlp.Wi.weight",
                 "model.bert.final_norm.weight", "model.head.dense.weight", "model.decoder.bias"):  # fmt: skip
        assert name in names
    assert "model.bert.encoder.layers.0.attn_norm.weight" not in names


@pytest.mark.parametrize(
    ("place", "config", "options", "theta", "context"),
    [
        ("mmbert-base/decay/mmbert-base-all.pt", None, {}, (160_000.0, 160_000.0), 8192),
        ("mmbert-base/pretrain/ep0.pt", None, {}, (10_000.0, 10_000.0), 1024),
        ("somewhere/ep0.pt", None, {"phase": "ext"}, (160_000.0, 160_000.0), 8192),
        ("pretrain/ep0.pt", FLEX, {}, (160_000.0, 160_000.0), 8192),  # the file knows better than its folder
        ("x/ep0.pt", {**FLEX, "rotary_emb_base": 1e4, "local_attn_rotary_emb_base": -1}, {}, (1e4, 1e4), 1024),
        ("x/ep0.pt", {**FLEX, "local_attn_rotary_emb_base": 1e4}, {}, (160_000.0, 1e4), 8192),
    ],
)
def test_same_logits(
    tmp_path: Path, place: str, config: dict[str, Any] | None, options: Any, theta: tuple[float, float], context: int
) -> None:
    made = model(CONFIG.model_copy(update={"rope_theta": theta[0], "local_rope_theta": theta[1]}))
    path = checkpoint(tmp_path / place, composer_names(made), config=config)
    found = convert(path, tmp_path / "out", **options)
    assert (found.rope_theta, found.local_rope_theta, found.max_context) == (*theta, context)
    new = MaskedLM.load(tmp_path / "out").eval()
    assert new.config == found
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert values["rope_parameters"]["sliding_attention"]["rope_theta"] == values["local_rope_theta"] == theta[1]
    pack = Packed.from_lists([list(range(5, 300)), [2, 7, 4, 9, 1]]).to()
    with torch.no_grad():
        assert torch.equal(new.logits(pack), made.logits(pack))
        other = model(CONFIG.model_copy(update={"rope_theta": 500.0}))
        assert not torch.equal(other.logits(pack), made.logits(pack)), "the base of RoPE matters here"


def test_transformers_reads_it(tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    made = model()
    convert(checkpoint(tmp_path / "ext" / "a.pt", composer_names(made)), tmp_path / "out")
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    ids = torch.arange(5, 205)
    with torch.no_grad():
        expected = made.logits(Packed.from_lists([ids.tolist()]).to())
        torch.testing.assert_close(theirs(ids[None]).logits[0], expected, rtol=0, atol=1e-4)


def test_type_and_tokenizer(tmp_path: Path) -> None:
    state = {name: value.to(torch.bfloat16) for name, value in composer_names(model()).items()}
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "tokenizer.json").write_text(tokenizer_json("metaspace", 0))
    path = checkpoint(tmp_path / "ext" / "a.pt", state)
    convert(path, tmp_path / "out", tokenizer=str(tmp_path / "words"))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["model_max_length"] == 8192
    (tmp_path / "words" / "tokenizer.json").write_text(tokenizer_json("metaspace", 0, merges=400))
    with pytest.raises(WeightsError, match="rows for 400"):
        convert(path, tmp_path / "out", tokenizer=str(tmp_path / "words"))


def test_other_classes_are_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "ext" / "a.pt", composer_names(model()), callbacks={"speed": Path("/")})
    with pytest.raises(WeightsError, match=r"cannot be read safely: it holds objects of pathlib\.\w+") as error:
        convert(path, tmp_path / "out")
    assert "\n" not in str(error.value)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match="cannot be read safely"):
        convert(path, tmp_path / "out")
    torch.save({"state_dict": {"a": torch.zeros(1)}}, path)
    with pytest.raises(WeightsError, match=r"no tensors under state\.model"):
        convert(path, tmp_path / "out")
    with pytest.raises(WeightsError, match="no such checkpoint"):
        convert(tmp_path / "nowhere.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    def refused(change: Any, match: str, **options: Any) -> None:
        state = composer_names(model())
        change(state)
        with pytest.raises((WeightsError, ConfigError), match=match):
            convert(checkpoint(tmp_path / "ext" / "a.pt", state), tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    layer, norm = "model.bert.encoder.layers.2.", "model.bert.final_norm.weight"
    refused(lambda s: s.pop(norm), r"1 missing: model\.final_norm\.weight")
    refused(lambda s: s.pop("model.bert.embeddings.tok_embeddings.weight"), r"missing model\.embeddings")
    refused(lambda s: s.update({layer + "attn.bias": torch.zeros(2)}), r"unexpected: model\.layers\.2\.attn\.bias")
    refused(lambda s: s.update({"bert.x": torch.zeros(2)}), r"unknown tensor bert\.x")
    refused(lambda s: s.update({norm: torch.zeros(7)}), r"final_norm\.weight is \(7,\), the config says \(128,\)")
    refused(lambda s: s.update({norm: torch.full((128,), torch.nan)}), "NaN")
    refused(lambda s: s.update({"model.decoder.weight": torch.zeros(400, 128)}), "untied")
    refused(lambda s: None, "no base: hidden_size is 128, not 768", size="base")
    refused(lambda s: None, "no size large", size="large")
    refused(lambda s: None, "no phase second", phase="second")


def test_the_phase_must_be_known(tmp_path: Path) -> None:
    state = composer_names(model())
    with pytest.raises(ConfigError, match="--phase"):
        convert(checkpoint(tmp_path / "a.pt", state), tmp_path / "out")
    with pytest.raises(ConfigError, match="leave --phase away"):
        convert(checkpoint(tmp_path / "a.pt", state, config=FLEX), tmp_path / "out", phase="pretrain")
