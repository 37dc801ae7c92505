"""Rows of languages: shares by temperature, dealt like cards, the same for the same seed and epoch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbert.finetuning.sampling import Draw, LanguageSampler, draw_epoch

sizes = st.lists(st.integers(1, 60), min_size=1, max_size=6)
temperatures = st.floats(0, 1)


def _languages(counts: list[int]) -> list[str]:
    rows = [f"l{index}" for index, count in enumerate(counts) for _ in range(count)]
    return [rows[place] for place in np.random.default_rng(0).permutation(len(rows))]


@given(sizes, temperatures, st.one_of(st.none(), temperatures), st.booleans(), st.integers(0, 3))
def test_an_epoch_draws_as_many_rows_as_there_are(
    counts: list[int], start: float, final: float | None, stratified: bool, epoch: int
) -> None:
    languages = _languages(counts)
    draw = Draw(start, final, stratified, epochs=4, seed=7)
    order = draw_epoch(languages, draw, epoch)
    assert len(order) == len(languages)
    assert order.min() >= 0
    assert order.max() < len(languages)
    assert (order == draw_epoch(languages, draw, epoch)).all()


@given(sizes, temperatures, st.booleans())
def test_shares_follow_the_temperature(counts: list[int], temperature: float, stratified: bool) -> None:
    languages = _languages(counts)
    drawn = Counter(languages[row] for row in draw_epoch(languages, Draw(temperature, stratified=stratified), 0))
    weights = np.array(counts, dtype=float) ** temperature
    for index, share in enumerate(weights / weights.sum()):
        assert abs(drawn[f"l{index}"] - share * len(languages)) < 1


@given(sizes, temperatures, st.integers(1, 4))
def test_every_row_comes_before_any_comes_again(counts: list[int], temperature: float, epochs: int) -> None:
    languages = _languages(counts)
    draw = Draw(temperature, epochs=epochs, seed=3)
    seen = Counter(row for epoch in range(epochs) for row in draw_epoch(languages, draw, epoch).tolist())
    for language in set(languages):
        times = [seen[row] for row, name in enumerate(languages) if name == language]
        assert max(times) - min(times) <= 1


def test_at_temperature_one_an_epoch_is_a_shuffle() -> None:
    languages = _languages([30, 5, 1])
    for stratified in (False, True):
        order = draw_epoch(languages, Draw(1.0, stratified=stratified), 0)
        assert sorted(order.tolist()) == list(range(36))
        assert order.tolist() != list(range(36))


@given(st.lists(st.integers(1, 60), min_size=2, max_size=6), temperatures)
def test_stratified_stretches_hold_each_language_its_share(counts: list[int], temperature: float) -> None:
    languages = _languages(counts)
    order = [languages[row] for row in draw_epoch(languages, Draw(temperature, stratified=True), 0)]
    totals = Counter(order)
    for start in range(0, len(order) - 16, 5):
        stretch = Counter(order[start : start + 16])
        for language, total in totals.items():
            assert abs(stretch[language] - total * 16 / len(order)) <= len(counts)


def test_annealing_moves_the_shares() -> None:
    languages = _languages([900, 100])
    draw = Draw(1.0, final=0.0, epochs=2)
    shares = [np.mean([languages[row] == "l1" for row in draw_epoch(languages, draw, epoch)]) for epoch in range(2)]
    assert 0.1 < shares[0] < shares[1] < 0.5
    first, last = draw_epoch(languages, draw, 0)[:60], draw_epoch(languages, draw, 1)[-60:]
    assert np.mean([languages[row] == "l1" for row in first]) == pytest.approx(0.1, abs=0.04)
    assert np.mean([languages[row] == "l1" for row in last]) == pytest.approx(0.5, abs=0.04)


def test_another_seed_or_epoch_is_another_order() -> None:
    languages = _languages([40, 10])
    orders = {tuple(draw_epoch(languages, Draw(seed=seed), epoch).tolist()) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_the_sampler_is_the_function() -> None:
    languages = _languages([8, 3])
    draw = Draw(0.5, seed=1)
    sampler = LanguageSampler(languages, draw)
    assert len(sampler) == 11
    assert list(sampler) == draw_epoch(languages, draw, 0).tolist()
    sampler.set_epoch(2)
    assert list(sampler) == draw_epoch(languages, draw, 2).tolist()
