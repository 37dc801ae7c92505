"""Weights in several files read as one, and damage is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmbert.errors import WeightsError
from mmbert.recipe import Merge
from mmbert.surgery.merge import merge
from mmbert.surgery.tensor_files import INDEX, TensorFile

CONFIG = {
    "architectures": ["ModernBertForMaskedLM"], "model_type": "modernbert", "vocab_size": 8, "hidden_size": 4,
    "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2, "global_rope_theta": 160000.0,
    "local_rope_theta": 160000.0,
}  # fmt: skip


def weights(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "decoder.bias": torch.randn(8, generator=generator),
        "model.embeddings.tok_embeddings.weight": torch.randn(8, 4, generator=generator),
        "model.final_norm.weight": torch.randn(4, generator=generator).to(torch.bfloat16),
    }


def save(folder: Path, state: dict[str, Tensor], *, parts: int = 1) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    if parts == 1:
        save_file(state, folder / "model.safetensors")
        return folder
    places = {name: f"model-{n % parts + 1:05}-of-{parts:05}.safetensors" for n, name in enumerate(state)}
    for file in set(places.values()):
        save_file({name: value for name, value in state.items() if places[name] == file}, folder / file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def test_parts_read_as_one(tmp_path: Path) -> None:
    state = weights(0)
    with TensorFile(save(tmp_path / "model", state, parts=2)) as file:
        assert file.tensors.keys() == state.keys()
        for name, value in state.items():
            info = file.tensors[name]
            assert (info.shape, info.dtype) == (tuple(value.shape), value.dtype)
            assert torch.equal(file.read(name, 1, 3), value.flatten()[1:3])
            assert torch.equal(file.read(name, 0, info.numel), value.flatten())


def test_models_in_parts_merge_as_whole_ones_do(tmp_path: Path) -> None:
    states = [weights(seed) for seed in range(3)]
    for parts in (1, 3):
        base, *others = [save(tmp_path / f"{parts}-{n}", state, parts=parts) for n, state in enumerate(states)]
        phases = {f"decay_{n}": [folder] for n, folder in enumerate(others)}
        spec = Merge(phases=dict.fromkeys(phases, 1.0), base="extend", density=0.5)
        merge(spec, phases, base, tmp_path / f"merged-{parts}")
    whole, split = (load_file(tmp_path / f"merged-{parts}" / "model.safetensors") for parts in (1, 3))
    assert whole.keys() == split.keys() == states[0].keys()
    assert all(torch.equal(whole[name], split[name]) for name in whole)
    assert not torch.equal(whole["decoder.bias"], states[0]["decoder.bias"])


def test_damage_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", weights(0), parts=2)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["head.norm.weight"] = "model-00001-of-00002.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=r"model-00001-of-00002.*no head\.norm\.weight"):
        TensorFile(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    del index["weight_map"]["head.norm.weight"]
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=r"model-00002-of-00002\.safetensors is missing"):
        TensorFile(folder)
    index["weight_map"]["decoder.bias"] = "../elsewhere.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="elsewhere"):
        TensorFile(folder)
    (folder / INDEX).write_text("{}")
    with pytest.raises(WeightsError, match="no weight_map"):
        TensorFile(folder)
