"""A small tokenizer, and folders of random weights around it."""

from __future__ import annotations

from pathlib import Path

import pytest
from sentence_folders import TEXTS, write_model

from mmbert.recipe import TokenizerTraining
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.tokenizer.train import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer([("eng_Latn", text) for text in TEXTS * 2], TokenizerTraining(vocab_size=700))


@pytest.fixture(scope="session")
def bare(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ModernBertModel as transformers writes it."""
    return write_model(tmp_path_factory.mktemp("models") / "bare", tokenizer)
