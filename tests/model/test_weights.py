"""Folders of weights: round trips, every form that is read, and one clear line for every one that is not."""

from __future__ import annotations

import json
import os
import stat
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmbert.doctor.model_folder import read_tensors
from mmbert.errors import WeightsError
from mmbert.model.config import ModelConfig
from mmbert.model.encoder import Encoder
from mmbert.model.heads import MaskedLM
from mmbert.model.weights import load_state, save_state
from mmbert.surgery.tensor_files import TensorFile

TINY = ModelConfig(vocab_size=50, hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2)


@pytest.fixture
def model() -> MaskedLM:
    torch.manual_seed(0)
    return MaskedLM(TINY)


@pytest.fixture
def folder(model: MaskedLM, tmp_path: Path) -> Path:
    model.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refused(folder: Path | str) -> str:
    with pytest.raises(WeightsError) as error:
        MaskedLM.load(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_saved_and_loaded_is_the_same_model(model: MaskedLM, folder: Path) -> None:
    loaded = MaskedLM.load(folder)
    assert same(loaded, model)
    assert loaded.config == model.config
    assert loaded.decoder.weight is loaded.model.embeddings.tok_embeddings.weight
    assert all(p.requires_grad and p.is_leaf for p in loaded.parameters())
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_tied_matrix_is_stored_once_and_files_are_readable_by_others(folder: Path) -> None:
    names = load_file(folder / "model.safetensors")
    assert "decoder.weight" not in names
    assert "decoder.bias" in names
    mask = os.umask(0o027)
    os.umask(mask)
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask


def test_training_on_after_loading_leaves_the_file_alone(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    loaded = MaskedLM.load(folder)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(1.0)
    assert (folder / "model.safetensors").read_bytes() == before


def test_saving_over_keeps_what_else_is_in_the_folder(model: MaskedLM, folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with torch.no_grad():
        model.decoder.bias.fill_(3.0)
    model.save(folder)
    assert (folder / "tokenizer.json").exists()
    assert same(MaskedLM.load(folder), model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_written_tensors_are_read_by_the_library(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {
        "b": torch.arange(7).to(dtype),
        "a.scalar": torch.tensor(1).to(dtype),
        "empty": torch.zeros(0, 3, dtype=dtype),
        "turned": torch.arange(6).view(2, 3).t().to(dtype),
    }
    save_state(state, tmp_path / "x.safetensors")
    for read in (load_file(tmp_path / "x.safetensors"), load_state(_as_model(tmp_path))):
        assert read.keys() == state.keys()
        for name, tensor in state.items():
            assert read[name].dtype == dtype
            assert torch.equal(read[name], tensor)


def _as_model(folder: Path) -> Path:
    (folder / "model.safetensors").write_bytes((folder / "x.safetensors").read_bytes())
    return folder


def test_half_precision_is_kept_on_disk_and_widened_on_loading(model: MaskedLM, tmp_path: Path) -> None:
    model.to(torch.bfloat16).save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert load_state(tmp_path)["head.dense.weight"].dtype == torch.bfloat16
    assert same(MaskedLM.load(tmp_path), model.float())


def test_encoder_from_a_masked_model_and_from_a_folder_of_its_own(
    model: MaskedLM, folder: Path, tmp_path: Path
) -> None:
    encoder = Encoder.load(folder)
    assert same(encoder, model.model)
    encoder.save(tmp_path / "encoder")
    assert same(Encoder.load(tmp_path / "encoder"), encoder)
    assert json.loads((tmp_path / "encoder" / "config.json").read_text())["architectures"] == ["ModernBertModel"]
    assert "without a language-model head" in refused(tmp_path / "encoder")


def test_decoder_stored_too_is_accepted_if_it_is_the_embedding(model: MaskedLM, folder: Path) -> None:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert "decoder.weight" in state
    save_file(state, folder / "model.safetensors")
    assert same(MaskedLM.load(folder), model)
    state["decoder.weight"][3, 3] += 1
    save_file(state, folder / "model.safetensors")
    assert "decoder.weight differs from the token embedding, and config.json ties them" in refused(folder)
    change_config(folder, tie_word_embeddings=False)
    assert torch.equal(MaskedLM.load(folder).decoder.weight, state["decoder.weight"])
    del state["decoder.weight"]
    save_file(state, folder / "model.safetensors")
    assert "1 missing: decoder.weight" in refused(folder)


def test_shards_are_joined_and_a_missing_one_is_named(model: MaskedLM, folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    names = sorted(state)
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: state[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    assert same(MaskedLM.load(folder), model)
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors is missing" in refused(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    assert "no weight_map" in refused(folder)


@pytest.mark.parametrize("place", ["../outside.safetensors", "/etc/hostname", "sub/model.safetensors"])
def test_an_index_names_no_file_of_another_folder(folder: Path, tmp_path: Path, place: str) -> None:
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    places = {"model.final_norm.weight": place}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    for read in (load_state, TensorFile):
        with pytest.raises(WeightsError, match="which is no file of its folder"):
            read(folder)
    assert any("which is no file of its folder" in what for what, _ in read_tensors(folder).faults)


def test_old_bin_is_refused_but_to_convert_it_and_then_read_as_tensors_only(model: MaskedLM, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert f"read only to convert it, as plain tensors: mmbert export {folder} --format huggingface" in refused(folder)
    state = load_state(folder, convert=True)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    for stored, why in (({"model": Path("/")}, r"cannot be read .*: save the model again"), ([1, 2], "hold a table")):
        torch.save(stored, folder / "pytorch_model.bin")
        with pytest.raises(WeightsError, match=why):
            load_state(folder, convert=True)


def test_what_does_not_fit_is_named(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state["model.layers.1.mlp.Wo.weight"]
    state["model.layers.0.attn_norm.weight"] = torch.ones(16)
    state["head.dense.weight"] = torch.ones(16, 17)
    save_file(state, folder / "model.safetensors")
    line = refused(folder)
    assert "1 missing: model.layers.1.mlp.Wo.weight" in line
    assert "1 unexpected: model.layers.0.attn_norm.weight" in line
    assert "head.dense.weight is (16, 17), the config says (16, 16)" in line


def test_a_config_of_another_shape_is_refused(folder: Path) -> None:
    change_config(folder, intermediate_size=25)
    assert "the config says (50, 16)" in refused(folder)


def test_unreadable_files_are_named(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-10])
    assert "model.safetensors cannot be read" in refused(folder)
    (folder / "model.safetensors").unlink()
    assert "no model.safetensors in" in refused(folder)
    (folder / "config.json").write_text("{")
    assert "config.json is not valid JSON" in refused(folder)
    (folder / "config.json").write_text("[]")
    assert "not a JSON object" in refused(folder)
    (folder / "config.json").unlink()
    assert "no config.json in" in refused(folder)


def test_checkpoint_in_parts_names_its_cure(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    assert "mmbert checkpoint export" in refused(folder)


def test_ignored_dropout_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    change_config(folder, attention_dropout=0.1)
    MaskedLM.load(folder)
    assert "attention_dropout 0.1 is ignored" in caplog.text


def test_names_that_are_nowhere(offline: None, tmp_path: Path) -> None:
    assert "no such model folder: ./nowhere" in refused("./nowhere")
    assert "no such model folder" in refused(tmp_path / "nowhere")
    line = refused("some-one/some-model")
    assert line.startswith("no folder some-one/some-model here, and the hub did not give it")


def test_a_hub_model_in_the_cache_loads_offline(offline: None, model: MaskedLM, folder: Path, tmp_path: Path) -> None:
    commit = "0" * 40
    cache = tmp_path / "hub" / "models--some-one--some-model"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    (cache / "snapshots").mkdir()
    folder.rename(cache / "snapshots" / commit)
    assert same(MaskedLM.load("some-one/some-model"), model)


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 10**9, "num_attention_heads": 10**8},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 10**9, "layer_types": None},
        {"num_hidden_layers": 1000, "layer_types": None},
        {"vocab_size": 10**9},
        {"vocab_size": 10**15},
        {"intermediate_size": 10**9},
        {"max_position_embeddings": 10**15},
    ],
)
def test_sizes_beyond_what_is_stored_are_refused_before_anything_is_made(folder: Path, sizes: dict[str, Any]) -> None:
    change_config(folder, **sizes)
    if sizes.get("num_hidden_layers") == 1000:
        change_config(folder, hidden_size=1600, num_attention_heads=2)
    begun = time.monotonic()
    tracemalloc.start()
    try:
        for load in (MaskedLM.load, Encoder.load):
            with pytest.raises(WeightsError) as caught:
                load(folder)
            assert "\n" not in str(caught.value)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    assert time.monotonic() - begun < 5
