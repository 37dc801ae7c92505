"""Held-out batches: fixed, within their budget, every language asked."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from stand_ins import Bytes

from mmbert.data.heldout import heldout_batches
from mmbert.packed import Packed
from mmbert.recipe import Evaluation

TEXTS = {
    "eng_Latn": [f"{number} " + "some English text " * (1 + number % 40) for number in range(300)],
    "fra_Latn": ["du texte " * 9, "encore " * 100],
    "zul_Latn": ["a"],
    "xho_Latn": ["", ""],
    "ssw_Latn": [],
}


def batches(seed: int = 0, texts: dict[str, list[str]] | None = None, **options: float) -> dict[str, Packed]:
    evaluation = Evaluation.model_validate({"context": 64, "tokens_per_language": 1000, **options})
    return heldout_batches(Bytes(), TEXTS if texts is None else texts, evaluation, seed)


def original(packed: Packed) -> list[NDArray[np.int64]]:
    ids = packed.ids.copy()
    ids[packed.targets] = packed.labels
    return packed.unpack(ids)


def test_batches_are_fixed() -> None:
    one, again, other = batches(), batches(), batches(seed=1)
    alone = batches(texts={"fra_Latn": TEXTS["fra_Latn"]})["fra_Latn"]
    for part in ("ids", "offsets", "targets", "labels"):
        assert all(np.array_equal(getattr(one[key], part), getattr(again[key], part)) for key in one)
        assert np.array_equal(getattr(one["fra_Latn"], part), getattr(alone, part))  # whatever else is measured
    assert not np.array_equal(one["eng_Latn"].targets, other["eng_Latn"].targets)


def test_each_language_within_its_budget_and_with_a_label() -> None:
    found = batches()
    assert list(found) == ["eng_Latn", "fra_Latn", "zul_Latn"]
    for language, packed in found.items():
        assert packed.tokens <= 1000
        assert packed.longest == max(packed.lengths) <= 64
        assert len(packed.targets) >= 1
        assert (packed.ids[packed.targets] == 4).all()
        for ids in original(packed):
            assert (ids[0], ids[-1]) == (2, 1)
            assert bytes((ids[1:-1] - 5).astype(np.uint8)).decode() in "\n".join(TEXTS[language])
    assert found["eng_Latn"].tokens == 1000
    assert found["zul_Latn"].targets.tolist() == [1]
    rate = sum(len(p.targets) for p in batches(tokens_per_language=40_000).values()) / 40_000
    assert rate == pytest.approx(0.15, abs=0.02)


def test_beginnings_come_first_and_rests_fill_up() -> None:
    texts = [letter * 200 for letter in "abcd"]
    packed = batches(texts={"eng": texts}, tokens_per_language=64 * 6)["eng"]
    letters = [chr(int(ids[1]) - 5) for ids in original(packed)]
    assert sorted(letters[:4]) == list("abcd")
    assert letters[4:] == letters[:2]
    everything = batches(texts={"eng": texts}, tokens_per_language=10_000)["eng"]
    assert sum(len(ids) - 2 for ids in original(everything)) == 800


def test_no_more_is_encoded_than_is_needed() -> None:
    tokenizer = Bytes()
    heldout_batches(tokenizer, {"eng": TEXTS["eng_Latn"]}, Evaluation(context=64, tokens_per_language=1000), 0)
    assert len(tokenizer.encoded) == 64
