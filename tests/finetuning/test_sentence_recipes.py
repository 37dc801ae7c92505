"""The shipped recipes of sentence tasks hold the published figures (Ettin's train_st.py, mmBERT's blog post)."""

from __future__ import annotations

from typing import Any

import pytest

from mmbert import recipe_names
from mmbert.errors import ConfigError
from mmbert.finetuning.recipe import FinetuneRecipe

RECIPES = recipe_names.RECIPES / "finetune"

PUBLISHED: dict[str, dict[str, Any]] = {
    "embed": {
        "data.train.hub": "sentence-transformers/msmarco-co-condenser-margin-mse-sym-mnrl-mean-v1",
        "data.train.config": "triplet-hard", "data.train.shuffle_seed": 12,
        "training.learning_rate": 1e-4, "training.batch": 1024,
        "training.epochs": 1, "training.warmup": 0.05, "embed.loss": "contrastive", "embed.scale": 20,
        "embed.mini_batch": 256, "embed.no_duplicates": True, "embed.pooling": "mean",
    },
    "rerank": {
        "data.train.hub": "sentence-transformers/gooaq", "training.learning_rate": 2e-5, "training.batch": 64,
        "training.epochs": 1, "training.warmup": 0.1, "training.seed": 12, "rerank.loss": "bce", "rerank.pos_weight": 5,
        "rerank.mine.model": "sentence-transformers/static-retrieval-mrl-en-v1", "rerank.mine.negatives": 5,
        "rerank.mine.range_max": 100,
    },
    "splade": {
        "data.train.hub": "sentence-transformers/natural-questions", "data.train.limit": 100_000,
        "training.learning_rate": 2e-5, "training.batch": 16, "training.warmup": 0.1,
        "sparse.query_regularizer": 5e-5, "sparse.document_regularizer": 3e-5,
    },
    "colbert": {
        "data.train.hub": "lightonai/ms-marco-en-bge", "training.learning_rate": 8e-5, "training.batch": 16,
        "training.epochs": 1, "training.warmup": 0.05, "training.precision": "bf16", "late_interaction.loss": "kl",
    },
    "embed-distil": {"embed.loss": "margin_mse"},
    "embed-bitext": {"embed.evaluator": "translation"},
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_figures(name: str) -> None:
    recipe = FinetuneRecipe.load(RECIPES / f"{name}.yaml")
    for key, expected in PUBLISHED[name].items():
        value: Any = recipe
        for part in key.split("."):
            value = getattr(value, part)
        assert value == expected, key


def test_dev_is_as_large_as_published() -> None:
    data = FinetuneRecipe.load(RECIPES / "embed.yaml").data
    assert data.train.limit is not None
    dev = round(data.train.limit * data.dev_share)
    assert (dev, data.train.limit - dev) == (1000, 1_250_000)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("embed", "embed.mini_batsh=4", "mini_batch"),
        ("embed-distil", "embed.normalize=true", "leave normalize false"),
        ("embed-distil", "embed.symmetric=true", "option of contrastive"),
        ("embed-distil", "embed.mine.model=x", "mined negatives have no scores"),
        ("colbert", "late_interaction={expand_queries: true, query_tokens: null}", "expand_queries needs query_tokens"),
    ],
)
def test_options_that_do_not_go_together(name: str, change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FinetuneRecipe.load(RECIPES / f"{name}.yaml", [change])
