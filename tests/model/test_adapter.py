"""Adapters that peft wrote, merged as peft merges them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmbert.errors import WeightsError
from mmbert.model.adapter import FILE, read_adapter
from mmbert.model.config import ModelConfig, config_to_hf
from mmbert.model.folder import ADAPTER, is_adapter

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

# peft asks transformers for what this version calls by another name
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

SHAPE = ModelConfig(vocab_size=40, hidden_size=32, intermediate_size=48, num_layers=3, num_heads=2)
ROUTER = ["attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo"]
"""Matrices that the adapters of a public router change."""

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ROUTER, "r": 4, "lora_alpha": 12},
    "head": {"target_modules": [*ROUTER, "head.dense"], "r": 4, "modules_to_save": ["classifier"]},
    "router": {"target_modules": ROUTER, "r": 8, "lora_alpha": 64, "modules_to_save": ["head", "classifier"]},
    "patterns": {
        "target_modules": ROUTER, "r": 4, "rank_pattern": {"layers.1.attn.Wqkv": 2}, "alpha_pattern": {"mlp.Wo": 3},
    },
    "rslora": {"target_modules": ["Wqkv"], "r": 4, "lora_alpha": 8, "use_rslora": True},
    "dora": {"target_modules": ROUTER, "r": 4, "use_dora": True},
    "one layer": {"target_modules": ["attn.Wo"], "r": 2, "layers_to_transform": [1], "layers_pattern": "layers"},
}  # fmt: skip


def tuned(folder: Path, options: dict[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """Write an adapter for three classes by peft; return peft's merged model and the base's weights."""
    torch.manual_seed(0)
    config = transformers.ModernBertConfig(**config_to_hf(SHAPE), num_labels=3)
    transformers.ModernBertForSequenceClassification(config).save_pretrained(folder / "base")
    model = transformers.ModernBertForSequenceClassification.from_pretrained(folder / "base").eval()
    base = {key: value.clone() for key, value in model.state_dict().items()}
    wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", **options))
    with torch.no_grad():
        for key, parameter in wrapped.named_parameters():
            if "lora_" in key or "modules_to_save" in key:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    wrapped.save_pretrained(folder)
    return wrapped.merge_and_unload().eval(), base


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_are_those_that_peft_merges(name: str, tmp_path: Path) -> None:
    model, base = tuned(tmp_path, VARIANTS[name])
    assert is_adapter(tmp_path)
    adapter = read_adapter(tmp_path)
    assert adapter.architecture == "ModernBertForSequenceClassification"
    assert adapter.base == str(tmp_path / "base")
    assert adapter.labels == 3  # peft saves the classifier of SEQ_CLS by itself
    merged = dict(base)
    adapter.merge(merged)
    wanted = model.state_dict()
    assert merged.keys() == wanted.keys()
    changed = 0
    for key, value in wanted.items():
        torch.testing.assert_close(merged[key], value, atol=1e-6, rtol=1e-5)
        changed += not torch.equal(base[key], value)
    assert changed >= 2


def damaged(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / ADAPTER).read_text())
    (folder / ADAPTER).write_text(json.dumps({**config, **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', only LORA"),
        ({"base_model_name_or_path": 7}, "base_model_name_or_path is 7"),
        ({"revision": 7}, "revision is 7: write the commit of it"),
        ({"task_type": None, "auto_mapping": ["x"]}, "auto_mapping is ['x']: expected names"),
        ({"task_type": "CAUSAL_LM"}, "task_type 'CAUSAL_LM' is not supported"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights pissa: not supported, merge the adapter with peft"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out True"),
        ({"r": "8"}, "r is '8'"),
        ({"use_dora": True}, "use_dora is True, adapter_model.safetensors says otherwise"),
        ({"task_type": ["SEQ_CLS"]}, "task_type ['SEQ_CLS'] is not supported"),
        ({"alpha_pattern": {"(a+)+$": 2}}, "more than names"),
        ({"alpha_pattern": {"Wo\\": 2}}, "more than names"),
        ({"alpha_pattern": {"Wo": "2"}}, "expected numbers by the name of a matrix"),
        ({"alpha_pattern": ["Wo"]}, "expected numbers by the name of a matrix"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    tuned(tmp_path, VARIANTS["router"])
    with pytest.raises(WeightsError, match=re.escape(named)) as error:
        read_adapter(damaged(tmp_path, **changes))
    assert "\n" not in str(error.value)


def test_a_damaged_file_or_a_wrong_base_is_named(tmp_path: Path) -> None:
    _, base = tuned(tmp_path, VARIANTS["router"])
    small = {key: value[:8] for key, value in base.items()}
    with pytest.raises(WeightsError, match=r"it was made for \S+base"):
        read_adapter(tmp_path).merge(small)
    with pytest.raises(WeightsError, match=r"changes layers\.\d\.\S+, which its base does not have"):
        read_adapter(tmp_path).merge({})
    state = load_file(tmp_path / FILE)
    half = next(key for key in state if "lora_A" in key)
    save_file({key: value for key, value in state.items() if key != half}, tmp_path / FILE)
    with pytest.raises(WeightsError, match="one half of a pair"):
        read_adapter(tmp_path)
    save_file({**state, half: state[half] * torch.nan}, tmp_path / FILE)
    with pytest.raises(WeightsError, match="NaN or infinite"):
        read_adapter(tmp_path)
    (tmp_path / FILE).write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_adapter(tmp_path)
    (tmp_path / FILE).rename(tmp_path / "adapter_model.bin")
    with pytest.raises(WeightsError, match=r"adapter_model\.bin is not read: convert it .*: python -c") as error:
        read_adapter(tmp_path)
    torch.save(state, tmp_path / "adapter_model.bin")
    command = str(error.value).partition(": python -c ")[2].strip('"')
    subprocess.run([sys.executable, "-c", command], cwd=tmp_path, check=True)
    assert read_adapter(tmp_path).low_rank
