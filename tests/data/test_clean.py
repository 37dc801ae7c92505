"""Cleaning says why: each rule drops what it names, and keeps real text of every script."""

from __future__ import annotations

import little_corpus
import pytest

from mmbert.data.clean import INVALID, REPETITION, SHORT, SYMBOLS, check, repetition
from mmbert.data.document import Document
from mmbert.recipe import Cleaning


def reason(text: str, **options: float) -> str | None:
    return check(Document(text, "1", "und", "s"), Cleaning.model_validate(options))


@pytest.mark.parametrize("language", little_corpus.SENTENCES)
def test_real_text_is_kept(language: str) -> None:
    assert reason("\n".join(little_corpus.SENTENCES[language])) is None
    assert reason(" ".join(little_corpus.SENTENCES[language])) is None


def test_short() -> None:
    assert reason(" \n fifteen letters \n ") == SHORT
    assert reason("sixteen letters..", min_characters=17) is None


def test_lone_surrogates() -> None:
    assert reason("a text that would be good \ud83d") == INVALID
    assert reason("a text that would be good \U0001f600") is None


def test_symbols_are_neither_letters_marks_nor_digits() -> None:
    assert reason("+-----+-----+ a table +-----+") == SYMBOLS
    assert reason("a, b; c: d. e! f? g-h", max_symbols=0.6) is None
    marks = "\u0915\u094d\u0937\u093f " * 5  # Devanagari: half of it are marks, which belong to letters
    assert reason(marks + "...", max_repetition=1.0, max_symbols=0.2) is None
    assert reason("\u200b\u200c \t letters and format characters", max_symbols=0.0) is None


def test_repetition_of_lines() -> None:
    lines = ["one line of text", "another line"]
    assert repetition("\n".join(lines * 3)) == pytest.approx(4 / 6)
    assert reason("\n\n".join(lines * 3)) == REPETITION
    assert reason("\n".join(lines * 3), max_repetition=0.7) is None
    assert repetition("a\na\na") == 0.0  # too few to judge


def test_repetition_of_words_does_not_grow_with_length() -> None:
    assert reason("buy now " * 20) == REPETITION
    # Twenty words in ever new order: as a whole 99 % repeated, as is every long text, but in no run of 64 beyond 70 %.
    words = [f"word{(i * i + i // 20) % 97}" for i in range(5000)]
    assert len(set(words)) < 0.02 * len(words)
    assert reason(" ".join(words)) is None
