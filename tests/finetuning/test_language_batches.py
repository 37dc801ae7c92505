"""Batches without a text twice, in the order of the sampler."""

from __future__ import annotations

import sys
from collections import Counter
from types import FrameType
from typing import Any

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.finetuning import language_batches
from mmbert.finetuning.language_batches import WINDOW, LanguageBatches
from mmbert.finetuning.recipe_data import Sampling
from mmbert.finetuning.sampling import LanguageSampler

texts = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz")), min_size=1, max_size=40)


def _batches(
    rows: list[tuple[str, str]], *, drop_last: bool = False, unique: bool = True, epochs: float = 1,
    sampling: Sampling | None = None, processes: int = 1,
) -> LanguageBatches:  # fmt: skip
    data = Dataset.from_dict(
        {"query": [a for a, _ in rows], "positive": [b for _, b in rows], "label": [0] * len(rows)}
    )
    languages = [f"l{number % 3}" for number in range(len(rows))]
    order = LanguageSampler(languages, sampling or Sampling(), 0, epochs)
    return LanguageBatches(
        data, 4, drop_last, order=order, no_duplicates=unique, processes=processes, generator=None, seed=0
    )


@given(texts)
@settings(deadline=None, max_examples=30)
def test_no_text_twice_and_every_row_once(rows: list[tuple[str, str]]) -> None:
    batches = list(_batches(rows))
    assert sorted(row for batch in batches for row in batch) == list(range(len(rows)))
    for batch in batches:
        seen = [text for row in batch for text in rows[row]]
        assert len(seen) == len(set(seen))
        assert len(batch) <= 4


@given(texts, st.booleans(), st.sampled_from([0.0, 1.0]), st.integers(1, 3))
@settings(deadline=None, max_examples=60)
def test_as_many_batches_as_announced_in_every_epoch(
    rows: list[tuple[str, str]], drop_last: bool, temperature: float, processes: int
) -> None:
    options = {"drop_last": drop_last, "epochs": 2.5, "processes": processes}
    batches = _batches(rows, sampling=Sampling(temperature=temperature), **options)  # type: ignore[arg-type]
    again = _batches(rows, sampling=Sampling(temperature=temperature), **options)  # type: ignore[arg-type]
    for epoch in range(3):
        batches.set_epoch(epoch)
        again.set_epoch(epoch)
        given = list(batches)
        assert given == list(again)
        assert len(given) == len(batches)
        for batch in given:
            seen = [text for row in batch for text in rows[row]]
            assert len(seen) == len(set(seen))
            assert batch
        if processes == 1 or len(rows) < processes:
            continue  # accelerate shards nothing, or there is no batch for each
        shards = [list(BatchSamplerShard(batches, processes, each, even_batches=False)) for each in range(processes)]
        assert sorted(batch for shard in shards for batch in shard) == sorted(given)
        assert len({len(shard) for shard in shards}) == 1


def test_work_grows_as_the_rows_do() -> None:
    lines = Counter[int]()

    def count_lines(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename == language_batches.__file__:
            lines[count] += event == "line"
            return count_lines
        return None

    for count in (250, 2_000):
        batches = _batches([(f"q{number}", "the same") for number in range(count)])
        before = sys.gettrace()
        sys.settrace(count_lines)
        try:
            made = len(list(batches))
        finally:
            sys.settrace(before)
        assert made == len(batches) == count
    assert lines[2_000] < 12 * lines[250], "64 times as many where every batch looks through all rows that wait"


def test_few_distinct_texts_fill_batches_evenly() -> None:
    batches = _batches([(f"q{number % 3}", f"d{number % 3}") for number in range(300)])
    assert [len(batch) for batch in batches] == [3] * 100


@pytest.mark.parametrize("drop_last", [True, False])
def test_length_and_order(drop_last: bool) -> None:
    rows = [(f"q{number}", f"p{number}") for number in range(10)]
    batches = _batches(rows, drop_last=drop_last, unique=False)
    assert len(batches) == len(list(batches)) == (2 if drop_last else 3)
    first = list(batches)
    assert first == list(batches)
    batches.set_epoch(1)
    assert first != list(batches)


@pytest.mark.parametrize("processes", [1, 2])
def test_rows_of_a_step_are_of_similar_length(processes: int) -> None:
    count, size = 1_003, 4
    lengths = [(number * 7919) % 101 for number in range(count)]
    data = Dataset.from_dict({"text": [f"t{number}" for number in range(count)]})
    order = LanguageSampler(["eng_Latn"] * count, Sampling(), 0, 2)
    made = LanguageBatches(
        data,
        size,
        False,
        order=order,
        no_duplicates=False,
        lengths=lengths,
        processes=processes,
        generator=None,
        seed=0,
    )
    epochs = []
    for epoch in range(2):
        made.set_epoch(epoch)
        batches = list(made)
        assert sorted(row for batch in batches for row in batch) == list(range(count))
        assert len(batches) == len(made)
        steps = [batches[number : number + processes] for number in range(0, len(batches), processes)]
        spans = [np.ptp([lengths[row] for batch in step for row in batch]) for step in steps]
        assert np.median(spans) <= 8, "at random it is 60 and more"
        means = [np.mean([lengths[row] for batch in step for row in batch]) for step in steps[:WINDOW]]
        assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.5, "short texts first would be a curriculum"
        epochs.append(batches)
    assert epochs[0] != epochs[1]
