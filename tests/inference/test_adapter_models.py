"""Adapters of peft in the predictors, merged and sharing an encoder, against peft's own model."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from task_folders import TEXTS, save_theirs

import mmbert
from mmbert.doctor.model import examine
from mmbert.errors import ConfigError, WeightsError
from mmbert.exporting.export import export
from mmbert.inference.adapters import load_adapters
from mmbert.inference.classifier import Classifier
from mmbert.inference.load import hash_folder
from mmbert.inference.tagger import Tagger
from mmbert.model.encoder import Encoder
from mmbert.model.folder import ADAPTER
from mmbert.model.heads import MaskedLM

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

ROUTER = ["attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo"]
OPTIONS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "intent": ("SEQ_CLS", 5, {"r": 8, "lora_alpha": 16, "modules_to_save": ["head", "classifier"]}),
    "jailbreak": ("SEQ_CLS", 2, {"r": 4, "use_rslora": True}),
    "pii": ("TOKEN_CLS", 3, {"r": 2, "use_dora": True, "modules_to_save": ["classifier"]}),
}
"""Name -> task, number of classes, options of peft: the kinds of adapters that public routers use."""

CLASSES = {"SEQ_CLS": "ModernBertForSequenceClassification", "TOKEN_CLS": "ModernBertForTokenClassification"}


@dataclass(frozen=True)
class Tuned:
    """A base, its adapters, and peft's logits of each text by adapter."""

    base: Path
    folders: dict[str, Path]
    logits: dict[str, list[np.ndarray]]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    root = tmp_path_factory.mktemp("adapters")
    _, words = save_theirs(root / "base", "MaskedLM")
    folders, logits = {}, {}
    for seed, (name, (task, labels, options)) in enumerate(OPTIONS.items()):
        torch.manual_seed(seed)
        folders[name] = root / name
        named = {"id2label": {number: f"{name} {number}" for number in range(labels)}} if name != "jailbreak" else {}
        model = getattr(transformers, CLASSES[task]).from_pretrained(root / "base", num_labels=labels, **named)
        wrapped = peft.get_peft_model(model, peft.LoraConfig(task_type=task, target_modules=ROUTER, **options)).eval()
        with torch.no_grad():
            for key, parameter in wrapped.named_parameters():
                if "lora_B" in key or "lora_magnitude" in key or "modules_to_save" in key:
                    parameter.add_(0.05 * torch.randn(parameter.shape))
        wrapped.save_pretrained(folders[name])
        if named:  # as trainers leave it there
            model.config.save_pretrained(folders[name])
        with torch.no_grad():
            logits[name] = [wrapped(**words(text, return_tensors="pt")).logits[0].numpy() for text in TEXTS]
    return Tuned(root / "base", folders, logits)


def logits_of(model: Classifier | Tagger) -> list[np.ndarray]:
    if isinstance(model, Classifier):
        return list(model.logits(TEXTS))
    return [row.results[0] for row in model._run(TEXTS, None)]


def load(name: str, folder: Path, **options: Any) -> Classifier | Tagger:
    return Tagger.load(folder, **options) if name == "pii" else Classifier.load(folder, **options)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_merged_adapter_has_the_logits_of_peft(tuned: Tuned, name: str) -> None:
    model = load(name, tuned.folders[name], precision="fp32")
    for found, wanted in zip(logits_of(model), tuned.logits[name], strict=True):
        np.testing.assert_allclose(found, wanted, atol=3e-5, rtol=1e-5)
    labels = list((model.loaded.labels or {}).values())
    own = "LABEL_" if name == "jailbreak" else f"{name} "
    assert labels == [f"{own}{number}" for number in range(OPTIONS[name][1])]


def test_adapters_that_share_an_encoder_have_the_logits_of_peft(tuned: Tuned) -> None:
    base, models = load_adapters(tuned.base, tuned.folders, precision="fp32")
    assert base.kind == "masked_lm"
    for name, loaded in models.items():
        model = Tagger(loaded) if name == "pii" else Classifier(loaded)
        for found, wanted in zip(logits_of(model), tuned.logits[name], strict=True):
            np.testing.assert_allclose(found, wanted, atol=3e-5, rtol=1e-5)
        assert loaded.encoder.layers is base.encoder.layers, "one copy of the weights"
    plain = mmbert.FillMask.load(tuned.base, precision="fp32")
    asked = "All human beings are <mask> free."
    assert [fill.id for fill in mmbert.FillMask(base)(asked)] == [fill.id for fill in plain(asked)]


