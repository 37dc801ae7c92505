"""``embed``: one vector a text, by contrast, by a teacher's scores, or by pairs with a score."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.model import BaseModel
from sentence_transformers.sentence_transformer import losses

from mmbert.finetuning.evaluators import DENSE, make_evaluators
from mmbert.finetuning.finetune import Trained
from mmbert.finetuning.ranking_examples import columns
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_sentence import Embed
from mmbert.finetuning.sentence_training import TaskSpec, column_prompts, train_sentences


def train(recipe: FinetuneRecipe, folder: Path, callbacks: Sequence[Any] = ()) -> Trained:
    """Tune a model of vectors; ``folder/final`` loads in sentence-transformers, servers and our Embedder."""
    options = recipe.embed
    prompts = (options.query_prompt, options.document_prompt)
    spec = TaskSpec(
        trainer=SentenceTransformerTrainer,
        arguments=SentenceTransformerTrainingArguments,
        options=options,
        loss=options.loss,
        columns=partial(columns, loss=options.loss, negatives=options.negatives),
        make_loss=partial(make_loss, options=options),
        evaluators=partial(make_evaluators, options=options, measures=DENSE, prompts=any(prompts)),
        prompts=partial(column_prompts, prompts=prompts),
    )
    return train_sentences(recipe, folder, spec, callbacks)


def make_loss(model: BaseModel, options: Embed) -> torch.nn.Module:
    """sentence-transformers' loss of the recipe's name, Matryoshka around it where there are widths."""
    loss: torch.nn.Module = _LOSSES[options.loss](model, options)
    if not options.matryoshka:
        return loss
    widths: Sequence[int] = sorted({*options.matryoshka, model.get_embedding_dimension() or 0}, reverse=True)
    wrapped: torch.nn.Module = losses.MatryoshkaLoss(model, loss, widths)
    return wrapped


def _contrastive(model: Any, options: Embed) -> torch.nn.Module:
    directions = ("query_to_doc", "doc_to_query") if options.symmetric else ("query_to_doc",)
    shared = {
        "scale": options.scale, "directions": directions,
        "partition_mode": "per_direction" if options.symmetric else "joint",
    }  # fmt: skip
    loss: torch.nn.Module
    if options.mini_batch is None and options.mini_batch_tokens is None:
        loss = losses.MultipleNegativesRankingLoss(model, **shared)
    else:
        loss = losses.CachedMultipleNegativesRankingLoss(
            model, mini_batch_size=options.mini_batch or 32, mini_batch_num_tokens=options.mini_batch_tokens, **shared
        )
    return loss


_LOSSES: dict[str, Any] = {
    "contrastive": _contrastive,
    "margin_mse": lambda model, options: losses.MarginMSELoss(model),
    "kl": lambda model, options: losses.DistillKLDivLoss(model, temperature=options.temperature),
    "cosent": lambda model, options: losses.CoSENTLoss(model, scale=options.scale),
    "angle": lambda model, options: losses.AnglELoss(model, scale=options.scale),
}
