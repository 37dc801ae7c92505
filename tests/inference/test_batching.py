"""Order, budgets and memory of batches; texts that cannot be read."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_folders import TEXTS

from mmbert.errors import ConfigError, DataError, TokenizerError
from mmbert.inference.batching import Batch, batches, cut, run, text_encoder
from mmbert.inference.load import Loaded, load
from mmbert.packed import Packed


@pytest.fixture(scope="module")
def loaded(bare: Path) -> Loaded:
    return load(bare, device="cpu", precision="fp32")


def by_number(numbers: Sequence[int], first: int) -> list[np.ndarray]:
    """Text n is n, n times."""
    return [np.full(number, number, np.uint32) for number in numbers]


@settings(max_examples=80, deadline=None, database=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=120), st.integers(1, 100), st.integers(1, 40))
def test_every_text_once_in_batches_of_the_budget(lengths: list[int], budget: int, window: int) -> None:
    seen: list[int] = []
    for batch in batches(lengths, by_number, budget, window):
        rows = batch.packed.unpack(batch.packed.ids)
        assert [row.tolist() for row in rows] == [[lengths[index]] * lengths[index] for index in batch.indices]
        assert batch.packed.tokens <= budget or len(batch.indices) == 1
        assert [len(row) for row in rows] == sorted(len(row) for row in rows)
        seen += batch.indices
    assert sorted(seen) == list(range(len(lengths)))


def test_a_long_text_is_alone() -> None:
    rows = by_number([5, 300, 6, 7], 0)
    assert [batch.indices for batch in cut([0, 1, 2, 3], rows, 20)] == [[0, 2, 3], [1]]


@settings(max_examples=40, deadline=None, database=None)
@given(st.lists(st.integers(1, 60), max_size=90), st.integers(1, 100), st.integers(1, 40))
def test_results_come_in_order(loaded: Loaded, lengths: list[int], budget: int, window: int) -> None:
    def first(packed: Packed, batch: Batch) -> list[tuple[int, int]]:
        return list(zip(batch.indices, [int(row[0]) for row in packed.unpack(packed.ids)], strict=True))

    found = run(loaded, iter(lengths), first, encode=by_number, budget=budget, window=window)
    assert list(found) == list(enumerate(lengths))


def test_an_endless_stream_is_read_two_windows_ahead(loaded: Loaded) -> None:
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        for read in itertools.count(1):
            yield 1 + read % 7

    stream = run(loaded, endless(), lambda packed, batch: batch.indices, encode=by_number, window=10, progress=False)
    for number, found in enumerate(itertools.islice(stream, 500)):
        assert found == number
        assert read <= number + 30
    stream.close()


def test_tokenising_is_done_elsewhere(loaded: Loaded) -> None:
    threads = set()

    def encode(numbers: Sequence[int], first: int) -> list[np.ndarray]:
        threads.add(threading.current_thread().name)
        return by_number(numbers, first)

    list(run(loaded, [3] * 50, lambda packed, batch: batch.indices, encode=encode, window=10, progress=False))
    assert threads
    assert threading.current_thread().name not in threads


def test_long_texts_make_short_windows(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmbert.inference.batching.CHARACTERS", 50)
    sizes = []

    def encode(texts: Sequence[str], first: int) -> list[np.ndarray]:
        sizes.append(len(texts))
        return by_number([1] * len(texts), first)

    list(batches(["x" * 20] * 10, encode, 100))
    assert sizes == [3, 3, 3, 1]


@pytest.mark.parametrize(
    ("bad", "said"),
    [(7, "text 25 is int"), (None, "text 25 is NoneType"), (b"x", "text 25 is bytes"), ("a\ud800", "lone surrogate")],
)
@pytest.mark.parametrize("prompt", ["", "Query: "])
def test_a_bad_text_is_named(loaded: Loaded, bad: object, said: str, prompt: str) -> None:
    texts = ["fine"] * 25 + [bad] + ["fine"] * 5
    found = run(
        loaded,
        texts,
        lambda packed, batch: batch.indices,
        encode=text_encoder(loaded, prompt),
        window=10,
        progress=False,
    )
    with pytest.raises((DataError, TokenizerError), match=said) as caught:
        list(found)
    assert "text 25" in str(caught.value)


def test_text_between_ends(loaded: Loaded) -> None:
    encode = text_encoder(loaded, "A: ", max_tokens=9)
    tokens = loaded.tokenizer
    for text, row in zip(TEXTS, encode(TEXTS, 0), strict=True):
        ids = tokens.encode("A: " + text)
        assert row.tolist() == (ids if len(ids) <= 9 else [*ids[:8], tokens.eos_id])


def test_budgets_below_one(loaded: Loaded) -> None:
    with pytest.raises(ConfigError, match="budget is -1"):
        list(run(loaded, [1], lambda packed, batch: batch.indices, encode=by_number, budget=-1))


def test_very_long_texts_are_not_tokenised_whole(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = loaded.tokenizer
    texts = [" ".join(TEXTS) * 40, "自由" * 3000, "free" + " " * 4000 + "equal", "free " * 3000]
    wanted = [tokens.encode_batch([text], specials=True)[0][:28] for text in texts]
    read: list[int] = []
    whole = tokens.encode_batch

    def counted(found: list[str], **options: object) -> list[np.ndarray]:
        read.extend(map(len, found))
        return whole(found, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(tokens, "encode_batch", counted)
    rows = text_encoder(loaded, max_tokens=30)(texts, 0)
    for row, ids in zip(rows, wanted, strict=True):
        assert row[1:-1].tolist() == ids.tolist()
    assert read[0] < len(texts[0]) / 4
    assert read[3] < len(texts[3]) / 4
