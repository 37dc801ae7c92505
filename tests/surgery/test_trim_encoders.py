"""Encoders of the libraries (BERT, RoBERTa, XLM-RoBERTa) with fewer tokens give the same vectors and logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers.sentence_transformer import modules
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from mmbert.errors import WeightsError
from mmbert.surgery.trim import trim
from older_tokenizers import BERT, XLMR, unigram_json, wordpiece_json, write_older

KEPT = [
    "All human beings are born free and equal in dignity and rights, 1948.",
    "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa.",
    "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "born free",
]
GONE = ["人人生而自由,在尊严和权利上一律平等。", "सभी मनुष्यों को गौरव और अधिकारों के मामले में समानता प्राप्त है।"]
ROLES = {"wordpiece": BERT, "unigram": XLMR, "bytes": XLMR}


def bytes_json() -> str:
    """The form of RoBERTa: BPE over bytes that are written as characters."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=list(XLMR.values()), initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([*KEPT, *GONE] * 3, trainer)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return made.to_str()


def save(folder: Path, form: str, name: str, **options: Any) -> transformers.PreTrainedModel:
    """Save a small model of this class of transformers with random weights and a tokenizer of this form."""
    written = {"wordpiece": wordpiece_json, "unigram": unigram_json}
    content = written[form]([*KEPT, *GONE] * 3, size=900) if form in written else bytes_json()
    tokens = len(json.loads(content)["model"]["vocab"]) + 5  # rows that no token has, as in multilingual-e5-small
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    config = kind.config_class(
        vocab_size=tokens, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=300, initializer_range=0.3, **{"pad_token_id": int(form != "wordpiece"), **options},
    )  # fmt: skip
    model: transformers.PreTrainedModel = kind(config).eval()
    for parameter in model.parameters():  # biases too: they begin as zeros
        parameter.data += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    write_older(folder, content, ROLES[form])
    return model


def vectors(folder: Path, texts: list[str], prompt: str | None = None) -> np.ndarray:
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(texts, prompt_name=prompt)


@pytest.mark.parametrize(
    ("form", "name"),
    [("wordpiece", "BertModel"), ("unigram", "BertModel"), ("unigram", "XLMRobertaModel"), ("bytes", "RobertaModel")],
)
def test_an_encoder_keeps_its_vectors(form: str, name: str, tmp_path: Path) -> None:
    save(tmp_path / "plain", form, name)
    parts = [modules.Transformer(str(tmp_path / "plain")), modules.Pooling(32, "mean"), modules.Normalize()]
    made = sentence_transformers.SentenceTransformer(modules=parts, prompts={"query": "quatsch: "}, device="cpu")
    made.save(str(tmp_path / "old"), create_model_card=False)
    report = trim(tmp_path / "old", KEPT, tmp_path / "new")
    assert report.after.tokens < report.before.tokens - 50
    assert report.before.parameters - report.after.parameters == 32 * (report.before.tokens - report.after.tokens)
    for prompt in (None, "query"):
        before, after = (vectors(tmp_path / folder, KEPT, prompt) for folder in ("old", "new"))
        np.testing.assert_allclose(after, before, atol=1e-6)
    assert np.abs(before[0] - before[1]).max() > 0.01, "texts have vectors of their own"
    assert np.isfinite(vectors(tmp_path / "new", GONE)).all()


