"""The options of sentence tasks: embedding, reranking, sparse and late interaction.

Defaults are the published ones: Ettin's ``train_st.py``, which mmBERT's MTEB figures stand on, and the scripts of
mmBERT's blog post. Fields of their examples (``mmbert.finetuning.ranking_examples``):

    query, positive, negative          negative: none, one, or a list; the more, the better the contrast
    query, documents, scores           a teacher's scores of several documents, the best first
    query, positive, negative, score   score: by how much a teacher puts the positive above the negative
    text, text_pair, score             how alike two texts are
    query, document, label             for reranking: 1 where the document answers, 0 where not, or between
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mmbert.errors import ConfigError
from mmbert.finetuning.recipe_data import DataSpec
from mmbert.recipe_file import Spec

Layers = tuple[Annotated[int, Field(ge=1)], ...]
"""Numbers of layers, such as (3, 6, 11)."""


def early_layers(task: str, layers: Sequence[int], count: int) -> tuple[int, ...]:
    """Return the numbers of layers that train beside all ``count``, in order. Raises ConfigError for others."""
    early = tuple(sorted({*layers} - {count}))  # all layers are always trained
    if layers and not (early and early[-1] < count):
        raise ConfigError(
            f"{task}.layers {list(layers)}: name numbers from 1 to {count - 1}, the model has {count} layers"
        )
    return early


class Mine(Spec):
    """Hard negatives, found before training by another model among all positives, written to ``negatives.jsonl``."""

    model: str
    """Folder or hub name: of ours, or any that sentence-transformers loads."""
    negatives: int = Field(5, ge=1)
    """Negatives of each query; a query with fewer is left out (the blog's reranker: 5)."""
    range_min: int = Field(0, ge=0)
    """Skip so many of the nearest, which may be right answers."""
    range_max: int | None = Field(100, ge=1)
    """Look no further than the so many nearest (the blog's reranker: 100)."""
    max_score: float | None = None
    """Leave out what is more similar than this: it may be a right answer."""
    margin: float | None = None
    """Leave out what is not at least so much less similar than the positive."""
    relative_margin: float | None = None
    """The same as a part of the positive's similarity: 0.05 wants at most 95% of it (NV-Retriever, 2407.15831)."""
    pick: Literal["top", "random"] = "top"
    """Which of the remaining candidates are taken: the nearest, or random ones."""
    reranker: str | None = None
    """A cross-encoder that scores the candidates again; folder or hub name."""
    batch: int = Field(128, ge=1)
    """Texts the model takes at once, where it counts texts."""


class Lookup(Spec):
    """Where examples hold ids instead of texts: tables of ``id`` and ``text``."""

    queries: DataSpec | None = None
    documents: DataSpec | None = None


class Sentences(Spec):
    """What the sentence tasks share."""

    negatives: int | None = Field(None, ge=0)
    """Negatives of each example that are used; null: as many as all have."""
    no_duplicates: bool = True
    """No text occurs twice in a batch, where it would be its own negative (NO_DUPLICATES in Ettin's script)."""
    mine: Mine | None = None
    """Find hard negatives first; null: as the data has them."""
    lookup: Lookup = Lookup()
    """Tables of texts, where examples hold ids."""

    @property
    def prompts(self) -> dict[str, str]:
        """Prompts by name, the query's first; none for rerankers, which read both texts together."""
        return {}


class Vectors(Sentences):
    """What the sentence tasks share whose models encode queries and documents separately."""

    evaluator: Literal["auto", "retrieval", "translation", "triplet", "similarity"] = "auto"
    """What is measured on dev and test. retrieval: nDCG@10 among all documents there. translation: accuracy of finding
    the own positive among all, per language and both ways. triplet: is the positive nearer than the negative.
    similarity: rank correlation with ``score``. auto: similarity with scored pairs, triplet with negatives (as Ettin's
    script), else retrieval."""
    mini_batch: int | None = Field(None, ge=1)
    """contrastive: texts per forward pass. Gradients are cached, so that memory is that of one mini-batch while the
    whole batch serves as negatives (GradCache, 2101.06983; Ettin's script 256, the blog 16). null: all at once, a
    quarter less work."""
    temperature: float = Field(1.0, gt=0)
    """kl: temperature of both distributions."""
    query_prompt: str = ""
    """Text before every query, in training and in the saved model (``prompt="query"``)."""
    document_prompt: str = ""
    """Text before every document."""

    @property
    def prompts(self) -> dict[str, str]:
        return {"query": self.query_prompt, "document": self.document_prompt}


class Embed(Vectors):
    """``embed``: one vector a text, by contrast."""

    loss: Literal["contrastive", "margin_mse", "kl", "cosent", "angle"] = "contrastive"
    """contrastive: the positive among all documents of the batch (1705.00652). margin_mse and kl: like a teacher's
    scores (2010.02666, 2010.11386). cosent and angle: pairs with a score (2309.12871)."""
    mini_batch: int | None = Field(256, ge=1)
    mini_batch_tokens: int | None = Field(None, ge=1)
    """The same counted in tokens, which is what packed texts cost; wins over ``mini_batch``."""
    scale: float = Field(20.0, gt=0)
    """contrastive, cosent, angle: cosines are multiplied by it, 1 / temperature."""
    symmetric: bool = False
    """contrastive: also the query among all queries, which suits translations."""
    matryoshka: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Widths at which truncated vectors are trained too (Matryoshka, 2205.13147); empty: whole vectors only."""
    layers: Layers = ()
    """Numbers of layers that are trained too, so that ``num_layers`` of them may be loaded (2D Matryoshka, 2402.14776):
    [3, 6, 11] of 22. Every step trains all of them, at all widths of ``matryoshka``, with sentence-transformers'
    AdaptiveLayerLoss or Matryoshka2dLoss. contrastive needs ``mini_batch: null``."""
    pooling: Literal["mean", "cls"] | None = None
    """From tokens to a vector: the mean of all or the first token. null: the model's, or mean."""
    mix_layers: bool = False
    """Pool a weighted mean of the embeddings and all layers but the last, with learned weights, instead of the last
    layer. (transformers 4 and 5 disagree on what the last layer is in such a list, so its weight stays 0.)"""
    mix_learning_rate: float = Field(1e-2, gt=0)
    """Learning rate of these weights, which begin at 1."""
    normalize: bool = False
    """Give vectors unit length in the model. Not for losses on dot products (margin_mse, kl), whose range it cuts."""

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        if self.normalize and self.loss in ("margin_mse", "kl"):
            raise ValueError(f"embed: {self.loss} compares dot products with a teacher's: leave normalize false")
        if self.symmetric and self.loss != "contrastive":
            raise ValueError(f"embed: symmetric is an option of contrastive, not of {self.loss}")
        if self.mine is not None and self.loss != "contrastive":
            raise ValueError(f"embed: mined negatives have no scores, which {self.loss} needs: use contrastive")
        if self.layers and self.mix_layers:
            raise ValueError(
                "embed: mix_layers pools all layers, so that none can be left out: give layers or mix_layers"
            )
        if self.layers and self.loss == "contrastive" and (self.mini_batch or self.mini_batch_tokens):
            raise ValueError(
                "embed: layers needs mini_batch null and no mini_batch_tokens: cached gradients are those of one layer"
            )
        return self


class Rerank(Sentences):
    """``rerank``: a score for a query and a document read together."""

    loss: Literal["bce", "mse", "margin_mse"] = "bce"
    """bce: does the document answer. mse, margin_mse: like a teacher's scores, or their differences."""
    pos_weight: float = Field(5.0, gt=0)
    """bce: a right document counts so many times a wrong one (the blog: 5, its negatives of each query)."""
    layers: Layers = ()
    """Numbers of layers behind which the head is trained too, so that ``num_layers`` of them may be loaded."""
    pooling: Literal["mean", "cls"] = "mean"
    """Pooling of a new head (the released config says mean)."""
    candidates: int = Field(100, ge=2)
    """Maximum of documents per query that are ranked on dev and test."""


class Sparse(Vectors):
    """``sparse``: weights of the vocabulary (SPLADE)."""

    loss: Literal["contrastive", "margin_mse", "kl"] = "contrastive"
    """As for ``embed``, on dot products."""
    query_regularizer: float = Field(5e-5, ge=0)
    """Weight of the FLOPS regulariser (2004.05665) of queries (the blog: 5e-5)."""
    document_regularizer: float = Field(3e-5, ge=0)
    """The same of documents (the blog: 3e-5)."""


class LateInteraction(Vectors):
    """``late_interaction``: a vector a token (ColBERT)."""

    loss: Literal["kl", "contrastive", "margin_mse"] = "kl"
    """kl: like a teacher's scores of several documents (the blog; 2112.01488). contrastive, margin_mse: as for
    ``embed``, on sums of largest similarities."""
    dimensions: int = Field(128, ge=1)
    """Width of a token's vector (PyLate: 128)."""
    query_tokens: int | None = Field(32, ge=3)
    """Longest query; null: ``training.max_tokens``."""
    expand_queries: bool = False
    """Fill short queries up to ``query_tokens`` with <mask>, which are attended to and scored (ColBERT, 2004.12832)."""
    skip: tuple[str, ...] = ()
    """Tokens of documents that are not scored, such as punctuation."""
    query_prompt: str = "[Q] "
    """As in PyLate."""
    document_prompt: str = "[D] "

    @model_validator(mode="after")
    def _expansion(self) -> Self:
        if self.expand_queries and self.query_tokens is None:
            raise ValueError("late_interaction: expand_queries needs query_tokens, the length to fill up to")
        return self
