"""A language model of random weights, and examples of sentence tasks: which words belong together, in two languages."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mmbert import MaskedLM, ModelConfig, train_tokenizer
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.recipe import TokenizerTraining

WORDS = {
    "eng_Latn": [
        "water",
        "fire",
        "house",
        "tree",
        "river",
        "stone",
        "bread",
        "night",
        "mother",
        "bird",
        "road",
        "winter",
    ],
    "swh_Latn": [
        "maji",
        "moto",
        "nyumba",
        "mti",
        "mto",
        "jiwe",
        "mkate",
        "usiku",
        "mama",
        "ndege",
        "barabara",
        "baridi",
    ],
}
TEXTS = [" ".join(words) for words in WORDS.values()] + ["one", "bread and water by the river at night " * 8]


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ModernBertForMaskedLM whose local window is shorter than the longest text."""
    folder = tmp_path_factory.mktemp("sentences") / "pretrained"
    words = train_tokenizer([("eng_Latn", text) for text in TEXTS * 4], TokenizerTraining(vocab_size=512))
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=words.vocab_size, hidden_size=32, intermediate_size=32, num_layers=3, num_heads=2, window=16,
        max_context=128, initializer_range=0.2,
    )  # fmt: skip
    MaskedLM(config).save(folder)
    words.save(folder, max_tokens=128)
    return folder


def examples(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Queries in English, the same words in Swahili, and others; with scores as a teacher would give them."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        chosen = draw.sample(range(12), draw.randint(1, 4))
        query = " ".join(WORDS["eng_Latn"][index] for index in chosen)
        positive = " ".join(WORDS["swh_Latn"][index] for index in chosen)
        wrong = [" ".join(draw.sample(WORDS["swh_Latn"], 3)) for _ in range(2)]
        rows.append({"query": f"{query} {number}", "positive": positive, "negative": wrong, "language": "swh_Latn"})
    return rows


def adaptation(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same as documents with a teacher's scores."""
    return [
        {"query": row["query"], "documents": [row["positive"], *row["negative"]], "scores": [9.0, 2.0, 1.0]}
        for row in rows
    ]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_recipe(task: str, model: Path, train: Path, dev: Path | None = None, **more: Any) -> FinetuneRecipe:
    """A run of some seconds."""
    training = {"batch": 8, "epochs": 1, "max_tokens": 64, "learning_rate": 2e-3, **more.pop("training", {})}
    data = {"train": {"path": str(train), "language": "swh_Latn"}, **({"dev": {"path": str(dev)}} if dev else {})}
    values = {"name": "little", "task": task, "model": str(model), "data": data, "training": training, **more}
    return FinetuneRecipe.model_validate(values)
