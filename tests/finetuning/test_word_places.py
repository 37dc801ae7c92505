"""Words in raw sentences, with tokenizers of every make; and the order in which languages are drawn."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "inference"))
from task_folders import tokenizer_json

from mmbert import Tokenizer
from mmbert.finetuning.recipe_data import Sampling
from mmbert.finetuning.sampling import LanguageSampler
from mmbert.finetuning.word_labels import find_words, first_tokens, join_words
from mmbert.inference.entities import trim_spans

SENTENCES = [
    (["Kofi", "Annan", "left", "Accra", "."], "Kofi Annan left Accra."),
    (["(", "Yes", ",", "she", "said", ")", "."], "(Yes, she said)."),
    (["東京", "は", "大き", "い", "。"], "東京は大きい。"),
    (["ሰላም", "ለዓለም", "።"], "ሰላም ለዓለም።"),
    (["ฉัน", "รัก", "ไทย"], "ฉันรักไทย"),
]


@pytest.mark.parametrize(("words", "text"), SENTENCES)
def test_sentences_are_put_together_as_they_are_written(words: list[str], text: str) -> None:
    made, spans = join_words(words)
    assert made == text
    assert [made[start:end] for start, end in spans] == words
    assert join_words(words, "space")[0] == " ".join(words)
    assert join_words(words, "none")[0] == "".join(words)


@given(st.lists(st.text("abç語. (", min_size=1, max_size=4).filter(str.strip), min_size=1, max_size=8))
def test_words_are_found_where_they_were_put(words: list[str]) -> None:
    words = [word.strip() for word in words]
    text, spans = join_words(words)
    assert [text[start:end] for start, end in spans] == words
    assert find_words(text, words) == spans


def test_words_that_are_not_there() -> None:
    assert find_words("Er geht zum Haus", ["Er", "geht", "zu", "dem", "Haus"]) is None
    assert find_words("a lost b", ["a", "b"]) is None


@pytest.mark.parametrize("form", ["ours", "metaspace", "gemma"])
@pytest.mark.parametrize(("words", "text"), SENTENCES)
def test_the_first_token_of_a_word(form: str, words: list[str], text: str) -> None:
    tokenizer = Tokenizer(tokenizer_json(form), form)
    ((_, spans),) = tokenizer.encode_spans([text])
    spans = trim_spans(text, spans)
    places = find_words(text, words)
    assert places is not None
    for (start, end), token in zip(places, first_tokens(spans, places).tolist(), strict=True):
        assert token >= 0
        begin, stop = spans[token]
        assert begin < end
        assert stop > start
        earlier = [index for index in range(token) if spans[index, 1] > start and spans[index, 0] < spans[index, 1]]
        assert not earlier, "an earlier token has a character of the word"


def test_words_without_tokens() -> None:
    spans = np.array([[0, 2], [3, 5]])
    assert first_tokens(spans, [(0, 2), (3, 4), (4, 5), (5, 7)]).tolist() == [0, 1, 1, -1]
    assert first_tokens(np.zeros((0, 2), np.int64), [(0, 1)]).tolist() == [-1]


LANGUAGES = ["eng_Latn"] * 90 + ["swh_Latn"] * 9 + ["fao_Latn"] * 1


def counts(sampling: Sampling, epoch: int = 0, epochs: float = 2) -> dict[str, int]:
    drawn = LanguageSampler(LANGUAGES, sampling, 0, epochs).draw(epoch)
    return {code: int((np.array(LANGUAGES)[drawn] == code).sum()) for code in ("eng_Latn", "swh_Latn", "fao_Latn")}


def test_naturally_every_example_comes_once() -> None:
    sampler = LanguageSampler(LANGUAGES, Sampling(), 0, 2)
    assert sorted(sampler) == list(range(100))
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_a_temperature_shares_languages_out() -> None:
    exact = counts(Sampling(temperature=0.5, stratified=True))
    roots = np.sqrt([90, 9, 1])
    assert list(exact.values()) == pytest.approx(100 * roots / roots.sum(), abs=1)
    drawn = counts(Sampling(temperature=0.5))
    assert drawn["swh_Latn"] > 9 and sum(drawn.values()) == 100  # noqa: PT018


def test_the_temperature_falls_during_the_run() -> None:
    falling = Sampling(temperature=1.0, final_temperature=0.0, stratified=True)
    assert counts(falling, 0)["fao_Latn"] < counts(falling, 1)["fao_Latn"]


def test_every_stretch_has_its_share() -> None:
    drawn = LanguageSampler(LANGUAGES, Sampling(temperature=0.0, stratified=True), 3, 1).draw(0)
    codes = np.array(LANGUAGES)[drawn]
    for start in range(0, 99, 3):
        assert len(set(codes[start : start + 3])) == 3


def test_no_example_comes_again_before_all_came() -> None:
    drawn = LanguageSampler(LANGUAGES, Sampling(temperature=0.0, stratified=True), 3, 1).draw(0)
    swahili = [index for index in drawn.tolist() if 90 <= index < 99]
    for start in range(0, len(swahili) - 8, 9):
        assert len(set(swahili[start : start + 9])) == 9


@pytest.mark.parametrize("form", ["gemma2", "released"])
def test_words_with_the_real_tokenizer(form: str, real_models: dict[str, Path]) -> None:
    tokenizer = Tokenizer.load(real_models[form])
    words = ["\U0001e900", "born", "\U0001e900", "<h1>", "Watu", "</h1>", "<b>", "12"]
    text = "\U0001e900 born \U0001e900 <h1>Watu</h1>\n\n\t<b> 12"
    ((ids, spans),) = tokenizer.encode_spans([text], specials=True)
    places = find_words(text, words)
    assert places is not None
    firsts = first_tokens(trim_spans(text, spans), places)
    assert (firsts >= 0).all()
    names = [tokenizer.id_to_token(index) or "" for index in ids[firsts].tolist()]
    assert names[::2][:2] == ["<0xF0>", "<0xF0>"], "not the space before it, put there or not"
    assert [name.lstrip("▁")[0] for name in names] == ["<", "b", "<", "<", "W", "<", "<", "1"]