def test_adapters_take_fp32_where_torch_has_no_fast_bf16(
    tuned: Tuned, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on CPUs with AVX2 alone, where a merged model in bf16 has native layers."""
    monkeypatch.setattr("mmbert.cpu.bf16_instructions", lambda: None)
    assert load_adapters(tuned.base, tuned.folders)[0].precision == "fp32"
    assert not caplog.records
    assert load_adapters(tuned.base, tuned.folders, precision="bf16")[0].precision == "bf16"
    assert "bf16 is much slower than fp32 here" in caplog.text


def test_the_base_may_be_given_and_is_named_where_it_is_missing(tuned: Tuned, tmp_path: Path) -> None:
    moved = shutil.copytree(tuned.folders["jailbreak"], tmp_path / "adapter")
    config = json.loads((moved / ADAPTER).read_text())
    for base, named in ((None, "does not say of which model"), (str(tmp_path / "gone"), "no such model folder")):
        (moved / ADAPTER).write_text(json.dumps({**config, "base_model_name_or_path": base}))
        with pytest.raises(WeightsError, match=named):
            Classifier.load(moved)
    model = Classifier.load(moved, base=tuned.base, precision="fp32")
    np.testing.assert_allclose(logits_of(model)[0], tuned.logits["jailbreak"][0], atol=1e-5)
    with pytest.raises(ConfigError, match="is no adapter: base is the model"):
        Classifier.load(tuned.base, base=tuned.base)
    with pytest.raises(WeightsError, match="is an adapter itself: merge it first"):
        Classifier.load(moved, base=tuned.folders["intent"])
    with pytest.raises(ConfigError, match="not in int8: load each merged"):
        load_adapters(tuned.base, tuned.folders, precision="int8")


def test_an_adapter_is_exported_whole_and_its_hash_is_of_both(tuned: Tuned, tmp_path: Path) -> None:
    for name in ("intent", "pii"):
        export(tuned.folders[name], tmp_path / name, format="huggingface")
        model = load(name, tmp_path / name, precision="fp32")
        for found, wanted in zip(logits_of(model), tuned.logits[name], strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-4)
        theirs = getattr(transformers, CLASSES[OPTIONS[name][0]]).from_pretrained(tmp_path / name)
        assert theirs.config.id2label == model.loaded.labels
    moved = shutil.copytree(tuned.folders["intent"], tmp_path / "moved")
    hashes = {hash_folder(tuned.folders["intent"])}
    config = json.loads((moved / ADAPTER).read_text())
    for change in ({"lora_alpha": 3}, {"base_model_name_or_path": str(tmp_path / "intent")}):
        (moved / ADAPTER).write_text(json.dumps({**config, **change}))
        hashes.add(hash_folder(moved))
    assert len(hashes) == 3, "another scale and another base are other models"
    loaded = load("intent", tuned.folders["intent"]).loaded
    assert loaded.model_hash == hash_folder(tuned.folders["intent"])


def test_what_needs_a_whole_model_says_how_to_get_one(tuned: Tuned) -> None:
    for read in (Encoder.load, MaskedLM.load, mmbert.MaskedLM.load):
        with pytest.raises(WeightsError, match=r"is an adapter, and a whole model is needed here: merge it .* export"):
            read(tuned.folders["intent"])


def test_doctor_says_what_an_adapter_belongs_to(tuned: Tuned) -> None:
    found = examine(str(tuned.folders["pii"]), device="cpu")
    assert not found.problems
    assert found.facts["base"] == str(tuned.base)
    assert found.facts["changes"] == "16 matrices, rank 2, DoRA"
    assert found.facts["labels"] == ["pii 0", "pii 1", "pii 2"]
    assert [(verdict.reader, verdict.reads) for verdict in found.readers] == [("mmbert", "rightly")]


def test_the_wrong_predictor_is_told_the_right_one(tuned: Tuned) -> None:
    with pytest.raises(WeightsError, match=r"Tagger needs a .*: use mmbert.Classifier"):
        Tagger.load(tuned.folders["intent"])


@pytest.mark.parametrize("layers", [1, 3])
def test_fewer_layers_are_the_first_ones_and_the_final_norm(tuned: Tuned, layers: int) -> None:
    theirs = transformers.AutoModel.from_pretrained(tuned.base).eval()
    words = transformers.AutoTokenizer.from_pretrained(tuned.base)
    theirs.layers = theirs.layers[:layers]
    model = mmbert.Embedder.load(tuned.base, num_layers=layers, precision="fp32")
    assert len(model.loaded.encoder.layers) == model.loaded.config.num_layers == layers
    for text in TEXTS:
        with torch.no_grad():
            states = theirs(**words(text, return_tensors="pt")).last_hidden_state[0]
        wanted = torch.nn.functional.normalize(states.mean(0), dim=0)
        np.testing.assert_allclose(model(text), wanted, atol=1e-5)
    for count in (0, 5, True):
        with pytest.raises(ConfigError, match="num_layers"):
            mmbert.Embedder.load(tuned.base, num_layers=count)
