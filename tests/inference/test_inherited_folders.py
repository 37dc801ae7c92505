"""Folders as trainers leave them, against transformers: added tokens, untied decoders, types of weights, options."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from task_folders import TEXTS, save_theirs, their_logits

import mmbert
from mmbert.doctor.model import examine
from mmbert.errors import WeightsError
from mmbert.exporting.export import export
from mmbert.inference.fill_mask import FillMask
from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed
from mmbert.start_model import start_config
from mmbert.surgery.trim import trim

transformers = pytest.importorskip("transformers")

MARKED = ["[E1] Kofi Annan [/E1] left <ent> Accra.", "<ent>xyzzy", "a xyzzy  <ent> b", *TEXTS[:3]]
ASKED = "All human beings are <mask> free."


def assert_logits(folder: Path, model: Any, words: Any, texts: list[str]) -> None:
    """The logits of a Classifier are those of transformers."""
    found = mmbert.Classifier.load(folder, precision="fp32").logits(texts)
    for row, text in zip(found, texts, strict=True):
        np.testing.assert_allclose(row, their_logits(model, words, text), atol=1e-5, rtol=1e-5)


def assert_mask_logits(folder: Path, model: Any, words: Any, text: str = ASKED) -> None:
    """The logits of a masked language model at all tokens are those of transformers."""
    loaded = FillMask.load(folder, precision="fp32").loaded
    assert isinstance(loaded.head, MaskedLM)
    packed = Packed.from_lists([words(text)["input_ids"]]).to()
    with torch.inference_mode():
        found = loaded.head.logits(packed)
    wanted = their_logits(model, words, text)
    np.testing.assert_allclose(found, wanted, atol=1e-5 * float(wanted.abs().max()))


def add_tokens(folder: Path, model: Any, words: Any, multiple: int | None) -> None:
    """Add tokens as a trainer does: special ones and words, each with a row of the embedding."""
    words.add_tokens(["[E1]", "[/E1]"], special_tokens=True)
    words.add_tokens(["<ent>", "xyzzy"])
    model.resize_token_embeddings(len(words), pad_to_multiple_of=multiple)
    assert model.config.vocab_size == (len(words) if multiple is None else -(-len(words) // multiple) * multiple)
    model.save_pretrained(folder)
    words.save_pretrained(folder)


@pytest.mark.parametrize("multiple", [None, 64])
def test_added_tokens_have_rows_of_their_own(multiple: int | None, tmp_path: Path) -> None:
    model, words = save_theirs(tmp_path, "SequenceClassification", num_labels=3)
    add_tokens(tmp_path, model, words, multiple)
    assert_logits(tmp_path, model, words, MARKED)
    plain = transformers.AutoModel.from_pretrained(tmp_path).eval()
    vectors = mmbert.Embedder.load(
        tmp_path,
        precision="fp32",
    )
    for text in MARKED:
        with torch.inference_mode():
            states = plain(**words(text, return_tensors="pt")).last_hidden_state[0]
        np.testing.assert_allclose(vectors(text), torch.nn.functional.normalize(states.mean(0), dim=0), atol=1e-5)


def test_a_mask_is_filled_with_tokens_only_where_the_vocabulary_is_padded(tmp_path: Path) -> None:
    model, words = save_theirs(tmp_path, "MaskedLM")
    add_tokens(tmp_path, model, words, 64)
    with torch.no_grad():
        model.decoder.bias[len(words) :] = 50  # rows of no token, which transformers would answer with
    model.save_pretrained(tmp_path)
    assert_mask_logits(tmp_path, model, words, "Kofi <mask> left <ent>")
    fills = FillMask.load(tmp_path, precision="fp32")("Kofi <mask> left <ent>", top_k=8)
    assert all(fill.id < len(words) for fill in fills)
    export(tmp_path, tmp_path / "out", format="huggingface")
    again = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(their_logits(again, words, ASKED), their_logits(model, words, ASKED))


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    folder = tmp_path_factory.mktemp("untied") / "model"
    return (folder, *save_theirs(folder, "MaskedLM", tie_word_embeddings=False))


def test_an_untied_decoder_is_loaded_saved_and_exported(untied: tuple[Path, Any, Any], tmp_path: Path) -> None:
    folder, model, words = untied
    assert not torch.equal(model.decoder.weight, model.model.embeddings.tok_embeddings.weight)
    assert_mask_logits(folder, model, words)
    ours = mmbert.MaskedLM.load(folder)
    assert sum(value.numel() for value in ours.parameters()) == model.num_parameters()
    ours.save(tmp_path / "saved")
    words.save_pretrained(tmp_path / "saved")
    export(folder, tmp_path / "exported", format="huggingface")
    for place in (tmp_path / "saved", tmp_path / "exported"):
        assert json.loads((place / "config.json").read_text())["tie_word_embeddings"] is False
        again = transformers.AutoModelForMaskedLM.from_pretrained(place).eval()
        torch.testing.assert_close(their_logits(again, words, ASKED), their_logits(model, words, ASKED))
        assert_mask_logits(place, model, words)
    transformers.AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float16).save_pretrained(tmp_path / "half")
    words.save_pretrained(tmp_path / "half")
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "half", dtype=torch.float32).eval()
    assert_mask_logits(tmp_path / "half", theirs, words)


def test_an_untied_decoder_is_trimmed_with_its_embedding(untied: tuple[Path, Any, Any], tmp_path: Path) -> None:
    folder, _, _ = untied
    trim(folder, [ASKED], tmp_path / "small")
    before, after = (FillMask.load(place, precision="fp32") for place in (folder, tmp_path / "small"))
    assert after.loaded.config.vocab_size < before.loaded.config.vocab_size
    read = before.loaded.tokenizer.id_to_token
    scores = {read(fill.id): fill.score for fill in before(ASKED, top_k=before.loaded.config.vocab_size)}
    read = after.loaded.tokenizer.id_to_token
    shares = {scores[read(fill.id)] / fill.score for fill in after(ASKED, top_k=5)}
    assert max(shares) == pytest.approx(min(shares), rel=1e-3), "the same logits, over fewer tokens"


def test_an_untied_decoder_in_doctor_onnx_and_pretraining(untied: tuple[Path, Any, Any], tmp_path: Path) -> None:
    folder, model, _ = untied
    found = examine(str(folder), device="cpu")
    assert not [problem for problem in found.problems if "weights" in str(problem)]
    assert found.facts["size"]["parameters"] == model.num_parameters()
    with pytest.raises(WeightsError, match="tie_word_embeddings is false, and pretraining ties the decoder"):
        start_config(str(folder))
    pytest.importorskip("onnxscript")
    report = export(folder, tmp_path / "onnx", format="onnx", quality=0.9)
    assert report.checks["onnx/model.onnx"].equal


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("name", ["SequenceClassification", "TokenClassification", "MultipleChoice"])
def test_the_pooling_of_a_head_is_that_of_its_config(name: str, pooling: str, tmp_path: Path) -> None:
    model, words = save_theirs(
        tmp_path, name, classifier_pooling=pooling, **({"num_labels": 3} if name[0] != "M" else {})
    )
    if name == "SequenceClassification":
        assert_logits(tmp_path, model, words, TEXTS)
    elif name == "TokenClassification":  # pools nothing, whatever its config says
        found = mmbert.Tagger.load(tmp_path, precision="fp32").tokens(TEXTS[0]).probabilities
        wanted = their_logits(model, words, TEXTS[0])[1:-1].softmax(-1)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    else:
        encoded = words([TEXTS[0]] * 2, TEXTS[7:], return_tensors="pt", padding=True)
        with torch.inference_mode():
            wanted = model(encoded["input_ids"][None], encoded["attention_mask"][None]).logits[0]
        found = mmbert.MultipleChoice.load(tmp_path, precision="fp32").logits(TEXTS[0], TEXTS[7:])
        np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("option", [
    {"classifier_activation": "relu"}, {"classifier_bias": True}, {"norm_bias": True}, {"mlp_bias": True},
    {"attention_bias": True}, {"decoder_bias": False}, {"hidden_activation": "silu"}, {"classifier_pooling": "max"},
])  # fmt: skip
def test_an_option_that_is_not_computed_is_refused_by_name(option: dict[str, Any], tmp_path: Path) -> None:
    save_theirs(tmp_path, "SequenceClassification", num_labels=3)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **option}))
    ((key, value),) = option.items()
    with pytest.raises(WeightsError, match=f"{key}.* {value!r}.*supported") as error:
        mmbert.Classifier.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("stored", ["float16", "bfloat16", "mixed"])
def test_weights_of_any_type_are_those_that_transformers_reads(stored: str, tmp_path: Path) -> None:
    model, words = save_theirs(tmp_path, "SequenceClassification", num_labels=3)
    if stored == "mixed":  # as when a head is trained on a model in half precision
        model.model.bfloat16()
        model.head.half()
    else:
        model.to(getattr(torch, stored))
    model.save_pretrained(tmp_path)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert_logits(tmp_path, theirs, words, TEXTS)
    export(tmp_path, tmp_path / "out", format="huggingface")
    types = {value.dtype for value in load_file(tmp_path / "out" / "model.safetensors").values()}
    assert len(types) == (3 if stored == "mixed" else 1)
    # without a type, transformers takes that of config.json for all weights: none may lose digits
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").float().eval()
    for text in TEXTS[:2]:
        torch.testing.assert_close(their_logits(again, words, text), their_logits(theirs, words, text))


def test_an_old_bin_is_refused_with_the_line_that_converts_it(tmp_path: Path) -> None:
    model, words = save_theirs(tmp_path / "old", "SequenceClassification", num_labels=3)
    torch.save(model.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    (tmp_path / "old" / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=f"mmbert export {tmp_path / 'old'} --format huggingface --out DIR"):
        mmbert.Classifier.load(tmp_path / "old")
    export(tmp_path / "old", tmp_path / "new", format="huggingface")
    assert_logits(tmp_path / "new", model, words, TEXTS[:2])


def test_a_class_of_its_own_with_several_heads_is_named(tmp_path: Path) -> None:
    save_theirs(tmp_path / "model", "SequenceClassification", num_labels=3)
    several = shutil.copytree(tmp_path / "model", tmp_path / "several")
    config = json.loads((several / "config.json").read_text())
    (several / "config.json").write_text(json.dumps({**config, "architectures": ["ModernBertForTwoTasks"]}))
    with pytest.raises(WeightsError, match="ModernBertForTwoTasks is not supported: expected one of ModernBertModel"):
        mmbert.Classifier.load(several)
