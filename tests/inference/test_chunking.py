"""Long texts: windows, late chunking, passages."""

from __future__ import annotations

import re
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_folders import TEXTS

from mmbert.errors import ConfigError, DataError, TooLong
from mmbert.inference.chunking import _ALONE, _END, _SENTENCE, plan_windows, split_text, split_tokens, token_spans
from mmbert.inference.embedder import Embedder
from mmbert.inference.passages import Cut, Reader, _parts, sum_parts
from mmbert.packed import Packed

LONG = " ".join(f"Sentence {n} is free and equal, and has rights. Tous les êtres! 人人生而自由。" for n in range(40))

many = settings(max_examples=100, deadline=None, database=None)


@pytest.fixture(scope="module")
def embed(bare: Path) -> Embedder:
    return Embedder.load(bare, device="cpu", precision="fp32", max_tokens=64)


@pytest.fixture(scope="module")
def whole(bare: Path) -> Embedder:
    """Reads LONG in one pass."""
    embedder = Embedder.load(bare, device="cpu", precision="fp32")
    object.__setattr__(embedder.loaded, "max_tokens", 8192)
    embedder.max_seq_length = 8192
    return embedder


@pytest.mark.parametrize(
    ("text", "by", "pieces"),
    [
        ("One. Two! Three? Four", "sentence", ["One.", "Two!", "Three?", "Four"]),
        ("He said: “No.” Then 3.14 was left", "sentence", ["He said: “No.”", "Then 3.14 was left"]),
        ("人人生而自由。他们赋有理性!", "sentence", ["人人生而自由。", "他们赋有理性!"]),
        ("सभी मनुष्यों को गौरव।दूसरा वाक्य।", "sentence", ["सभी मनुष्यों को गौरव।", "दूसरा वाक्य।"]),
        ("ሰው ሁሉ ነጻ ነው። እኩል ነው።", "sentence", ["ሰው ሁሉ ነጻ ነው።", "እኩል ነው።"]),
        ("A title\nA text", "sentence", ["A title", "A text"]),
        ("One.\n\n  Two. Three.\n \nFour", "paragraph", ["One.", "Two. Three.", "Four"]),
        ("  \n ", "sentence", []),
    ],
)
def test_passages_of_a_text(text: str, by: str, pieces: list[str]) -> None:
    assert [text[start:end] for start, end in split_text(text, by)] == pieces


