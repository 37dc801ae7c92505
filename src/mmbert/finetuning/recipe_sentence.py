"""The options of sentence tasks: embedding, reranking, sparse and late interaction."""

from __future__ import annotations

from mmbert.recipe_file import Spec


class Embed(Spec):
    """``embed``: one vector a text, by contrast."""


class Rerank(Spec):
    """``rerank``: a score for a query and a document read together."""


class Sparse(Spec):
    """``sparse``: weights of the vocabulary (SPLADE)."""


class LateInteraction(Spec):
    """``late_interaction``: a vector a token (ColBERT)."""
