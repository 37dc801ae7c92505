"""Rows of languages: shares by temperature, dealt like cards, the same for the same seed and epoch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.finetuning.recipe_data import Sampling
from mmbert.finetuning.sampling import LanguageSampler

sizes = st.lists(st.integers(1, 60), min_size=1, max_size=6)
temperatures = st.floats(0, 1)


def _draw(
    languages: list[str], epoch: int = 0, *, temperature: float = 1.0, final: float | None = None,
    stratified: bool = False, epochs: int = 1, seed: int = 0,
) -> np.ndarray:  # fmt: skip
    sampling = Sampling(temperature=temperature, final_temperature=final, stratified=stratified)
    return LanguageSampler(languages, sampling, seed, epochs).draw(epoch)


def _languages(counts: list[int]) -> list[str]:
    rows = [f"l{index}" for index, count in enumerate(counts) for _ in range(count)]
    return [rows[place] for place in np.random.default_rng(0).permutation(len(rows))]


@settings(deadline=None)
@given(sizes, temperatures, st.one_of(st.none(), temperatures), st.booleans(), st.integers(0, 3))
def test_an_epoch_draws_as_many_rows_as_there_are(
    counts: list[int], start: float, final: float | None, stratified: bool, epoch: int
) -> None:
    languages = _languages(counts)
    order, again = (
        _draw(languages, epoch, temperature=start, final=final, stratified=stratified, epochs=4, seed=7)
        for _ in range(2)
    )
    assert len(order) == len(languages)
    assert order.min() >= 0
    assert order.max() < len(languages)
    assert (order == again).all()


@settings(deadline=None)
@given(sizes, temperatures, st.booleans())
def test_shares_follow_the_temperature(counts: list[int], temperature: float, stratified: bool) -> None:
    languages = _languages(counts)
    drawn = Counter(languages[row] for row in _draw(languages, temperature=temperature, stratified=stratified))
    weights = np.array(counts, dtype=float) ** temperature
    for index, share in enumerate(weights / weights.sum()):
        assert abs(drawn[f"l{index}"] - share * len(languages)) < 1


@settings(deadline=None)
@given(sizes, temperatures, st.integers(1, 4))
def test_every_row_comes_before_any_comes_again(counts: list[int], temperature: float, epochs: int) -> None:
    languages = _languages(counts)
    orders = [_draw(languages, epoch, temperature=temperature, epochs=epochs, seed=3) for epoch in range(epochs)]
    seen = Counter(row for order in orders for row in order.tolist())
    for language in set(languages):
        times = [seen[row] for row, name in enumerate(languages) if name == language]
        assert max(times) - min(times) <= 1


def test_at_temperature_one_an_epoch_is_a_shuffle() -> None:
    languages = _languages([30, 5, 1])
    for stratified in (False, True):
        order = _draw(languages, stratified=stratified)
        assert sorted(order.tolist()) == list(range(36))
        assert order.tolist() != list(range(36))


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=6), temperatures)
def test_stratified_stretches_hold_each_language_its_share(counts: list[int], temperature: float) -> None:
    languages = _languages(counts)
    order = [languages[row] for row in _draw(languages, temperature=temperature, stratified=True)]
    totals = Counter(order)
    for start in range(0, len(order) - 16, 5):
        stretch = Counter(order[start : start + 16])
        for language, total in totals.items():
            assert abs(stretch[language] - total * 16 / len(order)) <= len(counts)


def test_annealing_moves_the_shares() -> None:
    languages = _languages([900, 100])
    orders = [_draw(languages, epoch, final=0.0, epochs=2) for epoch in range(2)]
    shares = [np.mean([languages[row] == "l1" for row in order]) for order in orders]
    assert 0.1 < shares[0] < shares[1] < 0.5
    first, last = orders[0][:60], orders[1][-60:]
    assert np.mean([languages[row] == "l1" for row in first]) == pytest.approx(0.1, abs=0.04)
    assert np.mean([languages[row] == "l1" for row in last]) == pytest.approx(0.5, abs=0.04)


def test_another_seed_or_epoch_is_another_order() -> None:
    languages = _languages([40, 10])
    orders = {tuple(_draw(languages, epoch, seed=seed).tolist()) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_the_sampler_is_the_function() -> None:
    languages = _languages([8, 3])
    sampler = LanguageSampler(languages, Sampling(temperature=0.5), 1, 3)
    assert len(sampler) == 11
    assert list(sampler) == _draw(languages, temperature=0.5, epochs=3, seed=1).tolist()
    sampler.set_epoch(2)
    assert list(sampler) == _draw(languages, 2, temperature=0.5, epochs=3, seed=1).tolist()
