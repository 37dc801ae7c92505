"""A tiny tokenizer and a tiny encoder with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from human_rights import TEXTS

from mmbert.inference.load import Loaded, load
from mmbert.model.config import ModelConfig
from mmbert.model.heads import MaskedLM
from mmbert.recipe import TokenizerTraining
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.tokenizer.train import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    texts = [(language, text) for _ in range(8) for language, text in TEXTS.items()]
    return train_tokenizer(texts, TokenizerTraining(vocab_size=640, sample_characters=20_000))


@pytest.fixture
def model(tokenizer: Tokenizer) -> MaskedLM:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        max_context=128,
    )
    return MaskedLM(config)


@pytest.fixture
def loaded(tokenizer: Tokenizer, tmp_path: Path) -> Callable[[MaskedLM], Loaded]:
    """Save a model with its tokenizer and load it for inference."""

    def save_and_load(model: MaskedLM) -> Loaded:
        model.save(tmp_path / "loaded")
        tokenizer.save(tmp_path / "loaded", max_tokens=128)
        return load(tmp_path / "loaded", device="cpu", precision="fp32")

    return save_and_load
