"""A small tokenizer, and a masked language model of two layers."""

from __future__ import annotations

from pathlib import Path

import pytest
from export_models import save_masked_lm

from mmbert.exporting.texts import TEXTS
from mmbert.recipe import TokenizerTraining
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.tokenizer.train import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer([("eng_Latn", text) for text in TEXTS if text] * 2, TokenizerTraining(vocab_size=900))


@pytest.fixture(scope="session")
def masked_lm(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_masked_lm(tmp_path_factory.mktemp("models") / "masked", tokenizer)
