from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from task_folders import OLDER, TEXTS, save_theirs, their_logits

from mmbert.errors import ConfigError, DataError, TokenizerError, WeightsError
from mmbert.inference.tagger import Tagger
from mmbert.tokenizer.tokenizer import SPACE

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
NAMES = {"id2label": dict(enumerate(LABELS)), "label2id": {name: index for index, name in enumerate(LABELS)}}


@pytest.fixture
def tagger(tmp_path: Path) -> Tagger:
    save_theirs(tmp_path, "TokenClassification", **NAMES)
    return Tagger.load(tmp_path, device="cpu", precision="fp32")


@pytest.mark.parametrize("form", ["ours", "metaspace", "gemma", *OLDER])
def test_probabilities_are_those_of_transformers(form: str, tmp_path: Path) -> None:
    theirs, words = save_theirs(tmp_path, "TokenClassification", form=form, **NAMES)
    tagger = Tagger.load(tmp_path, precision="fp32")
    for text, found in zip(TEXTS, tagger.tokens(TEXTS), strict=True):
        expected = their_logits(theirs, words, text).softmax(-1)[1:-1]
        assert float(expected.std()) > 0.1  # the comparison means something
        np.testing.assert_allclose(found.probabilities, expected, atol=1e-4)
        spans = words(text, return_offsets_mapping=True)["offset_mapping"][1:-1]
        if starts_with_space_alone(words, text):
            spans[0] = (0, 0)  # theirs gives the space that is put before the text the text's first character
        assert [found.text[start:end] for start, end in found.spans] == [
            text[start:end].strip() for start, end in spans
        ]


def starts_with_space_alone(words: Any, text: str) -> bool:
    """Whether the first token is the space that the tokenizer puts before a text, and nothing else."""
    return bool(words.convert_ids_to_tokens(words(text)["input_ids"][1]) == SPACE)


def start_of(entity: Any) -> int:
    return int(entity["start"] if isinstance(entity, dict) else entity.start)


@pytest.mark.parametrize("form", ["ours", "metaspace", "wordpiece", "cased"])  # unigram: theirs tags lone spaces
def test_entities_are_those_of_the_pipeline(form: str, tmp_path: Path) -> None:
    theirs, words = save_theirs(tmp_path, "TokenClassification", form=form, **NAMES)
    pipeline = transformers.TokenClassificationPipeline(model=theirs, tokenizer=words, aggregation_strategy="simple")
    tagger = Tagger.load(tmp_path, precision="fp32")
    seen = 0
    for text, found in zip(TEXTS, tagger(TEXTS, strategy="simple"), strict=True):
        expected = pipeline(text)
        if starts_with_space_alone(words, text):  # theirs counts it as part of the first word
            found, expected = ([one for one in each if start_of(one) > 0] for each in (found, expected))
        assert [(one.label, one.text) for one in found] == [
            (one["entity_group"], text[one["start"] : one["end"]].strip()) for one in expected
        ]
        assert [one.score for one in found] == pytest.approx([float(one["score"]) for one in expected], abs=1e-4)
        for one in found:
            assert text[one.start : one.end] == one.text
        seen += len(found)
    assert seen > len(TEXTS)  # drawn weights, which differ between processors: about 30


def test_entities_do_not_depend_on_their_company(tagger: Tagger) -> None:
    for one, many in zip(TEXTS, tagger.tokens(TEXTS * 3), strict=False):
        np.testing.assert_allclose(tagger.tokens(one).probabilities, many.probabilities, atol=2e-5)


def test_one_many_and_streams(tagger: Tagger) -> None:
    many = tagger(TEXTS)
    stream = tagger(iter(TEXTS))
    assert [[(e.label, e.start, e.end) for e in found] for found in stream] == [
        [(e.label, e.start, e.end) for e in found] for found in many
    ]
    assert [(e.label, e.text) for e in tagger(TEXTS[0])] == [(e.label, e.text) for e in many[0]]
    assert tagger("") == []
    assert tagger(["", " ", TEXTS[-1], ""])[::3] == [[], []]
    assert tagger([]) == []


def test_words_are_whole_but_with_simple(tagger: Tagger) -> None:
    for text in TEXTS[:3]:
        for strategy in ("first", "average", "max"):
            for entity in tagger(text, strategy=strategy):
                assert entity.start == 0 or not (text[entity.start - 1].isalnum() and text[entity.start].isalnum())
                assert not text[entity.end :][:1].isalnum() or not text[entity.end - 1].isalnum()


def test_a_long_text_goes_in_windows(tmp_path: Path) -> None:
    save_theirs(tmp_path, "TokenClassification", max_tokens=64, **NAMES)
    tagger = Tagger.load(tmp_path, precision="fp32")
    text = " ".join(TEXTS * 3)
    found = tagger.tokens(text)
    ids = tagger.loaded.tokenizer.encode_batch([text])[0]
    assert found.ids.tolist() == ids.tolist()
    assert found.probabilities.shape == (len(ids), 5)
    assert len(ids) > 200
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)
    # the second window: tokens 47 to 109, of which 54 to 101 stand farther from its edge than from its neighbours'
    window = tagger.loaded.tokenizer.decode(ids[47:109])
    alone = tagger.tokens(window)
    assert alone.ids.tolist() == ids[47:109].tolist()
    np.testing.assert_allclose(found.probabilities[54:101], alone.probabilities[7:54], atol=2e-5)
    assert np.abs(found.probabilities[47:54] - alone.probabilities[:7]).max() > 1e-3  # of the window before
    for entity in tagger(text):
        assert text[entity.start : entity.end] == entity.text


def test_bad_input_is_named(tagger: Tagger, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="text 1 is NoneType, not str"):
        tagger(["a", None])
    with pytest.raises(TokenizerError, match="text 0 holds a lone surrogate"):
        tagger("\udfff")
    with pytest.raises(ConfigError, match="strategy 'none' is none of"):
        tagger("a", strategy="none")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="texts are NoneType"):
        tagger(None)
    save_theirs(tmp_path / "masks", "MaskedLM")
    with pytest.raises(WeightsError, match=r"Tagger needs a ModernBertForTokenClassification: use mmbert\.FillMask"):
        Tagger.load(tmp_path / "masks", precision="fp32")
