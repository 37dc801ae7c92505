from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbert.errors import ConfigError
from mmbert.inference.entities import Scheme, check_strategy, read_entities, trim_spans
from mmbert.words import number_words

TEXT = "Kofi Annan left New York for Accra"
WORDS = TEXT.split()


def spans_of(text: str, pieces: list[str]) -> np.ndarray:
    """Characters of pieces that together are the text."""
    assert "".join(pieces) == text
    ends = np.cumsum([len(piece) for piece in pieces])
    return np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1)


def said(labels: list[str], chosen: list[str], score: float = 0.8) -> np.ndarray:
    """Probabilities in which each unit is the label chosen for it."""
    rows = np.full((len(chosen), len(labels)), (1 - score) / (len(labels) - 1), np.float32)
    rows[np.arange(len(chosen)), [labels.index(label) for label in chosen]] = score
    return rows


def read(labels: list[str], chosen: list[str], strategy: str = "simple") -> list[tuple[str, str]]:
    spans = spans_of(TEXT, [WORDS[0], *(f" {word}" for word in WORDS[1:])])
    found = read_entities(TEXT, spans, said(labels, chosen), Scheme(labels), strategy)
    for entity in found:
        assert TEXT[entity.start : entity.end] == entity.text == entity.text.strip()
        assert entity.score == pytest.approx(0.8)
    return [(entity.label, entity.text) for entity in found]


BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
def test_bio(strategy: str) -> None:
    chosen = ["B-PER", "I-PER", "O", "B-LOC", "I-LOC", "O", "B-LOC"]
    assert read(BIO, chosen, strategy) == [("PER", "Kofi Annan"), ("LOC", "New York"), ("LOC", "Accra")]


def test_bio_with_neighbours_and_without_beginnings() -> None:
    chosen = ["B-PER", "B-PER", "I-PER", "I-LOC", "I-LOC", "O", "I-PER"]
    assert read(BIO, chosen) == [("PER", "Kofi"), ("PER", "Annan left"), ("LOC", "New York"), ("PER", "Accra")]


def test_bioes_and_its_sisters() -> None:
    for begin, inside, end, single in ("BIES", "BILU", "BMES"):
        labels = ["O", *(f"{prefix}-{tag}" for prefix in (begin, inside, end, single) for tag in ("PER", "LOC"))]
        chosen = [f"{begin}-PER", f"{end}-PER", f"{single}-PER", f"{single}-LOC", f"{inside}-LOC", f"{end}-LOC", "O"]
        assert read(labels, chosen) == [
            ("PER", "Kofi Annan"), ("PER", "left"), ("LOC", "New"), ("LOC", "York for"),
        ]  # fmt: skip


def test_plain_names_with_and_without_an_outside() -> None:
    chosen = ["PER", "PER", "O", "LOC", "LOC", "O", "LOC"]
    assert read(["O", "PER", "LOC"], chosen) == [("PER", "Kofi Annan"), ("LOC", "New York"), ("LOC", "Accra")]
    parts = ["PROPN", "PROPN", "VERB", "PROPN", "PROPN", "ADP", "PROPN"]
    assert read(["PROPN", "VERB", "ADP"], parts) == list(zip(parts, WORDS, strict=True))
    assert read(["O", "B_x-y", "I_x-y"], ["B_x-y", "I_x-y", *["O"] * 5]) == [("x-y", "Kofi Annan")]


PIECES = ["Jean", "-", "Pierre", " lef", "t", " (", "U", ".", "S", ".)"]
SPLIT = "".join(PIECES)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("simple", [("PER", "Jean"), ("LOC", "-"), ("PER", "Pierre"), ("LOC", "t"), ("LOC", "U"), ("LOC", "S")]),
        ("first", [("PER", "Jean-Pierre"), ("LOC", "U.S")]),
        ("average", [("PER", "Jean-Pierre"), ("LOC", "U.S")]),
        ("max", [("LOC", "Jean-Pierre left"), ("LOC", "U.S")]),
    ],
)
def test_words_of_several_tokens(strategy: str, expected: list[tuple[str, str]]) -> None:
    labels = ["O", "PER", "LOC"]
    scores = said(labels, ["PER", "LOC", "PER", "O", "LOC", "O", "LOC", "O", "LOC", "O"], 0.6)
    scores[1] = 0, 0.2, 0.8  # the surest of Jean-Pierre, whose average is PER
    scores[3], scores[4] = (0.9, 0, 0.1), (0.04, 0.01, 0.95)  # left: t is surer than lef
    if strategy == "average":
        scores[4] = 0.3, 0.1, 0.6
    found = read_entities(SPLIT, spans_of(SPLIT, PIECES), scores, Scheme(labels), strategy)
    assert [(entity.label, entity.text) for entity in found] == expected