@many
@given(st.integers(0, 300), st.integers(1, 50), st.data())
def test_runs_cover_all_tokens(tokens: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    runs = split_tokens(tokens, size, overlap)
    assert runs[0][0] == 0
    assert runs[-1][1] == tokens
    assert all(end - start <= size for start, end in runs)
    assert all(there[0] == here[1] - overlap for here, there in pairwise(runs))
    windows = plan_windows(tokens, size, overlap)
    taken = [token for window in windows for token in range(window.first, window.last)]
    assert taken == list(range(tokens))
    assert all(window.start <= window.first <= window.last <= window.end for window in windows)


def test_windows_that_do_not_move_on() -> None:
    for size, overlap in ((0, 0), (4, 4), (4, -1)):
        with pytest.raises(ConfigError, match="size"):
            split_tokens(10, size, overlap)


def test_tokens_of_passages() -> None:
    characters = np.array([(0, 3), (3, 8), (8, 9), (9, 14), (14, 20)])
    assert token_spans([(0, 9), (9, 20), (4, 5)], characters) == [(0, 3), (3, 5), (1, 2)]
    for span in ((5, 5), (-1, 3), (25, 30)):
        with pytest.raises(DataError, match="empty or outside"):
            token_spans([span], characters)


def test_windows_are_texts_of_their_own(embed: Embedder, whole: Embedder) -> None:
    (long, short) = embed([LONG, "short"], chunking="windows")
    assert len(long) > 10
    assert len(short) == 1
    assert abs(short.vectors[0] - embed("short")).max() < 1e-6
    assert long.spans[0][0] == 0
    assert long.spans[-1][1] == len(LONG)
    for here, there in pairwise(long.spans):
        assert here[0] < there[0] < here[1] < there[1]
    tokens = embed.loaded.tokenizer
    ids = tokens.encode_batch([LONG], specials=True)[0]
    row = [tokens.bos_id, *ids[:62].tolist(), tokens.eos_id]
    assert long.texts[0] == tokens.decode(ids[:62])
    states = embed.states(Packed.from_lists([row]).to()).mean(dim=0)
    assert abs(long.vectors[0] - torch.nn.functional.normalize(states, dim=0).numpy()).max() < 1e-6


@pytest.mark.parametrize("prompt", [None, "A right: "])
def test_one_late_passage_is_the_text(whole: Embedder, prompt: str | None) -> None:
    texts = [*TEXTS, ""]
    spans = [[(0, len(text))] if text else [] for text in texts]
    found = whole.passages(texts[:-1], by=spans, prompt=prompt)
    wanted = whole(texts[:-1], prompt=prompt)
    assert abs(np.concatenate([passages.vectors for passages in found]) - wanted).max() < 2e-5


def test_late_passages_are_means_of_one_pass(whole: Embedder) -> None:
    passages = whole.passages(LONG, normalize=False)
    assert len(passages) > 80
    assert passages.texts[:2] == ["Sentence 0 is free and equal, and has rights.", "Tous les êtres!"]
    tokens = whole.tokens(LONG)
    for number in (1, 5, 50):
        start, end = passages.spans[number]
        inside = [start <= sum(span) / 2 < end for span in tokens.spans]
        assert abs(passages.vectors[number] - tokens.vectors[inside].mean(axis=0)).max() < 1e-5
    alone = whole(passages.texts, normalize=False)
    assert abs(alone[50] - passages.vectors[50]).max() > 1e-2  # the surroundings are in it


def test_late_passages_over_several_windows(embed: Embedder, whole: Embedder) -> None:
    """Windows read less than the whole, so passages are near, and far nearer than passages read alone."""
    near, wanted = embed.passages(LONG, overlap=32), whole.passages(LONG)
    assert near.spans == wanted.spans
    cosines = (near.vectors * wanted.vectors).sum(axis=1)
    alone = (whole(wanted.texts) * wanted.vectors).sum(axis=1)
    assert cosines.mean() > alone.mean()
    stream = embed.passages(iter([TEXTS[0], LONG, TEXTS[1]]), overlap=32)
    again = list(stream)
    assert [passages.text for passages in again] == [TEXTS[0], LONG, TEXTS[1]]
    assert abs(again[1].vectors - near.vectors).max() < 1e-5


def test_passages_by_size_and_paragraph(embed: Embedder) -> None:
    by_size = embed.passages(LONG, by="size", size=20)
    tokens = len(embed.loaded.tokenizer.encode_batch([LONG], specials=True)[0])
    assert len(by_size) == -(-tokens // 20)
    assert "".join(by_size.texts) == LONG
    text = "First paragraph.\n\nSecond one."
    found = embed.passages([text], by="paragraph", dimensions=8, output="float16")[0]
    assert found.texts == ["First paragraph.", "Second one."]
    assert found.vectors.shape == (2, 8)
    assert found.vectors.dtype == np.float16


def test_empty_text(embed: Embedder) -> None:
    for chunking in ("windows", "late"):
        (found,) = embed.passages([""], chunking=chunking)
        assert found.spans == [(0, 0)]
        assert abs(found.vectors[0] - embed("")).max() < 1e-6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"chunking": "windows", "by": "sentence"}, "by is for late"),
        ({"by": "chapter"}, "chapter"),
        ({"by": [[(0, 5)]]}, "spans for 1 texts"),
        ({"by": [[(7, 7)], []]}, "empty or outside"),
        ({"chunking": "early"}, "early"),
        ({"overlap": 62}, "overlap"),
        ({"prompt": "free " * 100}, "no room for text"),
    ],
)
def test_options_that_do_not_go(embed: Embedder, options: dict[str, Any], said: str) -> None:
    with pytest.raises((ConfigError, DataError), match=said):
        embed.passages(TEXTS[:2], **options)


