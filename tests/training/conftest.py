"""One prepared corpus and one finished run, shared by the tests of training (they copy what they change)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from small_run import prepare, write_recipe

from mmbert.recipe import Recipe
from mmbert.training.pretrain import pretrain


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    recipe: Recipe
    folder: Path
    """The run's."""
    data: Path
    home: Path
    """Where the recipe's file lies."""


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``text``, ``data`` and ``recipe.yaml``."""
    folder = tmp_path_factory.mktemp("small")
    prepare(folder)
    return folder


@pytest.fixture(scope="session")
def trained(corpus: Path) -> Trained:
    """Both phases, trained without interruption."""
    recipe, _ = write_recipe(corpus)
    pretrain(recipe, corpus / "run", corpus / "data")
    return Trained(recipe, corpus / "run", corpus / "data", corpus)