@pytest.mark.parametrize(
    ("form", "name"),
    [("wordpiece", "BertForMaskedLM"), ("unigram", "XLMRobertaForMaskedLM"), ("bytes", "RobertaForMaskedLM")],
)
@pytest.mark.parametrize("tied", [True, False])
def test_a_masked_language_model_keeps_its_logits(form: str, name: str, tied: bool, tmp_path: Path) -> None:
    save(tmp_path / "old", form, name, tie_word_embeddings=tied)
    report = trim(tmp_path / "old", KEPT, tmp_path / "new")
    old, new = (getattr(transformers, name).from_pretrained(tmp_path / folder).eval() for folder in ("old", "new"))
    readers = [transformers.AutoTokenizer.from_pretrained(tmp_path / folder) for folder in ("old", "new")]
    kept = [
        readers[0].convert_tokens_to_ids(token) for token in readers[1].convert_ids_to_tokens(range(len(readers[1])))
    ]
    assert sorted(kept) == kept
    before, after = (
        model(**reader(KEPT, return_tensors="pt", padding=True)).logits
        for model, reader in zip((old, new), readers, strict=True)
    )
    assert report.after.tokens == after.shape[-1] == len(kept)
    torch.testing.assert_close(after, before[..., kept], rtol=0, atol=1e-5)
    stored = load_file(tmp_path / "new" / "model.safetensors")
    assert any(name.endswith("decoder.weight") for name in stored) is not tied


def test_a_classifier_keeps_its_logits(tmp_path: Path) -> None:
    old = save(tmp_path / "old", "unigram", "XLMRobertaForSequenceClassification", num_labels=3)
    trim(tmp_path / "old", KEPT, tmp_path / "new")
    new = type(old).from_pretrained(tmp_path / "new").eval()
    before, after = (
        model(**transformers.AutoTokenizer.from_pretrained(folder)(KEPT, return_tensors="pt", padding=True)).logits
        for model, folder in ((old, tmp_path / "old"), (new, tmp_path / "new"))
    )
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)


def test_positions_are_counted_from_the_same_id(tmp_path: Path) -> None:
    """RoBERTa's first position is the id of <pad> and one: tokens before it cannot go."""
    content = json.loads(unigram_json([*KEPT, *GONE] * 3, size=900))
    vocab = content["model"]["vocab"]
    early = [vocab.pop(index) for index, (token, _) in reversed([*enumerate(vocab)]) if set(token) & set("人尊権सभ")]
    assert len(early) > 2
    content["model"]["vocab"] = [*early, *vocab]
    content["model"]["unk_id"] += len(early)
    for token in content["added_tokens"]:
        token["id"] = next(i for i, (name, _) in enumerate(content["model"]["vocab"]) if name == token["content"])
    for role in content["post_processor"]["special_tokens"].values():
        role["ids"] = [index + len(early) for index in role["ids"]]
    pad = 1 + len(early)
    old = save(tmp_path / "old", "unigram", "XLMRobertaModel", pad_token_id=pad)
    write_older(tmp_path / "old", json.dumps(content), XLMR)
    trim(tmp_path / "old", KEPT, tmp_path / "new")
    new = type(old).from_pretrained(tmp_path / "new").eval()
    assert new.config.pad_token_id == pad
    before, after = (
        model(**transformers.AutoTokenizer.from_pretrained(folder)(KEPT, return_tensors="pt", padding=True))[0]
        for model, folder in ((old, tmp_path / "old"), (new, tmp_path / "new"))
    )
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


def test_an_unknown_class_is_named(tmp_path: Path) -> None:
    save(tmp_path / "old", "wordpiece", "BertModel")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    (tmp_path / "old" / "config.json").write_text(json.dumps({**config, "model_type": "distilbert"}))
    with pytest.raises(WeightsError, match="model_type is distilbert: only the tokens of modernbert, bert, roberta"):
        trim(tmp_path / "old", KEPT, tmp_path / "new")
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    weights = load_file(tmp_path / "old" / "model.safetensors")
    others = {name.replace("word_embeddings", "words"): rows for name, rows in weights.items()}
    save_file(others, tmp_path / "old" / "model.safetensors")
    with pytest.raises(WeightsError, match="no token embedding"):
        trim(tmp_path / "old", KEPT, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_multilingual_e5_small_keeps_its_vectors(e5: Path, tmp_path: Path) -> None:
    report = trim(e5, KEPT, tmp_path / "new")
    assert (report.before.tokens, report.covered) == (250_037, report.tokens)
    for prompt in (None, "query"):
        before, after = (vectors(folder, KEPT, prompt) for folder in (e5, tmp_path / "new"))
        np.testing.assert_allclose(after, before, atol=1e-6)