def test_late_chunking_takes_means(embed: Embedder) -> None:
    with pytest.raises(ConfigError, match="late chunking takes means"):
        Embedder(embed.loaded, pooling="first").passages(LONG)


_SLOW = re.compile(rf"{_END}+[\"'”’»」』)\]]*(?:\s+|(?<={_ALONE})|$)|\n\s*\n|\n")
"""The borders of sentences as they are meant; its time is the square of a run of signs."""


@settings(max_examples=500)
@given(st.text('.。!"」a \n', max_size=24))
def test_borders_of_sentences(text: str) -> None:
    assert [m.end() for m in _SENTENCE.finditer(text)] == [m.end() for m in _SLOW.finditer(text)]


@pytest.mark.parametrize("by", ["sentence", "paragraph"])
@pytest.mark.parametrize("text", [".", "。.", "\n", " ", "\n ", '."', ".\n", "a. ", '"', "\n\n a"])
def test_any_text_is_split_in_linear_time(text: str, by: str) -> None:
    begun = time.process_time()
    split_text(text * 200_000 + "a", by)
    split_text("." + text * 200_000 + "a", by)
    assert time.process_time() - begun < 5


spans = st.integers(0, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, 9), st.integers(0, 4)))


@given(spans, st.data())
def test_parts_of_windows(sizes: tuple[int, int, int], data: st.DataObject) -> None:
    """Passages in any order, windows of any size: what each window has of each passage, found one by one."""
    tokens, capacity, overlap = sizes
    ends = st.tuples(st.integers(0, tokens), st.integers(0, tokens)).map(lambda pair: (min(pair), max(pair)))
    runs = data.draw(st.lists(ends, max_size=6)) if tokens else [(0, 0)] * data.draw(st.integers(0, 2))
    windows = plan_windows(tokens, capacity, min(overlap, capacity - 1))
    found = _parts(Cut("", [], runs, tokens, windows), head := 3, skip := 2)
    assert len(found) == len(windows)
    for window, parts in zip(windows, found, strict=True):
        expected = []
        for passage, (start, end) in enumerate(runs):
            first, last = max(start, window.first), min(end, window.last)
            low = skip if start == 0 == window.first else first + head - window.start
            high = last + head - window.start + (end == tokens == window.last)
            if first < last or not tokens:
                expected.append([passage, low, high])
        assert parts.tolist() == expected


def test_sums_of_many_parts() -> None:
    rows = torch.randn(3000, 5)
    borders = np.sort(np.random.default_rng(0).integers(0, 3000, (2500, 2)), axis=1)
    borders[:, 1] += borders[:, 0] == borders[:, 1]
    parts = np.column_stack([np.arange(2500), borders])
    expected = np.stack([rows[low:high].sum(0).numpy() for low, high in borders])
    np.testing.assert_allclose(sum_parts(rows, parts), expected, rtol=0, atol=1e-3)


def test_passages_are_linear_and_their_limit_comes_first(embed: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(embed, chunking="late", by="size", size=1, overlap=None, prompt=None)
    begun = time.process_time()
    (found,) = reader.rows(["a " * 100_000])  # some hundred thousand passages over thousands of windows
    assert sum(map(len, found.metadata.parts)) >= len(found.metadata.cut.runs) >= 100_000
    assert time.process_time() - begun < 20
    monkeypatch.setattr("mmbert.inference.passages.plan_windows", lambda *_: pytest.fail("planned"))
    with pytest.raises(TooLong, match=r"passages or more, an answer may have 100"):
        list(reader.rows(["a " * 1000], 100))
    monkeypatch.setattr(embed.loaded.tokenizer, "encode_spans", lambda *_, **__: pytest.fail("tokenised"))
    sentences = Reader(embed, chunking="late", by="sentence", size=None, overlap=None, prompt=None)
    with pytest.raises(TooLong, match=r"1,000 passages or more, an answer may have 100"):
        list(sentences.rows(["Aa. " * 1000], 100))
