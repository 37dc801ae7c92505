from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from task_folders import OLDER, PAIR, TEXTS, save_theirs

from mmbert.errors import ConfigError, DataError, TokenizerError, TooLong, WeightsError
from mmbert.inference.answerer import Answer, Answerer

QUESTION = "Who is born free?"


@pytest.fixture
def answerer(tmp_path: Path) -> Answerer:
    save_theirs(tmp_path, "QuestionAnswering")
    return Answerer.load(tmp_path, device="cpu", precision="fp32")


def all_pieces(answerer: Answerer, context: str, longest: int) -> tuple[dict[tuple[int, int], float], float]:
    """Logits of every piece of a text, counted one by one, and that of no answer."""
    logits = answerer.logits(QUESTION, context).astype(np.float64)
    tokens = answerer.loaded.tokenizer
    ((ids, spans),) = tokens.encode_spans([context], specials=True)
    first = 2 + len(tokens.encode_batch([QUESTION])[0])
    assert len(logits) == first + len(ids) + 1
    pieces: dict[tuple[int, int], float] = {}
    for i in range(len(ids)):
        for j in range(i, min(i + longest, len(ids))):
            start, end = spans[i][0], spans[j][1]
            start += len(context[start:end]) - len(context[start:end].lstrip())
            pieces[int(start), int(end)] = float(logits[first + i, 0] + logits[first + j, 1])
    return pieces, float(logits[0].sum())


@pytest.mark.parametrize("pair", [PAIR, "<bos> $A <eos> <bos> $B <eos>"])
@pytest.mark.parametrize("form", ["ours", "metaspace", "gemma", *OLDER])
def test_logits_are_those_of_transformers(form: str, pair: str, tmp_path: Path) -> None:
    theirs, words = save_theirs(tmp_path, "QuestionAnswering", form=form, pair=pair)
    answerer = Answerer.load(tmp_path, precision="fp32")
    for text in TEXTS:
        encoded = words(QUESTION, text, return_tensors="pt")
        with torch.inference_mode():
            out = theirs(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"])
        found = answerer.logits(QUESTION, text)
        np.testing.assert_allclose(found[:, 0], out.start_logits[0], atol=1e-4)
        np.testing.assert_allclose(found[:, 1], out.end_logits[0], atol=1e-4)
    assert found.std() > 0.1


@pytest.mark.parametrize("no_answer", [False, True])
def test_answers_are_the_best_of_all_pieces(answerer: Answerer, no_answer: bool) -> None:
    context = TEXTS[0]  # no character of several tokens
    pieces, none = all_pieces(answerer, context, 6)
    if no_answer:
        pieces[0, 0] = none
    total = np.logaddexp.reduce(list(pieces.values()))
    expected = sorted(pieces, key=lambda span: -pieces[span])
    found = answerer(QUESTION, context, top_k=10_000, longest=6, no_answer=no_answer)
    assert [(one.start, one.end) for one in found] == expected
    assert [one.score for one in found] == pytest.approx([np.exp(pieces[span] - total) for span in expected], abs=1e-4)
    assert sum(one.score for one in found) == pytest.approx(1, abs=1e-4)
    for one in found:
        assert one.text == context[one.start : one.end] == one.text.strip()
    (best,) = answerer(QUESTION, context, longest=6, no_answer=no_answer)
    assert (best.start, best.end) == expected[0]


def test_no_answer_and_its_threshold(answerer: Answerer) -> None:
    text = TEXTS[0]
    assert answerer(QUESTION, text, no_answer=True, threshold=-1000)[0] == Answer("", 0, 0, pytest.approx(1))
    least = answerer(QUESTION, text, top_k=10_000, no_answer=True, threshold=1000)[-1]
    assert (least.text, least.score) == ("", pytest.approx(0))
    assert all(one.text for one in answerer(QUESTION, text, top_k=10_000))


def test_answers_do_not_depend_on_their_company(answerer: Answerer) -> None:
    many = answerer([QUESTION] * len(TEXTS) + TEXTS, TEXTS + TEXTS, top_k=3)
    for question, context, found in zip([QUESTION] * len(TEXTS) + TEXTS, TEXTS + TEXTS, many, strict=True):
        alone = answerer(question, context, top_k=3)
        assert [(one.start, one.end) for one in alone] == [(one.start, one.end) for one in found]
        assert [one.score for one in alone] == pytest.approx([one.score for one in found], abs=2e-5)
    streamed = list(answerer.stream(iter(zip([QUESTION] * 3, TEXTS, strict=False)), top_k=3))
    assert [[(o.start, o.end) for o in row] for row in streamed] == [
        [(o.start, o.end) for o in row] for row in many[:3]
    ]


def test_a_long_text_goes_in_windows(answerer: Answerer) -> None:
    context = " ".join(TEXTS[:3])
    ids = len(answerer.loaded.tokenizer.encode_batch([context])[0])
    window = 40
    found = answerer(QUESTION, context, top_k=10**6, longest=4, window=window)
    # every piece once, wherever its window begins
    assert len(found) == 4 * ids - 6
    assert len({(one.start, one.end) for one in found}) == len(found)
    assert sum(one.score for one in found) == pytest.approx(1, abs=1e-4)
    for one in found:
        assert one.text == context[one.start : one.end]
    # a window by itself says of its own inner pieces what it says among the others
    tokens = answerer.loaded.tokenizer
    ((encoded, spans),) = tokens.encode_spans([context], specials=True)
    room = window - 3 - len(tokens.encode_batch([QUESTION])[0])
    start = room - 8
    piece = context[int(spans[start][0]) : int(spans[start + room - 1][1])]
    assert tokens.encode_batch([piece])[0].tolist() == encoded[start : start + room].tolist()
    pieces, _ = all_pieces(answerer, piece, 4)
    shift = int(spans[start][0])
    scores = {(one.start, one.end): np.log(one.score) for one in found}
    inner = [
        (s, e) for s, e in pieces
        if int(spans[start + 4][0]) < s + shift and e + shift <= int(spans[start + room - 9][0])
    ]  # fmt: skip
    assert len(inner) > 10
    gaps = [scores[s + shift, e + shift] - pieces[s, e] for s, e in inner]
    assert max(gaps) - min(gaps) < 1e-4  # the same logits, one sum


def test_bad_input_is_named(answerer: Answerer, tmp_path: Path) -> None:
    for question, context, error, message in (
        ("", "a", DataError, "question 0 is empty"),
        ("a", " \n", DataError, "context 0 is empty"),
        ("a", ["a"], ConfigError, "both a str, or both a list"),
        (["a", "b"], ["a"], ConfigError, "2 questions, 1 contexts"),
        (["a", 3], ["a", "b"], DataError, "question 1 is int, not str"),
        (3, 4, ConfigError, "questions are int: expected a str or a list of str"),
        ("a", "\ud800", TokenizerError, "text 0 holds a lone surrogate"),
        ("a " * 300, "a", TooLong, "question 0 has .* tokens: a window of 256 has no more room"),
    ):
        with pytest.raises(error, match=message):
            answerer(question, context)
    with pytest.raises(ConfigError, match="top_k is 0"):
        answerer("a", "b", top_k=0)
    with pytest.raises(ConfigError, match="window is 9999: it must be a whole number from 5 to 256"):
        answerer("a", "b", window=9999)
    with pytest.raises(TooLong, match="do not fit"):
        answerer.logits("a", "b " * 400)
    save_theirs(tmp_path / "other", "SequenceClassification")
    with pytest.raises(WeightsError, match=r"use mmbert\.Classifier or mmbert\.Reranker"):
        Answerer.load(tmp_path / "other", precision="fp32")
