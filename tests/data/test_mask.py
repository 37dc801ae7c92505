"""Masks: the rate, 80/10/10, never a special token, and the same for the same place in a run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mmbert.data.mask import Vocabulary, count_labels, generator, hide, mask
from mmbert.errors import DataError

VOCABULARY = Vocabulary(size=1000, pad=0, eos=1, bos=2, unk=3, mask=4)


def batch(lengths: list[int], seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    random = np.random.default_rng(seed)
    offsets = np.cumsum([0, *lengths]).astype(np.int32)
    ids = random.integers(5, 1000, offsets[-1])
    ids[offsets[:-1]] = 2
    ids[offsets[1:] - 1] = 1
    return ids, offsets


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.3])
def test_rate_and_80_10_10(rate: float) -> None:
    ids, offsets = batch([66] * 4000)
    before = ids.copy()
    shown, targets, labels = mask(ids, offsets, rate, generator(0, "pretrain", 12, 0, 3), VOCABULARY)
    assert np.array_equal(ids, before)
    text = 64 * 4000
    assert len(targets) / text == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / text))
    assert (np.diff(targets) > 0).all()
    assert np.array_equal(labels, ids[targets])
    hidden, same = shown[targets] == 4, shown[targets] == labels
    within = 4 * np.sqrt(0.1 * 0.9 / len(targets))
    assert hidden.mean() == pytest.approx(0.8, abs=2 * within)
    assert same.mean() == pytest.approx(0.1 + 0.1 / 995, abs=within)
    replaced = shown[targets][~hidden & ~same]
    assert len(replaced) / len(targets) == pytest.approx(0.1 * (1 - 1 / 995), abs=within)
    assert replaced.min() >= 5
    counts = np.bincount(replaced, minlength=1000)[5:]  # any regular id, each as likely
    assert ((counts - len(replaced) / 995) ** 2).sum() / (len(replaced) / 995) < 995 + 5 * np.sqrt(2 * 995)
    untouched = np.ones(len(ids), bool)
    untouched[targets] = False
    assert np.array_equal(shown[untouched], ids[untouched])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(3, 40), min_size=1, max_size=30), st.floats(0.001, 0.999), st.integers(0, 1000))
def test_never_a_special_token_and_counted_without_the_text(lengths: list[int], rate: float, key: int) -> None:
    ids, offsets = batch(lengths, key)
    _, targets, labels = mask(ids, offsets, rate, generator(key), VOCABULARY)
    assert not VOCABULARY.is_special[labels].any()
    assert not np.isin(targets, offsets[:-1]).any()
    assert not np.isin(targets, offsets[1:] - 1).any()
    assert count_labels(offsets, rate, generator(key)) == len(targets)


def test_places_are_chosen_evenly_within_a_sequence() -> None:
    ids, offsets = batch([12] * 20_000)
    _, targets, _ = mask(ids, offsets, 0.3, generator(5), VOCABULARY)
    counts = np.bincount(targets % 12, minlength=12)
    assert (counts[0], counts[11]) == (0, 0)
    assert np.abs(counts[1:11] - 6000).max() < 4 * np.sqrt(20_000 * 0.3 * 0.7)


def test_no_label_at_a_small_rate() -> None:
    ids, offsets = batch([3, 4])
    shown, targets, labels = mask(ids, offsets, 0.0001, generator(1), VOCABULARY)
    assert (targets.size, labels.size) == (0, 0)
    assert targets.dtype == labels.dtype == np.int64
    assert np.array_equal(shown, ids)


def test_masks_belong_to_their_key() -> None:
    ids, offsets = batch([50] * 40)
    keys = [(0, "decay", 7, 0, number) for number in (0, 0, 1)]
    one, again, other = (mask(ids, offsets, 0.3, generator(*key), VOCABULARY) for key in keys)
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert len(np.intersect1d(one[1], other[1])) < 0.4 * len(one[1])  # 0.3 by chance
    assert generator(1, 23).random_raw() != generator(12, 3).random_raw()


def test_golden_mask() -> None:
    """A resumed run must meet the masks it would have met."""
    ids, offsets = np.array([2, *range(10, 20), 1, 2, *range(50, 57), 1]), np.array([0, 12, 21], dtype=np.int32)
    shown, targets, _ = mask(ids, offsets, 0.3, generator(21, "pretrain", 3, 0, 1), VOCABULARY)
    assert targets.tolist() == [3, 4, 9, 13, 14, 15, 16]
    assert shown[targets].tolist() == [4, 4, 4, 50, 496, 611, 4]


def test_hiding_for_measurement_shows_no_answer_and_always_asks() -> None:
    ids, offsets = batch([66] * 400)
    shown, targets, labels = hide(ids, offsets, 0.15, generator(0), VOCABULARY)
    assert (shown[targets] == 4).all()
    assert len(targets) / (64 * 400) == pytest.approx(0.15, abs=0.01)
    assert np.array_equal(labels, ids[targets])
    for key in range(20):
        _, targets, labels = hide(*batch([3]), 0.001, generator(key), VOCABULARY)
        assert targets.tolist() == [1]
        assert len(labels) == 1


@pytest.mark.parametrize("act", [mask, hide])
def test_foreign_ids_in_the_text_are_refused(act: object) -> None:
    ids, offsets = batch([40] * 10)
    ids[5:39] = 3
    with pytest.raises(DataError, match="special token 3 stands inside a text"):
        act(ids, offsets, 0.5, generator(0), VOCABULARY)  # type: ignore[operator]
    ids[5:39] = 1000
    with pytest.raises(DataError, match="token 1000 in the shards is beyond the vocabulary of 1000"):
        act(ids, offsets, 0.5, generator(0), VOCABULARY)  # type: ignore[operator]
