"""Answers: the behaviour of the official scripts, rule by rule."""

from __future__ import annotations

import pytest

from mmbert.errors import ConfigError, DataError
from mmbert.metrics.answers import (
    normalise_mlqa,
    normalise_squad,
    normalise_tiquad,
    normaliser,
    score_answers,
)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Denver Broncos!", "denver broncos"),
        ("  a   cat, an owl ", "cat owl"),
        ("theatre", "theatre"),  # an article is a word of its own
        ("the-end", "theend"),  # punctuation goes before articles do
        ("«Rio»", "«rio»"),  # only ASCII signs
        ("der Hund", "der hund"),  # only English articles: XTREME's XQuAD in German too
    ],
)
def test_squad(text: str, normal: str) -> None:
    assert normalise_squad(text) == normal


@pytest.mark.parametrize(
    ("language", "text", "normal"),
    [
        ("en", "The «end»", "end"),  # all of Unicode's punctuation
        ("deu_Latn", "der Hund eines Mannes", "hund mannes"),
        ("es", "El perro de la casa", "perro de casa"),
        ("vi", "những con mèo của tôi", "con mèo tôi"),
        ("hi", "एक कुत्ता।", "एक कुत्ता"),
        ("ar", "الكتاب", "كتاب"),
        ("zh", "北京2008年 Olympic Games。", "北 京 2008 年 olympic games"),
        ("cmn_Hani", "北京", "北 京"),
    ],
)
def test_mlqa(language: str, text: str, normal: str) -> None:
    assert normalise_mlqa(text, language) == normal


def test_mlqa_knows_seven_languages() -> None:
    with pytest.raises(ConfigError, match="no normalisation for 'swh_Latn'"):
        normaliser("mlqa", "swh_Latn")


def test_tiquad() -> None:
    assert normalise_tiquad("ኣብ ኣስመራ።") == "ኣስመራ"
    assert normalise_tiquad("እቲ መጽሓፍ፣ እዩ") == "መጽሓፍ"
    assert normalise_tiquad("The Book፧") == "book"
    assert normalise_tiquad("ናይቲ") == "ናይቲ", "only whole words are dropped"
    assert normalise_tiquad("80’ታት፠ “ፖሊስ”") == "80 ታት ፖሊስ", "punctuation is a space, curly quotes too"
    assert normalise_tiquad("2005-06 እ.ኤ.ኣ") == "2005-06 እ ኤ ኣ", "the hyphen stays"
    assert normalise_tiquad("a\\b") == "a\\b", "the backslash stays: it escapes the bracket behind it"
    scores = score_answers(["80 ታት", "።"], [["80’ታት"], ["እዩ"]], normaliser("tiquad", "tir_Ethi"))
    assert (scores.exact, scores.f1) == (1, 1), "nothing equals nothing"
    assert score_answers(["."], [["the"]]).f1 == 0, "but not for SQuAD's script"


def test_f1_of_bags_of_words() -> None:
    # "cat sat" and "cat sat down": precision 2/2, recall 2/3
    scores = score_answers(["the cat sat"], [["The cat sat down."]])
    assert (scores.exact, scores.f1) == (0, pytest.approx(0.8))
    repeated = score_answers(["no no"], [["no"]])
    assert repeated.f1 == pytest.approx(2 / 3), "a word counts as often as it is on both sides"


def test_the_nearest_reference_counts() -> None:
    scores = score_answers(["24", "x"], [["24–10", "24"], ["y"]])
    assert (scores.exact, scores.f1) == (0.5, 0.5)


def test_han_characters_share() -> None:
    mlqa = score_answers(["北京市"], [["北京"]], normaliser("mlqa", "zh"))
    squad = score_answers(["北京市"], [["北京"]])
    assert (mlqa.f1, squad.f1) == (pytest.approx(0.8), 0)


def test_faults() -> None:
    with pytest.raises(DataError, match="question 1 has no answer"):
        score_answers(["a", "b"], [["a"], []])
    with pytest.raises(DataError, match="1 answers for 2 questions"):
        score_answers(["a"], [["a"], ["b"]])
    with pytest.raises(DataError, match="empty"):
        score_answers([], [])
    with pytest.raises(ConfigError, match="none of squad, mlqa, tiquad"):
        normaliser("bleu", "eng_Latn")
