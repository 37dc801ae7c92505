"""Folders that sentence-transformers wrote give the vectors that sentence-transformers gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_folders import TEXTS, reference, write_model, write_sentence_model
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import Pooling, WeightedLayerPooling

from mmbert.errors import ConfigError, WeightsError
from mmbert.inference.embedder import Embedder
from mmbert.tokenizer.tokenizer import Tokenizer

PROMPTS = {"query": "Which right? ", "document": "A right: "}


def load(folder: Path, **options: Any) -> Embedder:
    return Embedder.load(folder, device="cpu", precision="fp32", **options)


def assert_same(ours: Any, theirs: Any, bound: float = 2e-5) -> None:
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    assert float(abs(theirs).max()) > 0.1
    assert float(abs(ours - theirs).max()) < bound


@pytest.mark.parametrize(
    "mode", ["mean", "cls", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens", ("cls", "max", "mean")]
)
def test_poolings(mode: Any, bare: Path, tmp_path: Path) -> None:
    folder = write_sentence_model(tmp_path / "model", bare, [Pooling(32, mode)])
    theirs, ours = reference(folder), load(folder)
    assert_same(ours.encode(TEXTS), theirs.encode(TEXTS))
    assert ours.dimensions == theirs.get_embedding_dimension()
    values = json.loads((folder / "1_Pooling" / "config.json").read_text())
    modes = [mode] if isinstance(mode, str) else mode
    old = {"cls": "cls_token", "lasttoken": "lasttoken"}
    flags = {f"pooling_mode_{old.get(name, name if '_tokens' in name else name + '_tokens')}": True for name in modes}
    assert values["pooling_mode"] in (mode, list(modes))
    path = folder / "1_Pooling" / "config.json"
    path.write_text(json.dumps({"word_embedding_dimension": 32, "pooling_mode_mean_tokens": False, **flags}))
    assert_same(load(folder).encode(TEXTS), reference(folder).encode(TEXTS))  # the older dialect


@pytest.fixture(scope="module")
def stacked(bare: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mean, two Dense modules, unit length, prompts, and texts cut at 40 tokens."""
    torch.manual_seed(1)
    modules = [
        Pooling(32, "mean"),
        Dense(32, 24, activation_function=torch.nn.GELU()),
        Dense(24, 24, bias=False, activation_function=None, use_residual=True),
        Normalize(),
    ]
    folder = tmp_path_factory.mktemp("stacked") / "model"
    return write_sentence_model(folder, bare, modules, max_seq_length=40, prompts=PROMPTS)


def test_modules_prompts_and_longest_text(stacked: Path) -> None:
    theirs, ours = reference(stacked), load(stacked)
    assert ours.max_tokens == theirs.max_seq_length == 40
    assert ours.prompts == {**theirs.prompts}
    assert_same(ours.encode(TEXTS), theirs.encode(TEXTS))
    assert_same(ours.encode_query(TEXTS), theirs.encode_query(TEXTS))
    assert_same(ours.encode_document(TEXTS), theirs.encode_document(TEXTS))
    assert_same(ours.encode(TEXTS, prompt_name="query"), theirs.encode(TEXTS, prompt_name="query"))
    assert_same(ours.encode(TEXTS, prompt="Text: "), theirs.encode(TEXTS, prompt="Text: "))
    assert abs(ours.encode_query(TEXTS) - ours.encode(TEXTS)).max() > 1e-3
    assert_same(ours(TEXTS, prompt="query"), theirs.encode_query(TEXTS))
    assert_same(ours(TEXTS, prompt="document"), theirs.encode_document(TEXTS))
    assert_same(ours(TEXTS, prompt="Text: "), theirs.encode(TEXTS, prompt="Text: "))
    ours.max_seq_length = theirs.max_seq_length = 12
    assert_same(ours.encode(TEXTS), theirs.encode(TEXTS))


