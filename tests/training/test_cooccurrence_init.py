"""Vectors by counting: words that keep the same company are alike, in one language and across two."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from little_shards import write_shards
from mmbert.errors import DataError
from mmbert.training import cooccurrence_init
from mmbert.training.cooccurrence_init import shared_information, token_vectors

VOCABULARY, WIDTH = 80, 16


def text(first: int, topics: int = 4, words: int = 6, shared: float = 0.0, seed: int = 0) -> list[list[int]]:
    """Documents of one topic each: tokens first + topic * words ..., and the topic's name, the same in all."""
    draw = np.random.default_rng(seed)
    documents = []
    for number in range(8):
        topic = number % topics
        own = first + topic * words + draw.integers(words, size=2000)
        documents.append(np.where(draw.random(2000) < shared, 5 + topic, own).tolist())
    return documents


def shards(folder: Path, **languages: list[list[int]]) -> Path:
    streams = {("text", f"{name}_Latn"): [[*document] for document in found] for name, found in languages.items()}
    return write_shards(folder, streams)


def likeness(vectors: np.ndarray, one: range, other: range) -> float:
    return float((vectors[list(one)] @ vectors[list(other)].T).mean())


def test_words_of_one_topic_are_alike(tmp_path: Path) -> None:
    vectors = token_vectors(shards(tmp_path / "s", eng=text(10)), VOCABULARY, WIDTH)
    assert vectors.shape == (VOCABULARY, WIDTH)
    assert vectors.dtype == np.float32
    lengths = np.linalg.norm(vectors, axis=1)
    assert lengths[10:34] == pytest.approx(1, abs=1e-5)
    assert not lengths[:10].any()
    assert not lengths[34:].any(), "a token that no text holds has no vector"
    same = [likeness(vectors, range(10 + 6 * t, 16 + 6 * t), range(10 + 6 * t, 16 + 6 * t)) for t in range(4)]
    other = [
        likeness(vectors, range(10 + 6 * t, 16 + 6 * t), range(10 + 6 * u, 16 + 6 * u))
        for t in range(4)
        for u in range(t)
    ]
    assert min(same) > max(other) + 0.3


def test_shared_tokens_turn_a_language_to_the_others(tmp_path: Path) -> None:
    folder = shards(tmp_path / "s", eng=text(10, shared=0.1), fra=text(40, shared=0.1, seed=1)[:4])
    vectors = token_vectors(folder, VOCABULARY, WIDTH)
    same = [likeness(vectors, range(10 + 6 * t, 16 + 6 * t), range(40 + 6 * t, 46 + 6 * t)) for t in range(4)]
    other = [
        likeness(vectors, range(10 + 6 * t, 16 + 6 * t), range(40 + 6 * u, 46 + 6 * u))
        for t in range(4)
        for u in range(4)
        if t != u
    ]
    assert min(same) > max(other) + 0.1  # 0.19 to 0.3, by the rounding of a processor's products


def test_neighbours_stand_in_one_document(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    apart = shards(tmp_path / "s", eng=[draw.integers(first, first + 2, 6).tolist() for first in (10, 12) * 30])
    vectors = token_vectors(apart, VOCABULARY, WIDTH)
    assert abs(vectors[10] @ vectors[12]) < 0.01
    assert vectors[10] @ vectors[11] > 0.2


def test_the_same_again_and_without_what_is_left_out(tmp_path: Path) -> None:
    folder = shards(tmp_path / "s", eng=text(10), fra=text(40)[:3])
    vectors = token_vectors(folder, VOCABULARY, WIDTH)
    assert np.array_equal(vectors, token_vectors(folder, VOCABULARY, WIDTH))
    left = {f"text/fra_Latn/{number:05d}.tokens" for number in range(3)}
    assert not token_vectors(folder, VOCABULARY, WIDTH, left)[40:].any()


def test_a_sample_of_a_large_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shards(tmp_path / "s", eng=[[10, 11, 12, 13] * 5, [20, 21] * 10])
    monkeypatch.setattr(cooccurrence_init, "SAMPLE", 20)
    known = np.linalg.norm(token_vectors(folder, VOCABULARY, WIDTH), axis=1) > 0
    assert np.flatnonzero(known).tolist() == [10, 11, 12, 13, 20, 21]  # the first half of either shard
    monkeypatch.setattr(cooccurrence_init, "SAMPLE", 4)
    known = np.linalg.norm(token_vectors(folder, VOCABULARY, WIDTH), axis=1) > 0
    assert np.flatnonzero(known).tolist() == [10, 11, 20, 21]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.integers(0, 9), max_size=50), min_size=1, max_size=6), st.sampled_from([32, 96, 2**21]))
def test_blocks_of_any_size_give_the_table_by_definition(documents: list[list[int]], pairs: int) -> None:
    arrays = [np.array(text, np.int64) * 3 for text in documents]
    tokens = np.unique(np.concatenate(arrays))
    counts = np.zeros((len(tokens), len(tokens)))
    for text in arrays:
        places = np.searchsorted(tokens, text)
        for one in range(len(text)):
            for other in range(one + 1, min(one + cooccurrence_init.WINDOW, len(text) - 1) + 1):
                for row, column in {(places[one], places[other]), (places[other], places[one])}:
                    counts[row, column] += 1
    totals = counts.sum(1)
    smooth = totals**0.75 / max((totals**0.75).sum(), 1e-9)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.nan_to_num(np.log(counts / (totals[:, None] * smooth)), nan=0.0, neginf=0.0).clip(0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cooccurrence_init, "PAIRS", pairs)
        found = shared_information(arrays, tokens).to_dense().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_memory_is_the_table_and_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = list(np.minimum(np.random.default_rng(0).zipf(1.2, (400, 500)), 5000))
    tokens = np.unique(np.concatenate(documents))
    monkeypatch.setattr(cooccurrence_init, "PAIRS", 2**14)
    tracemalloc.start()
    table = shared_information(documents, tokens)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert table._nnz() > 300_000
    bound = 16 * table._nnz() + 40 * 200_000 + 100 * 2**14  # bytes: parts and the whole, the line, a block
    assert peak < bound, f"{peak:,} bytes, where one key a pair alone takes {200_000 * cooccurrence_init.WINDOW * 8:,}"


def test_no_shards(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        token_vectors(tmp_path, VOCABULARY, WIDTH)
