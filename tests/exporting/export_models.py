"""Small models of random weights, saved as this package saves them: two layers, two thetas, a narrow window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmbert.model.config import ModelConfig
from mmbert.model.encoder import Encoder
from mmbert.model.heads import MaskedLM
from mmbert.model.tasks import TaskModel
from mmbert.tokenizer.tokenizer import Tokenizer


def little_config(tokenizer: Tokenizer, **changes: Any) -> ModelConfig:
    shape = {
        "vocab_size": tokenizer.vocab_size, "hidden_size": 32, "intermediate_size": 48, "num_layers": 2, "num_heads": 2,
        "window": 32, "max_context": 512, "rope_theta": 160_000.0, "local_rope_theta": 10_000.0,
    }  # fmt: skip
    return ModelConfig(**{**shape, **changes})


def little_encoder(config: ModelConfig) -> Encoder:
    torch.manual_seed(0)
    return _drawn(Encoder(config))


def save_masked_lm(folder: Path, tokenizer: Tokenizer, **changes: Any) -> Path:
    torch.manual_seed(0)
    config = little_config(tokenizer, **changes)
    _drawn(MaskedLM(config)).save(folder)
    tokenizer.save(folder, max_tokens=config.max_context)
    return folder


def save_task(folder: Path, tokenizer: Tokenizer, kind: type[TaskModel], names: list[str], **more: Any) -> Path:
    encoder = little_encoder(little_config(tokenizer))
    pooling = {"pooling": more.pop("pooling", "mean")} if kind.pools else {}
    _drawn(kind(encoder, len(names), **pooling)).save(folder, names, **more)
    tokenizer.save(folder, max_tokens=512)
    return folder


def _drawn(model: Any) -> Any:
    """Larger weights than training begins with: answers differ and errors show."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("norm.weight"):
                nn.init.uniform_(value, 0.5, 1.5)
            elif value.dim() == 2:
                nn.init.normal_(value, 0, 0.2)
    return model.eval()


def padded(rows: list[np.ndarray], *, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (B, L), padding behind or before the text."""
    longest = max(map(len, rows))
    ids, mask = np.zeros((2, len(rows), longest), np.int64)
    for index, row in enumerate(rows):
        place = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids[index, place], mask[index, place] = row, 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def random_rows(lengths: list[int], vocab_size: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(5, vocab_size, length).astype(np.uint32) for length in lengths]
