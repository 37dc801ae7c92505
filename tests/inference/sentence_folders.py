"""Small folders of random weights: written by transformers and sentence-transformers themselves, with real text."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import sentence_transformers
import torch
import transformers
from sentence_transformers.sentence_transformer.modules import Transformer

from mmbert.tokenizer.tokenizer import Tokenizer

transformers.utils.logging.disable_progress_bar()

TEXTS = [
    "All human beings are born free and equal in dignity and rights.",
    "They are endowed with reason and conscience and should act towards one another in a spirit of brotherhood.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa.",
    "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心。",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกัน",
    "x",
    "Free. " * 60,
    "They are equal, and " * 45,
]
"""Ragged: from one token to some 200, shorter and longer than the window of local layers."""


def hf_config(tokenizer: Tokenizer, **changes: Any) -> Any:
    """A ModernBERT of two global and two local layers whose window is shorter than the texts."""
    shape = {
        "vocab_size": tokenizer.vocab_size, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
        "num_attention_heads": 2, "local_attention": 32, "max_position_embeddings": 512, "initializer_range": 0.1,
        "pad_token_id": tokenizer.pad_id, "eos_token_id": tokenizer.eos_id, "bos_token_id": tokenizer.bos_id,
        "cls_token_id": tokenizer.bos_id, "sep_token_id": tokenizer.eos_id,
    }  # fmt: skip
    return transformers.ModernBertConfig(**{**shape, **changes})


def write_model(folder: Path, tokenizer: Tokenizer, kind: str = "ModernBertModel", **changes: Any) -> Path:
    """A folder as transformers writes it, with random weights."""
    torch.manual_seed(0)
    model = getattr(transformers, kind)(hf_config(tokenizer, **changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    tokenizer.save(folder, max_tokens=512)
    return folder


def write_sentence_model(folder: Path, bare: Path, modules: list[Any], **options: Any) -> Path:
    """A folder as sentence-transformers writes it; ``modules`` come behind the Transformer."""
    longest = options.pop("max_seq_length", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformer = Transformer(str(bare), max_seq_length=longest)
        model = sentence_transformers.SentenceTransformer(modules=[transformer, *modules], device="cpu", **options)
        model.save(str(folder), create_model_card=False)
    return folder


def reference(folder: Path) -> Any:
    """The folder as sentence-transformers reads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sentence_transformers.SentenceTransformer(str(folder), device="cpu")
