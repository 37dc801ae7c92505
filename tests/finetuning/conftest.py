"""A model to start from, data sets in a folder, and recipes that name both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from little_sets import SETS, write

from mmbert.finetuning.recipe import FinetuneRecipe

OPTIONS: dict[str, dict[str, Any]] = {
    "pairs": {"task": "classify"},
    "regression": {"task": "classify", "classify": {"problem": "regression", "pooling": "cls"}},
    "multi_label": {"task": "classify", "classify": {"problem": "multi_label"}},
    "answer": {"answer": {"doc_stride": 8}},
}


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``<task>/train.jsonl`` and ``dev.jsonl`` of each little set."""
    root = tmp_path_factory.mktemp("sets")
    for name, make in SETS.items():
        for split in ("train", "dev"):
            write(root / name / f"{split}.jsonl", make())
    return root


@pytest.fixture
def recipe(heads: Path, sets: Path) -> Callable[..., FinetuneRecipe]:
    """``recipe("tag", "training.epochs=2", ...)``: one epoch on the little set of that name, in fp32 on the CPU."""

    def make(name: str, **changes: Any) -> FinetuneRecipe:
        own = OPTIONS.get(name, {})
        values = {
            "name": name,
            "task": name,
            "model": str(heads / "masks"),
            "data": {"path": str(sets / name)},
            **own,
            "training": {"epochs": 1, "batch": 8, "learning_rate": 1e-3, "max_tokens": 48, "precision": "fp32",
                         "device": "cpu", "log_every": 1},
        }  # fmt: skip
        return FinetuneRecipe.model_validate(values).changed(
            {key.replace("__", "."): value for key, value in changes.items()}
        )

    return make


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
