"""``rerank`` with a teacher: its scores of pairs of query and document, as the trainer's columns and as a loss.

A reranker ranks, so what a student has to learn is which document is better and by how much. The teacher's logit tells
both. Its sigmoid does not: of a teacher of MS MARCO most documents are within 0.001 of 0 or 1 there. So the loss is the
squared error of logits, and of ``margin_mse`` that of their differences (Hofstätter et al. 2010.02666).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbert.errors import DataError
from mmbert.finetuning.ranking_examples import Group, training_columns
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_sentence import Rerank
from mmbert.finetuning.recipe_teacher import Teacher
from mmbert.finetuning.teacher_config import read_teacher
from mmbert.finetuning.teacher_logits import TeacherLogits


def taught_columns(recipe: FinetuneRecipe, folder: Path, groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Return the training columns of a reranker, with the teacher's scores.

    bce               ``label`` is [gold label, teacher's logit], with NaN for no gold label
    mse, margin_mse   ``label`` is the teacher's logit, or those of all documents of a query
    """
    options = recipe.rerank
    count = None if options.negatives is None else options.negatives + 1
    groups = [replace(each, documents=each.documents[:count]) for each in groups]
    pairs = [(group.query, document) for group in groups for document in group.documents]
    places = [group.place for group in groups for _ in group.documents]
    logits = TeacherLogits(recipe, folder, read_teacher(recipe)).texts("train", pairs, places)[:, 0].tolist()
    if options.loss == "margin_mse":
        return _scored_groups(groups, iter(logits), options.negatives)
    if options.loss == "mse":
        languages = [group.language for group in groups for _ in group.documents]
        queries, documents = ([pair[side] for pair in pairs] for side in (0, 1))
        return {"query": queries, "document": documents, "label": logits, "language": languages}
    columns = training_columns("rerank", "bce", groups, None)
    bare = [not group.labelled for group in groups for _ in group.documents]
    labels = [math.nan if none else label for none, label in zip(bare, columns["label"], strict=True)]
    return {**columns, "label": [list(pair) for pair in zip(labels, logits, strict=True)]}


def _scored_groups(groups: Sequence[Group], logits: Iterator[float], negatives: int | None) -> dict[str, list[Any]]:
    single = next((group for group in groups if len(group.documents) < 2), None)
    if single is not None:
        raise DataError(f"{single.place}: margin_mse compares two documents, and there is one")
    scored = [replace(each, scores=tuple(next(logits) for _ in each.documents), margin=False) for each in groups]
    return training_columns("rerank", "margin_mse", scored, negatives)


class TaughtPairLoss(nn.Module):
    """The squared error to the teacher's logit, and the binary cross entropy with the gold label, each weighted.

    A pair without a gold label has the teacher's alone, with weight 1.
    """

    def __init__(self, model: Any, options: Rerank, teacher: Teacher) -> None:
        super().__init__()
        self.model, self._weight = model, teacher.weight
        self.register_buffer("_right", torch.tensor(options.pos_weight, device=model.device))

    def forward(
        self, inputs: list[list[str]], labels: Tensor | list[Tensor], prompt: str | None = None, task: str | None = None
    ) -> Tensor:
        """Return the mean over pairs. ``labels`` (N, 2): gold label or NaN, and the teacher's logit."""
        both = torch.stack(list(labels)) if isinstance(labels, list) else labels
        features = self.model.preprocess(list(zip(*inputs, strict=True)), prompt=prompt, task=task)
        features = {
            name: value.to(self.model.device) if isinstance(value, Tensor) else value
            for name, value in features.items()
        }
        logits = self.model(features)["scores"].view(-1).float()
        gold, target = both.to(logits.device).float().unbind(-1)
        labelled = gold.isfinite()
        wrong = F.binary_cross_entropy_with_logits(
            logits, gold.nan_to_num(), reduction="none", pos_weight=self.get_buffer("_right")
        )
        weight = torch.where(labelled, self._weight, 1.0)
        each: Tensor = weight * (logits - target) ** 2 + (1 - weight) * wrong
        return each.mean()
