"""A tiny tokenizer and a tiny encoder with random weights."""

from __future__ import annotations

import pytest
import torch
from human_rights import TEXTS

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
