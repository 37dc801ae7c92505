"""What differs between the sentence tasks: sentence-transformers' classes, their losses and their evaluators.

embed             one vector a text, by contrast, by a teacher's scores, or by pairs with a score
rerank            a score for a query and a document read together (a cross-encoder)
sparse            weights of the vocabulary, few of which are not zero (SPLADE, 2107.05720, 2109.10086)
late_interaction  a vector a token, compared one by one (ColBERT, Khattab and Zaharia 2004.12832)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import sentence_transformers as library
import torch
from sentence_transformers.cross_encoder import losses as pair
from sentence_transformers.multi_vector_encoder import losses as late
from sentence_transformers.sentence_transformer import losses as dense
from sentence_transformers.sparse_encoder import losses as sparse

from mmbert.finetuning.evaluators import DENSE, LATE, SPARSE, Measures
from mmbert.finetuning.packed_engine import Exits, PackedBody
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_sentence import Embed, LateInteraction, Rerank, Sparse
from mmbert.finetuning.recipe_teacher import Teacher
from mmbert.finetuning.sentence_model import body_of
from mmbert.finetuning.teacher_pairs import TaughtPairLoss


@dataclass(frozen=True)
class TaskSpec:
    """One sentence task.

    trainer    sentence-transformers' class; ``arguments``: class of its options
    make_loss  (model, options of the recipe) -> sentence-transformers' loss of the recipe's name; ``distil`` makes its
               own, which needs the teacher's vectors
    measures   evaluators of its models; None: documents are ranked by the model itself
    head       pattern of the names that ``head_learning_rate`` applies to
    """

    trainer: type[Any]
    arguments: type[Any]
    make_loss: Callable[[Any, Any], torch.nn.Module]
    measures: Measures | None = None
    head: str = ""


def _embed_loss(model: Any, options: Embed) -> Any:
    losses: dict[str, Callable[[], Any]] = {
        "contrastive": lambda: _contrastive(model, options),
        "margin_mse": lambda: dense.MarginMSELoss(model),
        "kl": lambda: dense.DistillKLDivLoss(model, temperature=options.temperature),
        "cosent": lambda: dense.CoSENTLoss(model, scale=options.scale),
        "angle": lambda: dense.AnglELoss(model, scale=options.scale),
    }
    loss = losses[options.loss]()
    widths = sorted({*options.matryoshka, model.get_embedding_dimension() or 0}, reverse=True)
    # Every chosen layer and width in every step, not one drawn at random (as in 2402.14776): a packed pass gives all
    # layers at once, so that another layer costs only its pooling and its loss.
    if options.layers and options.matryoshka:
        return dense.Matryoshka2dLoss(model, loss, widths, n_layers_per_step=-1, n_dims_per_step=-1)
    if options.layers:
        return dense.AdaptiveLayerLoss(model, loss, n_layers_per_step=-1)
    return dense.MatryoshkaLoss(model, loss, widths) if options.matryoshka else loss


def _contrastive(model: Any, options: Embed) -> Any:
    shared = {
        "scale": options.scale,
        "directions": ("query_to_doc", "doc_to_query") if options.symmetric else ("query_to_doc",),
        "partition_mode": "per_direction" if options.symmetric else "joint",
    }
    if options.mini_batch is None and options.mini_batch_tokens is None:
        return dense.MultipleNegativesRankingLoss(model, **shared)
    return dense.CachedMultipleNegativesRankingLoss(
        model, mini_batch_size=options.mini_batch or 32, mini_batch_num_tokens=options.mini_batch_tokens, **shared
    )


def _rerank_loss(model: Any, options: Rerank, teacher: Teacher | None = None) -> Any:
    losses: dict[str, Callable[[], torch.nn.Module]] = {
        "bce": lambda: (
            pair.BinaryCrossEntropyLoss(model, pos_weight=torch.tensor(options.pos_weight, device=model.device))
            if teacher is None
            else TaughtPairLoss(model, options, teacher)
        ),
        "mse": lambda: pair.MSELoss(model),
        "margin_mse": lambda: pair.MarginMSELoss(model),
    }
    loss = losses[options.loss]()
    return LayersLoss(loss, body_of(model)) if options.layers else loss


class LayersLoss(torch.nn.Module):
    """A loss behind all layers, plus the mean of the same loss behind each of ``body.layers``.

    AdaptiveLayerLoss for what sentence-transformers' own does not fit: its weights, without its KL term between the
    vectors of layers (the softmax of a reranker's single score is always 1, and each layer of a distilled student has
    the teacher itself to learn from). Encoder passes: one for each batch.
    """

    def __init__(self, loss: torch.nn.Module, body: PackedBody) -> None:
        super().__init__()
        self.loss, self._body = loss, body

    def forward(self, *inputs: Any, **options: Any) -> torch.Tensor:
        layers = self._body.layers
        exits = self._body.exits = Exits(layers)
        try:
            total: torch.Tensor = self.loss(*inputs, **options)
            for index in range(len(layers)):
                exits.use(index)
                total = total + self.loss(*inputs, **options) / len(layers)
        finally:
            self._body.exits = None  # what is measured between steps reads the model as it is
        return total


def _sparse_loss(model: Any, options: Sparse) -> Any:
    """Return the recipe's loss with the FLOPS regularisers of queries and documents."""
    losses: dict[str, Callable[[], Any]] = {
        "contrastive": lambda: sparse.SparseMultipleNegativesRankingLoss(model),
        "margin_mse": lambda: sparse.SparseMarginMSELoss(model),
        "kl": lambda: sparse.SparseDistillKLDivLoss(model, temperature=options.temperature),
    }
    weights: dict[str, Any] = {
        "query_regularizer_weight": options.query_regularizer,
        "document_regularizer_weight": options.document_regularizer,
    }
    if options.mini_batch is None:
        return sparse.SpladeLoss(model, losses[options.loss](), **weights)
    return sparse.CachedSpladeLoss(model, losses[options.loss](), mini_batch_size=options.mini_batch, **weights)


