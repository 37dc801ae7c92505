"""Small folders of random weights, with and without sentence-transformers' files around them; and texts to index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmbert import train_tokenizer
from mmbert.files import write_json
from mmbert.model.config import ModelConfig
from mmbert.model.heads import MaskedLM
from mmbert.recipe import TokenizerTraining

TEXTS = [
    "All human beings are born free and equal in dignity and rights.",
    "They are endowed with reason and conscience and should act towards one another in a spirit of brotherhood.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa.",
    "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心。",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกัน",
    "Everyone has the right to life, liberty and security of person.",
    "No one shall be held in slavery or servitude.",
    "Chacun a droit à la vie, à la liberté et à la sûreté de sa personne.",
]

WIDTH = 16


def write_model(folder: Path, *, seed: int = 0, prompts: dict[str, str] | None = None) -> Path:
    """A masked language model of ours; with ``prompts`` an embedding model around it."""
    words = train_tokenizer([("eng_Latn", text) for text in TEXTS * 4], TokenizerTraining(vocab_size=600))
    torch.manual_seed(seed)
    config = ModelConfig(
        vocab_size=words.vocab_size, hidden_size=WIDTH, intermediate_size=16, num_layers=2, num_heads=2,
        max_context=128, initializer_range=0.3,
    )  # fmt: skip
    MaskedLM(config).save(folder)
    words.save(folder, max_tokens=128)
    if prompts is not None:
        kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
        write_json(
            folder / "modules.json",
            [
                {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
                for n, (path, kind) in enumerate(kinds)
            ],
        )
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": 128, "do_lower_case": False})
        write_json(
            folder / "1_Pooling" / "config.json", {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True}
        )
        write_json(folder / "config_sentence_transformers.json", {"prompts": prompts, "similarity_fn_name": "cosine"})
    return folder


def records(texts: list[str] = TEXTS, **metadata: list[Any]) -> list[dict[str, Any]]:
    """A record a text, ``r0`` and following; of each metadata the value at its place, unless that is None."""
    return [
        {
            "id": f"r{number}",
            "text": text,
            "metadata": {key: values[number] for key, values in metadata.items() if values[number] is not None},
        }
        for number, text in enumerate(texts)
    ]


def unit_rows(count: int, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """Random directions, (count, width) fp32."""
    rows = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
