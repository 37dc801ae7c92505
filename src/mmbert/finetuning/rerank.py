"""``rerank``: a score for a query and a document read together (a cross-encoder)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.base.model import BaseModel
from sentence_transformers.cross_encoder import losses

from mmbert.finetuning.evaluators import rank_candidates
from mmbert.finetuning.finetune import Trained
from mmbert.finetuning.ranking_examples import columns, labelled_pairs
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_sentence import Rerank
from mmbert.finetuning.sentence_training import Columns, TaskSpec, train_sentences


def train(recipe: FinetuneRecipe, folder: Path, callbacks: Sequence[Any] = ()) -> Trained:
    """Tune a cross-encoder; ``folder/final`` loads in CrossEncoder, servers and our Reranker."""
    options = recipe.rerank
    make_columns = columns if options.loss == "margin_mse" else labelled_pairs
    spec = TaskSpec(
        trainer=CrossEncoderTrainer,
        arguments=CrossEncoderTrainingArguments,
        options=options,
        loss=options.loss,
        columns=partial(make_columns, loss=options.loss, negatives=options.negatives),
        make_loss=partial(make_loss, options=options),
        evaluators=partial(rank_candidates, candidates=options.candidates),
        prompts=_no_prompts,
    )
    return train_sentences(recipe, folder, spec, callbacks)


def make_loss(model: BaseModel, options: Rerank) -> torch.nn.Module:
    """sentence-transformers' loss of the recipe's name."""
    loss: torch.nn.Module
    if options.loss == "bce":
        weight = torch.tensor(options.pos_weight, device=model.device)
        loss = losses.BinaryCrossEntropyLoss(model, pos_weight=weight)
    elif options.loss == "mse":
        loss = losses.MSELoss(model)
    else:
        loss = losses.MarginMSELoss(model)
    return loss


def _no_prompts(_: Columns) -> dict[str, str]:
    return {}
