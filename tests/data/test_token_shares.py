"""Tokens counted in shards, and their shares in what all phases of a run draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from little_shards import write_shards
from mmbert.data import unigram
from mmbert.data.unigram import FLOOR, count, token_shares
from mmbert.recipe import Recipe

VOCABULARY = 32
RECIPE = """
name: tiny
tokenizer: {vocab_size: 512}
model: {hidden_size: 8, intermediate_size: 8, num_layers: 1, num_heads: 1}
sources: {words: {kind: jsonl, path: x}}
phases:
  early: &phase
    tokens: 3000
    data: {languages: 1, temperature: 1.0}
    context: 64
    mask_rate: 0.3
    batch: 256
    micro_batch: 256
    peak_lr: 1.0e-3
  late: {<<: *phase, follows: early, tokens: 1000, data: {temperature: 0.0}}
"""
TEXT = {("words", "fra_Latn"): [[7, 7, 7, 8] * 200, [9] * 800], ("words", "xho_Latn"): [[20, 21] * 100]}
"""(source, language) -> shards."""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    return Recipe.load(tmp_path / "tiny.yaml")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards", TEXT)


def test_the_phases_weigh_what_they_draw(recipe: Recipe, shards: Path) -> None:
    shares = token_shares(recipe, shards, VOCABULARY)
    xhosa = 0.5 * 1000 / 4000  # half of the last phase, nothing of the first
    expected = {7: 0.375 * (1 - xhosa), 8: 0.125 * (1 - xhosa), 9: 0.5 * (1 - xhosa), 20: xhosa / 2, 21: xhosa / 2}
    assert {token: shares[token] for token in expected} == pytest.approx(expected, rel=1e-5)
    others = np.delete(shares, list(expected))
    assert others == pytest.approx(np.full(len(others), FLOOR), rel=1e-5)
    assert shares.sum() == pytest.approx(1)


def test_a_shard_that_is_left_out_is_not_counted(recipe: Recipe, shards: Path) -> None:
    shares = token_shares(recipe, shards, VOCABULARY, {"words/fra_Latn/00001.tokens"})
    assert shares[9] < 1e-6
    assert shares[7] == pytest.approx(0.75 * 0.875, rel=1e-5)


def test_a_token_beyond_the_vocabulary_is_not_counted(recipe: Recipe, shards: Path) -> None:
    shares = token_shares(recipe, shards, 20)
    assert len(shares) == 20
    assert shares[7] == pytest.approx(0.375, rel=1e-5)


def test_a_large_stream_is_counted_in_part(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unigram, "_CHUNK", 7)
    path = shards / "words/xho_Latn/00000.tokens"
    counts = count([(path, 200)], VOCABULARY, 51)
    assert {token: counts[token] for token in (20, 21)} == {20: 26, 21: 25}
    assert counts.sum() == 51


def test_of_several_shards_the_first_parts_are_counted(shards: Path) -> None:
    files = [(shards / f"words/fra_Latn/{number:05d}.tokens", 800) for number in (0, 1)]
    assert count(files, VOCABULARY, 400)[[7, 8, 9]].tolist() == [150, 50, 200]


def test_the_shares_are_those_of_a_sample(recipe: Recipe, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unigram, "SAMPLE", 2)
    shares = token_shares(recipe, shards, VOCABULARY)
    assert shares[8] == pytest.approx(FLOOR, rel=1e-5)  # among the first four of the first shard it stands last
    assert shares[20] == pytest.approx(0.0625, rel=1e-5)


def test_a_damaged_token_does_not_break_it(shards: Path) -> None:
    path = shards / "words/xho_Latn/00000.tokens"
    path.write_bytes(b"\x02\0\0\xff" + path.read_bytes()[4:])
    assert count([(path, 200)], VOCABULARY, 200)[[20, 21]].tolist() == [99, 100]
