"""The options of a recipe about the vocabulary of the model that a run begins with."""

from __future__ import annotations

from pydantic import Field

from mmbert.recipe_file import Spec


class Trim(Spec):
    """Keep only the tokens that the training texts need, before training (:mod:`mmbert.surgery.trim`).

    In a small model most weights are token embeddings: of 256,000 tokens in 384 dimensions they are 98 million.
    """

    max_tokens: int | None = Field(None, ge=1)
    """Size of the new vocabulary at most: the most frequent tokens that fit. null: all that occur in the texts."""
    min_count: int = Field(1, ge=1)
    """How often a token must occur in them."""
    text: tuple[str, ...] = ()
    """Files, folders or globs with more text whose tokens are kept: of languages or topics that the training texts
    lack."""