def _late_loss(model: Any, options: LateInteraction) -> Any:
    if options.loss == "kl":
        return late.MultiVectorDistillKLDivLoss(model, temperature=options.temperature)
    if options.loss == "margin_mse":
        return late.MultiVectorMarginMSELoss(model)
    if options.mini_batch is None:
        return late.MultiVectorMultipleNegativesRankingLoss(model)
    return late.CachedMultiVectorMultipleNegativesRankingLoss(model, mini_batch_size=options.mini_batch)


def _no_loss(model: Any, options: Any) -> torch.nn.Module:
    raise AssertionError("the loss of distil is made where the teacher's vectors are")


SPECS = {
    "embed": TaskSpec(
        library.SentenceTransformerTrainer, library.SentenceTransformerTrainingArguments, _embed_loss, DENSE
    ),
    "distil": TaskSpec(
        library.SentenceTransformerTrainer, library.SentenceTransformerTrainingArguments, _no_loss, DENSE
    ),
    "rerank": TaskSpec(
        library.CrossEncoderTrainer, library.CrossEncoderTrainingArguments, _rerank_loss, head=r"\.(head|classifier)\."
    ),
    "sparse": TaskSpec(library.SparseEncoderTrainer, library.SparseEncoderTrainingArguments, _sparse_loss, SPARSE),
    "late_interaction": TaskSpec(
        library.MultiVectorEncoderTrainer, library.MultiVectorEncoderTrainingArguments, _late_loss, LATE, r"\.linear\."
    ),
}


def make_loss(recipe: FinetuneRecipe, model: Any) -> torch.nn.Module:
    """Return the loss of a recipe for a model of sentence-transformers."""
    if recipe.task == "rerank":
        return cast(torch.nn.Module, _rerank_loss(model, recipe.rerank, recipe.teacher))
    return SPECS[recipe.task].make_loss(model, recipe.options)
