from __future__ import annotations

import pytest

from mmbert.evaluation.results import LanguageLoss
from mmbert.evaluation.tiers import adaptation_tiers, below, summarise, tiers


def loss(nats: float, tokens: int = 100, num_bytes: int = 400) -> LanguageLoss:
    return LanguageLoss.of(nats=nats, tokens=tokens, num_bytes=num_bytes, hits=tokens / 4)


def test_a_tier_is_the_first_phase_that_draws_a_language() -> None:
    phases = [("pretrain", {"a"}), ("extend", {"a", "b"}), ("decay_all", {"a", "b", "c"}), ("decay_eng", {"a"})]
    assert tiers(phases, "cbad") == {"c": "decay_all", "b": "extend", "a": "pretrain", "d": "unseen"}


def test_a_language_is_new_if_any_source_of_new_text_has_it() -> None:
    drawn = [("mine", "a"), ("mine", "b"), ("wiki", "b"), ("wiki", "c"), ("books", "c")]
    found = adaptation_tiers(drawn, ("wiki", "books"), "abcd")
    assert found == {"a": "new", "b": "new", "c": "kept", "d": "unseen"}
    assert adaptation_tiers(drawn, (), "c") == {"c": "new"}


def test_summary_by_hand() -> None:
    models = {"a": loss(300), "b": loss(500, 300, 600), "c": loss(10)}
    unigram = {"a": loss(600), "b": loss(400, 300, 600), "c": loss(20), "x": loss(1)}
    found = summarise(models, unigram, {"d": "unseen", "c": "late", "a": "early", "b": "early", "x": "late"})
    assert [summary.tier for summary in found] == ["late", "early"]
    early = found[1]
    bits = (models["a"].bits_per_byte + models["b"].bits_per_byte) / 2
    base = (unigram["a"].bits_per_byte + unigram["b"].bits_per_byte) / 2
    assert (early.languages, early.languages_won) == (2, 1)
    assert early.bits_per_byte == pytest.approx(bits)
    assert early.unigram == pytest.approx(base)
    assert early.below == pytest.approx(1 - bits / base)
    assert found[0].languages == 1  # x was not measured on the model, so its baseline does not count either
    assert found[0].below == pytest.approx(0.5)


def test_unseen_languages_come_last() -> None:
    models = {"a": loss(1), "b": loss(1)}
    assert [s.tier for s in summarise(models, models, {"b": "unseen", "a": "early"})] == ["early", "unseen"]


def test_below_is_a_part_of_the_baseline() -> None:
    assert below(loss(75), loss(100)) == pytest.approx(0.25)
    assert below(loss(125), loss(100)) == pytest.approx(-0.25)
