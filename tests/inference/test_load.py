"""What a folder is, and what is wrong with one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_folders import TEXTS, write_model

from mmbert.errors import ConfigError, MMBertError, WeightsError
from mmbert.inference.embedder import Embedder
from mmbert.inference.load import KINDS, load
from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed
from mmbert.tokenizer.tokenizer import Tokenizer


@pytest.fixture
def folder(bare: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(bare, tmp_path / "model"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_head(kind: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    labels = {"id2label": {0: "yes", 1: "no", 2: "maybe"}} if "Class" in kind else {}
    write_model(tmp_path, tokenizer, kind, classifier_pooling="mean", **labels)
    loaded = load(tmp_path, device="cpu", precision="fp32")
    assert loaded.kind == KINDS[kind]
    assert loaded.max_tokens == 512
    assert not loaded.tuned
    names = {"sequence": {0: "yes", 1: "no", 2: "maybe"}, "tokens": {0: "yes", 1: "no", 2: "maybe"},
             "span": {0: "LABEL_0", 1: "LABEL_1"}, "choice": {0: "score"}}  # fmt: skip
    assert loaded.labels == names.get(loaded.kind)
    theirs = getattr(transformers, kind).from_pretrained(tmp_path).eval()
    ids = tokenizer.encode(TEXTS[0])
    packed = Packed.from_lists([ids, tokenizer.encode(TEXTS[5])]).to()
    with torch.inference_mode():
        wanted = theirs(torch.tensor([ids] if loaded.kind != "choice" else [[ids]]), torch.ones(1, len(ids)))
        states = loaded.encoder(packed)[: len(ids)]
        if loaded.kind == "encoder":
            found, target = states, wanted.last_hidden_state[0]
        elif loaded.kind == "masked_lm":
            assert isinstance(loaded.head, MaskedLM)
            assert loaded.head.model is loaded.encoder
            found, target = loaded.head.logits(packed)[: len(ids)], wanted.logits[0]
        elif loaded.kind == "span":
            found, target = loaded.head(states), torch.stack([wanted.start_logits[0], wanted.end_logits[0]], dim=1)
        elif loaded.kind == "tokens":
            found, target = loaded.head(states), wanted.logits[0]
        else:
            assert loaded.classifier_pooling == "mean"
            found, target = loaded.head(states.mean(dim=0, keepdim=True)), wanted.logits
    assert float(target.std() if target.numel() > 1 else target.abs()) > 0.01
    assert float((found - target).abs().max()) < 1e-5


def test_mean_of_tokens_as_transformers_gives_them(bare: Path, tokenizer: Tokenizer) -> None:
    theirs = transformers.AutoModel.from_pretrained(bare).eval()
    texts = transformers.AutoTokenizer.from_pretrained(bare)
    found = Embedder.load(bare, device="cpu", precision="fp32")(TEXTS, normalize=False)
    for text, vector in zip(TEXTS, found, strict=True):
        with torch.inference_mode():
            wanted = theirs(**texts(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0).numpy()
        assert abs(vector - wanted).max() < 1e-5


def test_both_forms_of_config(bare: Path, folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    old = {key: value for key, value in values.items() if key not in ("rope_parameters", "layer_types", "dtype")}
    rope = values["rope_parameters"]
    old["global_rope_theta"] = rope["full_attention"]["rope_theta"]
    old["local_rope_theta"] = rope["sliding_attention"]["rope_theta"]
    (folder / "config.json").write_text(json.dumps({**old, "global_attn_every_n_layers": 3}))
    vectors = [Embedder.load(place, device="cpu", precision="fp32")(TEXTS) for place in (bare, folder)]
    assert (vectors[0] == vectors[1]).all()


def test_longest_text(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    for stated, found in ((64, 64), (10**30, 512), (None, 512)):
        path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": stated}))
        assert load(folder, device="cpu").max_tokens == found


def test_hash_is_of_all_that_counts(folder: Path) -> None:
    first = load(folder, device="cpu").model_hash
    (folder / "README.md").write_text("a card")
    assert load(folder, device="cpu").model_hash == first
    state = load_file(folder / "model.safetensors")
    state["final_norm.weight"][0] += 1e-3
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert load(folder, device="cpu").model_hash != first


def _config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _nan(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["layers.1.mlp.Wi.weight"][3, 2] = float("nan")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _other_ends(folder: Path) -> None:
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    values["post_processor"] = None
    path.write_text(json.dumps(values))


def _more_tokens(folder: Path) -> None:
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    values["added_tokens"].append({**values["added_tokens"][0], "id": 5000, "content": "<new>"})
    path.write_text(json.dumps(values))


BROKEN: dict[str, Callable[[Path], Any]] = {
    "no config.json": lambda folder: (folder / "config.json").unlink(),
    "no model.safetensors": lambda folder: (folder / "model.safetensors").unlink(),
    "no tokenizer.json": lambda folder: (folder / "tokenizer.json").unlink(),
    "cannot be read": _cut,
    "layers.1.mlp.Wi.weight holds NaN": _nan,
    "not a JSON object": lambda folder: (folder / "config.json").write_text("[]"),
    "not valid JSON": lambda folder: (folder / "config.json").write_text("{"),
    "model_type is 'bert'": lambda folder: _config(folder, model_type="bert"),
    "ModernBertForCausal": lambda folder: _config(folder, architectures=["ModernBertForCausal"]),
    "do not fit": lambda folder: _config(folder, num_hidden_layers=3, layer_types=None),
    "not as <bos> a <eos>": _other_ends,
    "not its tokenizer": _more_tokens,
    "id2label has no name for class 1": lambda folder: _config(
        folder, architectures=["ModernBertForTokenClassification"], id2label={"0": "a", "2": "b"}
    ),
}


@pytest.mark.parametrize("said", BROKEN)
def test_what_is_wrong_is_one_line(said: str, folder: Path) -> None:
    BROKEN[said](folder)
    with pytest.raises(MMBertError, match=said) as caught:
        load(folder, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_head_that_is_not_there(folder: Path) -> None:
    _config(folder, architectures=["ModernBertForTokenClassification"], id2label={"0": "a", "1": "b"})
    with pytest.raises(WeightsError, match="missing"):
        load(folder, device="cpu")


@pytest.mark.parametrize("device", ["teapot", "cuda:99"])
def test_devices_that_are_not_there(device: str, bare: Path) -> None:
    with pytest.raises(ConfigError, match=device):
        load(bare, device=device)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such model folder"):
        load(tmp_path / "nowhere")


def test_files_with_a_byte_order_mark(folder: Path) -> None:
    wanted = Embedder.load(folder, device="cpu", precision="fp32")(TEXTS[:2])
    for path in folder.rglob("*.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert (Embedder.load(folder, device="cpu", precision="fp32")(TEXTS[:2]) == wanted).all()
