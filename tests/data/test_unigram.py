"""Shares of tokens: of all phases together, counted by a sample, above 0 for every token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from little_shards import write_shards

from mmbert.data import unigram
from mmbert.data.unigram import FLOOR, token_shares
from mmbert.errors import BadShard
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


def test_a_shard_that_is_left_out_is_not_read(recipe: Recipe, shards: Path) -> None:
    damaged = shards / "words/fra_Latn/00001.tokens"
    damaged.write_bytes(damaged.read_bytes()[:-4] + b"\xff\xff\xff\xff")
    with pytest.raises(BadShard, match="00001"):
        token_shares(recipe, shards, VOCABULARY)
    shares = token_shares(recipe, shards, VOCABULARY, {"words/fra_Latn/00001.tokens"})
    assert shares[9] < 1e-6
    assert shares[7] == pytest.approx(0.75 * 0.875, rel=1e-5)


def test_the_first_tokens_of_a_stream_stand_for_it(
    recipe: Recipe, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unigram, "SAMPLE", 1000)
    shares = token_shares(recipe, shards, VOCABULARY)
    assert shares[9] == pytest.approx(0.2 * 0.875, rel=1e-5)  # 200 of 1000, where there are 800 of 1600
    assert shares[20] == pytest.approx(0.0625, rel=1e-5)
