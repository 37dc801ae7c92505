from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from task_folders import TEXTS, save_theirs

from mmbert.errors import ConfigError, TokenizerError, WeightsError
from mmbert.inference.multiple_choice import MultipleChoice
from mmbert.inference.reranker import Reranker

QUERY = "Are all human beings born free?"


@pytest.fixture
def cross(tmp_path: Path) -> CrossEncoder:
    save_theirs(tmp_path / "theirs", "SequenceClassification", num_labels=1)
    return CrossEncoder(str(tmp_path / "theirs"), device="cpu")


@pytest.fixture
def reranker(cross: CrossEncoder, tmp_path: Path) -> Reranker:
    return Reranker.load(tmp_path / "theirs", device="cpu", precision="fp32")


def test_ranks_as_the_cross_encoder_does(cross: CrossEncoder, reranker: Reranker) -> None:
    expected = cross.rank(QUERY, TEXTS, return_documents=True)
    found = reranker.rank(QUERY, TEXTS, return_documents=True)
    assert [one["text"] for one in found] == [one["text"] for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one["corpus_id"] == other["corpus_id"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
        assert 0 < one["score"] < 1  # one label: a sigmoid
    assert reranker.rank(QUERY, TEXTS, top_k=2) == [
        {key: one[key] for key in ("corpus_id", "score")} for one in found[:2]
    ]
    ranked = reranker(QUERY, TEXTS, top_k=3)
    assert [(one.index, one.text) for one in ranked] == [(one["corpus_id"], one["text"]) for one in found[:3]]
    assert ranked[0].score == pytest.approx(found[0]["score"], abs=1e-6)


def test_predicts_as_the_cross_encoder_does(cross: CrossEncoder, reranker: Reranker) -> None:
    pairs = [(a, b) for a in TEXTS[:3] for b in [*TEXTS[3:], ""]]
    np.testing.assert_allclose(reranker.predict(pairs), cross.predict(pairs), atol=1e-4)
    identity = torch.nn.Identity()
    np.testing.assert_allclose(
        reranker.predict(sentences=pairs, activation_fn=identity),
        cross.predict(pairs, activation_fn=identity),
        atol=1e-4,
    )
    assert reranker.predict(pairs[0]) == pytest.approx(cross.predict(pairs[0]), abs=1e-4)
    assert reranker.predict(list(pairs[0])) == pytest.approx(cross.predict(list(pairs[0])), abs=1e-4)
    assert reranker.predict(pairs, convert_to_tensor=True).shape == (len(pairs),)
    assert len(reranker.predict(pairs, convert_to_numpy=False)) == len(pairs)
    assert reranker.predict([]).shape == (0,)
    np.testing.assert_allclose(list(reranker.stream(iter(pairs))), reranker.predict(pairs), atol=1e-5)
    long = (QUERY, " ".join(TEXTS * 3))
    assert reranker.predict(long) == pytest.approx(cross.predict(long), abs=1e-4)


@pytest.mark.parametrize("where", ["theirs", "version 5", "version 3"])
def test_the_activation_that_the_folder_names(where: str, cross: CrossEncoder, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    if where == "theirs":
        other = CrossEncoder(str(tmp_path / "theirs"), device="cpu", activation_fn=torch.nn.Identity())
        other.save_pretrained(str(folder))
    else:
        save_theirs(folder, "SequenceClassification", num_labels=1)
        config = json.loads((folder / "config.json").read_text())
        name = "torch.nn.modules.linear.Identity"
        old = {"sbert_ce_default_activation_function": name}
        config |= old if where == "version 3" else {"sentence_transformers": {"activation_fn": name, "version": "5.1"}}
        (folder / "config.json").write_text(json.dumps(config))
    reranker = Reranker.load(folder, precision="fp32")
    found = reranker.predict([(QUERY, text) for text in TEXTS])
    np.testing.assert_allclose(found, cross.predict([(QUERY, t) for t in TEXTS], activation_fn=torch.nn.Identity()),
                               atol=1e-4)  # fmt: skip
    assert found.min() < 0


def test_several_labels(tmp_path: Path) -> None:
    save_theirs(tmp_path, "SequenceClassification", num_labels=3)
    cross, reranker = CrossEncoder(str(tmp_path), device="cpu"), Reranker.load(tmp_path, precision="fp32")
    pairs = [(QUERY, text) for text in TEXTS]
    np.testing.assert_allclose(reranker.predict(pairs), cross.predict(pairs), atol=1e-4)
    np.testing.assert_allclose(
        reranker.predict(pairs, apply_softmax=True), cross.predict(pairs, apply_softmax=True), atol=1e-4
    )
    with pytest.raises(ConfigError, match="has 3 labels, ranking needs one score: use predict"):
        reranker(QUERY, TEXTS)
    with pytest.raises(ConfigError, match="has 3 labels"):
        reranker.rank(QUERY, TEXTS)


def test_prompts_of_a_folder(cross: CrossEncoder, tmp_path: Path) -> None:
    other = CrossEncoder(
        str(tmp_path / "theirs"), device="cpu", prompts={"web": "search: ", "own": "mail: "}, default_prompt_name="web"
    )
    other.save_pretrained(str(tmp_path / "saved"))
    reranker = Reranker.load(tmp_path / "saved", precision="fp32")
    pairs = [(QUERY, text) for text in TEXTS]
    np.testing.assert_allclose(reranker.predict(pairs), other.predict(pairs), atol=1e-4)
    np.testing.assert_allclose(
        reranker.predict(pairs, prompt_name="own"), other.predict(pairs, prompt_name="own"), atol=1e-4
    )
    assert np.abs(reranker.predict(pairs) - cross.predict(pairs)).max() > 1e-3
    with pytest.raises(ConfigError, match="prompt_name 'web2' is none of the model's: own, web"):
        reranker.predict(pairs, prompt_name="web2")


def test_bad_input_is_named(reranker: Reranker) -> None:
    for query, documents, message in (
        (" ", ["a"], "the query is empty"),
        (3, ["a"], "the query is int, not a str"),
        ("a", "abc", "documents are str: expected a list"),
    ):
        with pytest.raises(ConfigError, match=message):
            reranker(query, documents)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="top_k is 0"):
        reranker("a", ["b"], top_k=0)
    with pytest.raises(TokenizerError, match="text 1 holds a lone surrogate"):
        reranker("a", ["b", "\ud800"])
    with pytest.raises(ConfigError, match="inputs are str: expected pairs of texts"):
        reranker.predict("a")
    with pytest.raises(ConfigError, match="pool and chunk_size"):
        reranker.predict([("a", "b")], chunk_size=3)
    assert reranker("a", []) == []


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_choices_are_those_of_transformers(pooling: str, tmp_path: Path) -> None:
    theirs, words = save_theirs(tmp_path, "MultipleChoice", classifier_pooling=pooling)
    chooser = MultipleChoice.load(tmp_path, precision="fp32")
    encoded = words([QUERY] * len(TEXTS), TEXTS, return_tensors="pt", padding=True)
    with torch.inference_mode():
        expected = theirs(**{key: encoded[key][None] for key in ("input_ids", "attention_mask")}).logits[0]
    np.testing.assert_allclose(chooser.logits(QUERY, TEXTS), expected, atol=1e-4)
    found = chooser(QUERY, TEXTS)
    assert [one.index for one in found] == expected.argsort(descending=True).tolist()
    assert found[0].score == pytest.approx(float(expected.softmax(0).max()), abs=1e-4)
    assert sum(one.score for one in found) == pytest.approx(1)
    with pytest.raises(ConfigError, match="at least two texts"):
        chooser(QUERY, "ab")
    with pytest.raises(WeightsError, match=r"use mmbert\.MultipleChoice"):
        Reranker.load(tmp_path, precision="fp32")
