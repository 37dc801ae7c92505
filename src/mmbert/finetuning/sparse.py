"""``sparse``: weights of the vocabulary, few of which are not zero (SPLADE, Formal et al. 2107.05720, 2109.10086)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SparseEncoderTrainer, SparseEncoderTrainingArguments
from sentence_transformers.base.model import BaseModel
from sentence_transformers.sparse_encoder import losses

from mmbert.finetuning.evaluators import SPARSE, make_evaluators
from mmbert.finetuning.finetune import Trained
from mmbert.finetuning.ranking_examples import columns
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_sentence import Sparse
from mmbert.finetuning.sentence_training import TaskSpec, column_prompts, train_sentences


def train(recipe: FinetuneRecipe, folder: Path, callbacks: Sequence[Any] = ()) -> Trained:
    """Tune a sparse encoder; ``folder/final`` loads in SparseEncoder."""
    options = recipe.sparse
    prompts = (options.query_prompt, options.document_prompt)
    spec = TaskSpec(
        trainer=SparseEncoderTrainer,
        arguments=SparseEncoderTrainingArguments,
        options=options,
        loss=options.loss,
        columns=partial(columns, loss=options.loss, negatives=options.negatives),
        make_loss=partial(make_loss, options=options),
        evaluators=partial(make_evaluators, options=options, measures=SPARSE, prompts=any(prompts)),
        prompts=partial(column_prompts, prompts=prompts),
    )
    return train_sentences(recipe, folder, spec, callbacks)


def make_loss(model: BaseModel, options: Sparse) -> torch.nn.Module:
    """The recipe's loss, and the FLOPS regularisers of queries and documents."""
    inner: torch.nn.Module
    if options.loss == "contrastive":
        inner = losses.SparseMultipleNegativesRankingLoss(model)
    elif options.loss == "margin_mse":
        inner = losses.SparseMarginMSELoss(model)
    else:
        inner = losses.SparseDistillKLDivLoss(model, temperature=options.temperature)
    weights = {
        "query_regularizer_weight": options.query_regularizer,
        "document_regularizer_weight": options.document_regularizer,
    }
    loss: torch.nn.Module
    if options.mini_batch is None:
        loss = losses.SpladeLoss(model, inner, **weights)
    else:
        loss = losses.CachedSpladeLoss(model, inner, mini_batch_size=options.mini_batch, **weights)
    return loss