def test_scores_are_means_over_words() -> None:
    scores = np.array([[0.1, 0.9], [0.3, 0.7], [0.4, 0.6]], np.float32)
    spans = spans_of("ab cd", ["a", "b", " cd"])
    (simple,) = read_entities("ab cd", spans, scores, Scheme(["O", "X"]), "simple")
    assert simple.score == pytest.approx(np.mean([0.9, 0.7, 0.6]))
    (first,) = read_entities("ab cd", spans, scores, Scheme(["O", "X"]), "first")
    assert first.score == pytest.approx(np.mean([0.9, 0.6]))
    (average,) = read_entities("ab cd", spans, scores, Scheme(["O", "X"]), "average")
    assert average.score == pytest.approx(np.mean([0.8, 0.6]))


def test_scripts_without_spaces_are_not_one_word() -> None:
    text = "安南离开纽约。"
    labels = ["O", "PER", "LOC"]
    scores = said(labels, ["PER", "O", "O", "LOC", "O"])
    spans = spans_of(text, ["安南", "离", "开", "纽约", "。"])
    for strategy in ("first", "average", "max"):
        found = read_entities(text, spans, scores, Scheme(labels), strategy)
        assert [(entity.label, entity.text) for entity in found] == [("PER", "安南"), ("LOC", "纽约")]


def test_bytes_of_one_character_are_one_word() -> None:
    scores = said(["O", "X"], ["X", "O", "O"])
    found = read_entities("𐍈", np.array([[0, 1]] * 3), scores, Scheme(["O", "X"]), "first")
    assert [entity.text for entity in found] == ["𐍈"]


@given(st.text("ab \n\u3000", max_size=12), st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=6))
def test_spans_are_trimmed_as_strings_are(text: str, spans: list[tuple[int, int]]) -> None:
    inside = [(min(a, b, len(text)), min(max(a, b), len(text))) for a, b in spans]
    for (start, end), (left, right) in zip(inside, trim_spans(text, np.array(inside)).tolist(), strict=True):
        assert start <= left <= right <= end
        assert text[left:right] == text[start:end].strip()


def test_spaces_are_no_entities() -> None:
    text = " a \n b"
    spans = trim_spans(text, np.array([[0, 1], [0, 2], [2, 4], [4, 6]]))
    assert spans.tolist() == [[1, 1], [1, 2], [4, 4], [5, 6]]
    found = read_entities(text, np.array([[0, 1], [1, 2], [2, 4], [4, 6]]), said(["O", "X"], ["X"] * 4),
                          Scheme(["O", "X"]), "simple")  # fmt: skip
    assert [entity.text for entity in found] == ["a \n b"]
    assert read_entities("  ", np.array([[0, 2]]), said(["O", "X"], ["X"]), Scheme(["O", "X"])) == []
    assert read_entities("", np.zeros((0, 2), np.int64), np.zeros((0, 2)), Scheme(["O", "X"])) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Jean-Pierre (U.S.) left, didn't he?", ["Jean-Pierre", "(", "U.S", ".)", "left", ",", "didn't", "he", "?"]),
        ("巴黎是Paris。", ["巴", "黎", "是", "Paris", "。"]),
        ("नमस्ते दुनिया।", ["नमस्ते", "दुनिया", "।"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("می\u200cروم", ["می\u200cروم"]),
        ("e\u0301a\u00a03.5", ["e\u0301a", "3.5"]),
        ("", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    numbers = number_words(text)
    found = [
        "".join(c for c, n in zip(text, numbers, strict=True) if n == word)
        for word in range(max(numbers, default=-1) + 1)
    ]
    assert found == words
    assert all((n < 0) == c.isspace() for c, n in zip(text, numbers, strict=True))


def test_unknown_strategy() -> None:
    with pytest.raises(ConfigError, match="strategy 'last' is none of simple, first"):
        check_strategy("last")