def test_arguments_of_encode(stacked: Path) -> None:
    theirs, ours = reference(stacked), load(stacked)
    for options in (
        {"truncate_dim": 8},
        {"truncate_dim": 8, "normalize_embeddings": True},
        {"normalize_embeddings": True, "batch_size": 3, "show_progress_bar": False},
        {"convert_to_tensor": True},
    ):
        assert_same(ours.encode(TEXTS, **options), theirs.encode(TEXTS, **options))
    one = ours.encode(TEXTS[0])
    assert_same(one, theirs.encode(TEXTS[0]))
    assert one.shape == (24,)
    assert_same(ours.encode(sentences=TEXTS), theirs.encode(TEXTS))
    assert_same(ours.encode(tuple(TEXTS)), theirs.encode(tuple(TEXTS)))
    assert_same(ours.encode(np.array(TEXTS)), theirs.encode(np.array(TEXTS)))
    rows = ours.encode(TEXTS, convert_to_numpy=False)
    assert [row.shape for row in rows] == [row.shape for row in theirs.encode(TEXTS, convert_to_numpy=False)]
    assert len(ours.encode([])) == len(theirs.encode([])) == 0


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_precisions_of_encode(stacked: Path, precision: str) -> None:
    theirs, ours = reference(stacked), load(stacked)
    found, wanted = ours.encode(TEXTS, precision=precision), theirs.encode(TEXTS, precision=precision)
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    step = 0 if "binary" in precision else 1  # a value on the border of two steps
    assert abs(found.astype(int) - wanted.astype(int)).max() <= step
    assert (found == wanted).mean() > 0.98


def test_token_embeddings(stacked: Path) -> None:
    theirs, ours = reference(stacked), load(stacked)
    wanted = theirs.encode(TEXTS, output_value="token_embeddings")
    found = ours.encode(TEXTS, output_value="token_embeddings")
    assert len(found) == len(wanted)
    for mine, other in zip(found, wanted, strict=True):
        assert_same(mine, other)
    assert_same(ours.encode(TEXTS[0], output_value="token_embeddings"), wanted[0])


def test_similarity(stacked: Path) -> None:
    theirs, ours = reference(stacked), load(stacked)
    vectors = ours.encode(TEXTS)
    for kind in ("cosine", "dot", "euclidean", "manhattan"):
        theirs.similarity_fn_name = kind
        object.__setattr__(ours.loaded, "similarity", kind)
        assert_same(ours.similarity(vectors[:3], vectors), theirs.similarity(vectors[:3], vectors).numpy(), 1e-4)


@pytest.mark.parametrize("mode", ["mean", "weightedmean", "cls", "max", "lasttoken"])
def test_prompts_left_out_of_pooling(bare: Path, tmp_path: Path, mode: Any) -> None:
    modules = [Pooling(32, mode, include_prompt=False)]
    folder = write_sentence_model(tmp_path / "model", bare, modules, prompts=PROMPTS, default_prompt_name="document")
    theirs, ours = reference(folder), load(folder)
    assert_same(ours.encode(TEXTS), theirs.encode(TEXTS))
    assert_same(ours.encode_query(TEXTS), theirs.encode_query(TEXTS))
    assert_same(ours.encode(TEXTS, prompt=""), theirs.encode(TEXTS, prompt=""))
    if mode == "mean":
        assert abs(ours.encode(TEXTS, prompt="") - ours.encode(TEXTS)).max() > 1e-3


def test_layer_mix(tokenizer: Tokenizer, tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", tokenizer, output_hidden_states=True)
    mix = WeightedLayerPooling(32, num_hidden_layers=4, layer_start=1)
    with torch.no_grad():
        mix.layer_weights.copy_(torch.tensor([0.5, 2.0, 1.0, 0.25]))
    folder = write_sentence_model(tmp_path / "model", base, [mix, Pooling(32, "mean")])
    assert json.loads((folder / "config.json").read_text())["output_hidden_states"] is True
    theirs, ours = reference(folder), load(folder)
    assert_same(ours.encode(TEXTS), theirs.encode(TEXTS))
    given = load(base, layers=[0.5, 2.0, 1.0, 0.25])
    assert_same(given.encode(TEXTS), theirs.encode(TEXTS))
    assert abs(load(base).encode(TEXTS) - given.encode(TEXTS)).max() > 1e-2


def test_older_layout(stacked: Path, tmp_path: Path) -> None:
    """Modules named as before version 5.4, the encoder in a folder of its own, the longest text in its own file."""
    folder = tmp_path / "old"
    shutil.copytree(stacked, folder)
    inner = folder / "0_Transformer"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).rename(inner / name)
    (folder / "sentence_bert_config.json").unlink()
    (inner / "sentence_bert_config.json").write_text('{"max_seq_length": 16, "do_lower_case": false}')
    listing = json.loads((folder / "modules.json").read_text())
    listing[0]["path"] = "0_Transformer"
    for module in listing:
        module["type"] = "sentence_transformers.models." + module["type"].rpartition(".")[2]
    (folder / "modules.json").write_text(json.dumps(listing))
    dense = folder / "2_Dense"
    torch.save(
        {key: value.clone() for key, value in load(stacked).loaded.after[0].state_dict().items()},
        dense / "pytorch_model.bin",
    )
    (dense / "model.safetensors").unlink()
    ours, theirs = load(folder), reference(folder)
    assert ours.max_tokens == 16
    assert_same(ours.encode(TEXTS), theirs.encode(TEXTS))


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _module(folder: Path, index: int, kind: str) -> None:
    listing = json.loads((folder / "modules.json").read_text())
    listing[index]["type"] = kind
    (folder / "modules.json").write_text(json.dumps(listing))


