from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from task_folders import OLDER, TEXTS, save_theirs, their_logits

from mmbert.errors import ConfigError, DataError, TokenizerError, WeightsError
from mmbert.inference.classifier import Classifier, apply

PAIRS = [(a, b) for a in TEXTS[:3] for b in TEXTS[3:6]]
NAMES = {"id2label": {0: "good", 1: "bad", 2: "none"}, "label2id": {"good": 0, "bad": 1, "none": 2}}


@pytest.fixture
def classifier(tmp_path: Path) -> Classifier:
    save_theirs(tmp_path, "SequenceClassification", **NAMES)
    return Classifier.load(tmp_path, device="cpu", precision="fp32")


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("form", ["ours", "metaspace", *OLDER])
def test_logits_are_those_of_transformers(pooling: str, form: str, tmp_path: Path) -> None:
    theirs, words = save_theirs(tmp_path, "SequenceClassification", form=form, classifier_pooling=pooling, **NAMES)
    classifier = Classifier.load(tmp_path, precision="fp32")
    items = [*TEXTS, *PAIRS]
    found = classifier.logits(items)
    assert found.shape == (len(items), 3)
    assert found.std(axis=0).min() > 0.1  # the comparison means something
    for item, row in zip(items, found, strict=True):
        expected = their_logits(theirs, words, *([item] if isinstance(item, str) else item))
        np.testing.assert_allclose(row, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("problem", "labels"),
    [
        (None, 3),
        (None, 1),
        ("single_label_classification", 2),
        ("multi_label_classification", 4),
        ("regression", 1),
        ("regression", 3),
    ],
)
def test_predictions_are_those_of_the_pipeline(problem: str | None, labels: int, tmp_path: Path) -> None:
    theirs, words = save_theirs(tmp_path, "SequenceClassification", num_labels=labels, problem_type=problem)
    pipeline = transformers.TextClassificationPipeline(model=theirs, tokenizer=words)
    classifier = Classifier.load(tmp_path, precision="fp32")
    for text, found in zip(TEXTS, classifier(TEXTS), strict=True):
        best, *rest = pipeline(text, top_k=None)
        assert found.label == best["label"]
        assert found.score == pytest.approx(best["score"], abs=1e-4)
        expected = {one["label"]: one["score"] for one in (best, *rest)}
        assert found.scores == pytest.approx(expected, abs=1e-4)
        held = {name for name, score in expected.items() if score >= 0.5}
        several = problem == "multi_label_classification" or (problem is None and labels == 1)
        assert set(found.labels) == (held if several else {found.label})


def test_what_a_text_is_said_to_be_does_not_depend_on_its_company(classifier: Classifier) -> None:
    items = [*TEXTS * 3, *PAIRS]
    together = classifier.logits(items)
    alone = np.stack([classifier.logits(item) for item in items])
    np.testing.assert_allclose(together, alone, atol=2e-5)


def test_one_many_and_streams(classifier: Classifier) -> None:
    one, many, pair = classifier(TEXTS[0]), classifier(TEXTS), classifier(PAIRS[0])
    assert many[0].scores == pytest.approx(one.scores, abs=1e-5)
    assert classifier(tuple(TEXTS[:3]))[2].scores == pytest.approx(many[2].scores, abs=1e-5)
    stream = classifier(iter(TEXTS))
    assert next(stream).label == one.label
    assert len(list(stream)) == len(TEXTS) - 1
    assert classifier([list(PAIRS[0])])[0].scores == pytest.approx(pair.scores, abs=1e-5)
    assert classifier([]) == []
    assert classifier.logits([]).shape == (0, 3)
    assert classifier.labels == ["good", "bad", "none"]


def test_the_function_may_be_chosen(classifier: Classifier) -> None:
    logits = torch.from_numpy(classifier.logits(TEXTS[0]))
    for name, expected in (("sigmoid", logits.sigmoid()), ("softmax", logits.softmax(0)), ("none", logits)):
        found = classifier(TEXTS[0], function=name)
        assert list(found.scores.values()) == pytest.approx(expected.tolist(), abs=1e-5)
    everything = classifier(TEXTS[0], function="sigmoid", threshold=0.0)
    assert everything.labels == ("good", "bad", "none")
    with pytest.raises(ConfigError, match="function 'tanh' is none of"):
        classifier(TEXTS[0], function="tanh")
    with pytest.raises(ConfigError, match="threshold is 2"):
        classifier(TEXTS[0], threshold=2)


def test_sigmoid_and_softmax_of_large_numbers() -> None:
    large = np.array([-1000.0, 0.0, 1000.0], np.float32)
    assert apply("sigmoid", large).tolist() == [0, 0.5, 1]
    assert apply("softmax", large).tolist() == [0, 0, 1]


def test_long_and_empty_texts_are_said_once(classifier: Classifier, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mmbert"):
        classifier(["", " ".join(TEXTS * 3), " ".join(TEXTS * 3), ""])
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "text 0 is empty" in said[0]
    assert "text 1 has" in said[1]
    assert "of which the first 256 are read" in said[1]


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        (["a", 3], DataError, "text 1 is int"),
        ("a \udc80", TokenizerError, "text 0 holds a lone surrogate at character 2"),
        (3, ConfigError, "texts are int"),
        ({"text": "a"}, ConfigError, "texts are dict"),
        ([("a", "b", "c")], DataError, "text 0 is tuple of str, str, str"),
    ],
)
def test_bad_input_is_named(classifier: Classifier, texts: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        classifier(texts)
    assert "\n" not in str(caught.value)


def test_another_head_is_named_with_its_facade(tmp_path: Path) -> None:
    save_theirs(tmp_path, "TokenClassification")
    with pytest.raises(
        WeightsError,
        match="is a ModernBertForTokenClassification, Classifier needs a ModernBertForSequenceClassification: "
        r"use mmbert\.Tagger",
    ):
        Classifier.load(tmp_path, precision="fp32")


def test_unknown_pooling_is_refused(tmp_path: Path) -> None:
    save_theirs(tmp_path, "SequenceClassification")
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"classifier_pooling": "cls"', '"classifier_pooling": "max"'))
    with pytest.raises(WeightsError, match="classifier_pooling 'max' is not supported: it is none of cls, mean"):
        Classifier.load(tmp_path, precision="fp32")
