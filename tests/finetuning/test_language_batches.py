"""Batches without a text twice, in the order of the sampler."""

from __future__ import annotations

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.finetuning.language_batches import LanguageBatches
from mmbert.finetuning.recipe_data import Sampling
from mmbert.finetuning.sampling import LanguageSampler

texts = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz")), min_size=1, max_size=40)


def _batches(rows: list[tuple[str, str]], *, drop_last: bool = False, unique: bool = True) -> LanguageBatches:
    data = Dataset.from_dict(
        {"query": [a for a, _ in rows], "positive": [b for _, b in rows], "label": [0] * len(rows)}
    )
    order = LanguageSampler(["l"] * len(rows), Sampling(), 0, 1)
    return LanguageBatches(data, 4, drop_last, order=order, no_duplicates=unique, generator=None, seed=0)


@given(texts)
@settings(deadline=None, max_examples=30)
def test_no_text_twice_and_every_row_once(rows: list[tuple[str, str]]) -> None:
    batches = list(_batches(rows))
    assert sorted(row for batch in batches for row in batch) == list(range(len(rows)))
    for batch in batches:
        seen = [text for row in batch for text in rows[row]]
        assert len(seen) == len(set(seen))
        assert len(batch) <= 4


@pytest.mark.parametrize("drop_last", [True, False])
def test_length_and_order(drop_last: bool) -> None:
    rows = [(f"q{number}", f"p{number}") for number in range(10)]
    batches = _batches(rows, drop_last=drop_last, unique=False)
    assert len(batches) == len(list(batches)) == (2 if drop_last else 3)
    first = list(batches)
    assert first == list(batches)
    batches.set_epoch(1)
    assert first != list(batches)