REFUSED = {
    "CNN": lambda folder: _module(folder, 2, "sentence_transformers.models.CNN"),
    "custom.Code": lambda folder: _module(folder, 2, "custom.Code"),
    "do_lower_case": lambda folder: _edit(folder / "sentence_bert_config.json", do_lower_case=True),
    "query_length": lambda folder: _edit(folder / "sentence_bert_config.json", query_length=8),
    "made_up": lambda folder: _edit(folder / "sentence_bert_config.json", made_up=1),
    "processor_kwargs.padding_side": lambda folder: _edit(
        folder / "sentence_bert_config.json", processor_kwargs={"padding_side": "left"}
    ),
    "transformer_task text-generation": lambda folder: _edit(
        folder / "sentence_bert_config.json", transformer_task="text-generation"
    ),
    "pooling attention": lambda folder: _edit(folder / "1_Pooling" / "config.json", pooling_mode="attention"),
    "activation os.system": lambda folder: _edit(folder / "2_Dense" / "config.json", activation_function="os.system"),
    "module_input_name token_embeddings": lambda folder: _edit(
        folder / "2_Dense" / "config.json", module_input_name="token_embeddings"
    ),
    "do not fit": lambda folder: _edit(folder / "2_Dense" / "config.json", out_features=23),
    "similarity_fn_name": lambda folder: _edit(
        folder / "config_sentence_transformers.json", similarity_fn_name="jaccard"
    ),
    "default_prompt_name": lambda folder: _edit(
        folder / "config_sentence_transformers.json", default_prompt_name="missing"
    ),
    "truncation_side": lambda folder: _edit(folder / "tokenizer_config.json", truncation_side="left"),
    "no Pooling": lambda folder: (folder / "modules.json").write_text(
        json.dumps(json.loads((folder / "modules.json").read_text())[:1])
    ),
}


@pytest.mark.parametrize("named", REFUSED)
def test_what_would_differ_is_refused_by_name(stacked: Path, tmp_path: Path, named: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(stacked, folder)
    REFUSED[named](folder)
    with pytest.raises(Exception, match=named) as caught:
        load(folder)
    assert type(caught.value).__module__ == "mmbert.errors"
    assert "\n" not in str(caught.value)


def test_path_out_of_the_folder(stacked: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(stacked, folder)
    listing = json.loads((folder / "modules.json").read_text())
    listing[2]["path"] = "../elsewhere"
    (folder / "modules.json").write_text(json.dumps(listing))
    with pytest.raises(WeightsError, match="leads out of the folder"):
        load(folder)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pool": {}}, "pool and chunk_size"),
        ({"chunk_size": 10}, "pool and chunk_size"),
        ({"device": ["cpu", "cpu"]}, "several devices"),
        ({"device": "cuda"}, "the model is on cpu"),
        ({"output_value": None}, "output_value"),
        ({"precision": "int4"}, "precision"),
        ({"prompt_name": "missing"}, "prompt_name 'missing' is none of"),
        ({"batch_size": 0}, "batch_size"),
        ({"truncate_dim": 25}, "dimensions is 25"),
    ],
)
def test_what_encode_does_not_do_is_said(stacked: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(stacked).encode(TEXTS, **options)
