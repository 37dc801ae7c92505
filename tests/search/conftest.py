"""Models that are made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from little_models import write_model

from mmbert.inference.embedder import Embedder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "tuned"
    return write_model(place, prompts={"query": "Q: ", "document": "D: "})


@pytest.fixture(scope="session")
def embed(folder: Path) -> Embedder:
    return Embedder.load(folder, device="cpu", precision="fp32")


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other weights of the same shape."""
    return write_model(tmp_path_factory.mktemp("models") / "other", seed=1, prompts={})
