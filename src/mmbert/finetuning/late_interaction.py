"""``late_interaction``: a vector a token, compared one by one (ColBERT, Khattab and Zaharia 2004.12832)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments
from sentence_transformers.base.model import BaseModel
from sentence_transformers.multi_vector_encoder import losses

from mmbert.finetuning.evaluators import LATE, make_evaluators
from mmbert.finetuning.finetune import Trained
from mmbert.finetuning.ranking_examples import columns
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_sentence import LateInteraction
from mmbert.finetuning.sentence_training import TaskSpec, column_prompts, train_sentences


def train(recipe: FinetuneRecipe, folder: Path, callbacks: Sequence[Any] = ()) -> Trained:
    """Tune a multi-vector encoder; ``folder/final`` loads in MultiVectorEncoder."""
    options = recipe.late_interaction
    prompts = (options.query_prompt, options.document_prompt)
    spec = TaskSpec(
        trainer=MultiVectorEncoderTrainer,
        arguments=MultiVectorEncoderTrainingArguments,
        options=options,
        loss=options.loss,
        columns=partial(columns, loss=options.loss, negatives=options.negatives),
        make_loss=partial(make_loss, options=options),
        evaluators=partial(make_evaluators, options=options, measures=LATE, prompts=any(prompts)),
        prompts=partial(column_prompts, prompts=prompts),
    )
    return train_sentences(recipe, folder, spec, callbacks)


def make_loss(model: BaseModel, options: LateInteraction) -> torch.nn.Module:
    """sentence-transformers' loss of the recipe's name, on sums of largest similarities."""
    loss: torch.nn.Module
    if options.loss == "kl":
        loss = losses.MultiVectorDistillKLDivLoss(model, temperature=options.temperature)
    elif options.loss == "margin_mse":
        loss = losses.MultiVectorMarginMSELoss(model)
    elif options.mini_batch is None:
        loss = losses.MultiVectorMultipleNegativesRankingLoss(model)
    else:
        loss = losses.CachedMultiVectorMultipleNegativesRankingLoss(model, mini_batch_size=options.mini_batch)
    return loss
