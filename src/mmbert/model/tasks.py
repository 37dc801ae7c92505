"""Heads for tasks on an encoder: classes of texts, classes of tokens, answers in a text, choices.

All are ``classifier(norm(gelu(dense(x))))``; they differ in the rows that they take and the meaning of their logits.
Names of weights are those of Hugging Face's ``ModernBertForSequenceClassification`` and its sisters.

Shapes: ``T`` tokens, ``S`` texts, ``h`` hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbert.errors import WeightsError
from mmbert.model.config import ModelConfig
from mmbert.model.encoder import Encoder
from mmbert.model.init import materialise
from mmbert.model.layers import Linear, PredictionHead
from mmbert.model.weights import save_model
from mmbert.packed import Packed


class TaskHead(nn.Module):
    """The head of a task: classifier(norm(gelu(dense(x)))); (N, h) -> (N, labels)."""

    def __init__(self, config: ModelConfig, labels: int) -> None:
        super().__init__()
        self.head = PredictionHead(config)
        self.classifier = Linear(config.hidden_size, labels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, h) -> (N, labels)."""
        out: Tensor = self.classifier(self.head(x))
        return out


class TaskModel(nn.Module):
    """An encoder and a head.

    labels   number of classes; :meth:`save` takes their names
    pooling  "mean" of a text's tokens or its first one ("cls"); None if the head takes each token
    dropout  before the classifier, in training
    head     an existing head; default: one with the initial weights of transformers
    """

    architecture: ClassVar[str]
    pools: ClassVar[bool] = False

    def __init__(
        self,
        encoder: Encoder,
        labels: int,
        *,
        pooling: str | None = None,
        dropout: float = 0.0,
        head: TaskHead | None = None,
    ) -> None:
        super().__init__()
        if self.pools and pooling not in ("cls", "mean"):
            raise WeightsError(f"classifier_pooling {pooling!r} is neither cls nor mean")
        self.config, self.labels, self.pooling, self.dropout = encoder.config, labels, pooling, dropout
        self.model = encoder
        given = head if head is not None else _fresh(encoder.config, labels)
        # Assigned apart, not as ``given``: the names of the weights must be Hugging Face's.
        self.head, self.classifier = given.head, given.classifier

    @classmethod
    def around(cls, encoder: Encoder, head: TaskHead, pooling: str | None = None) -> Self:
        """Return the model of a loaded encoder and head."""
        return cls(encoder, head.classifier.out_features, pooling=pooling if cls.pools else None, head=head)

    def forward(self, packed: Packed, states: Tensor | None = None) -> Tensor:
        """Return the logits of a batch: (S, labels), or (T, labels) without pooling.

        states  (T, h) of the encoder, if they were computed elsewhere
        """
        x = self.model(packed) if states is None else states
        # Pooled before the head, as in transformers: the head is not linear, so the order matters.
        x = self.head(pool_texts(x, packed, self.pooling) if self.pooling else x)
        out: Tensor = self.classifier(F.dropout(x, self.dropout, self.training) if self.dropout else x)
        return out

    def save(self, folder: str | Path, names: Sequence[str], *, problem_type: str | None = None) -> None:
        """Write ``config.json`` and ``model.safetensors`` of transformers' class.

        names         of the classes, in their order
        problem_type  of texts: regression, single_label_classification, multi_label_classification
        Raises ValueError if the number of names is not that of classes.
        """
        # transformers takes the number of classes from id2label: another number would not fit the weights.
        if len(names) != self.labels:
            raise ValueError(f"{len(names)} names for {self.labels} classes")
        more: dict[str, Any] = {
            "id2label": {str(index): name for index, name in enumerate(names)},
            "label2id": {name: index for index, name in enumerate(names)},
            "num_labels": self.labels,  # text-embeddings-inference assumes one without it
            "classifier_dropout": self.dropout,
        }
        if self.pooling:
            more["classifier_pooling"] = self.pooling
        if problem_type is not None:
            more["problem_type"] = problem_type
        save_model(self, self.config, self.architecture, Path(folder), more)


class SequenceClassifier(TaskModel):
    """Scores of classes for each text or pair of texts: (S, labels). One class: a number, or a reranker's score."""

    architecture = "ModernBertForSequenceClassification"
    pools = True


class TokenClassifier(TaskModel):
    """Scores of classes for each token: (T, labels)."""

    architecture = "ModernBertForTokenClassification"


class SpanClassifier(TaskModel):
    """Start and end logits of each token: (T, 2)."""

    architecture = "ModernBertForQuestionAnswering"


class ChoiceClassifier(TaskModel):
    """A score for each pair of question and choice: (S, 1)."""

    architecture = "ModernBertForMultipleChoice"
    pools = True


def pool_texts(x: Tensor, packed: Packed, pooling: str) -> Tensor:
    """Return the first token or the mean of each text, fp32: (T, h) -> (S, h)."""
    packed = packed.tensors(x.device)
    starts = packed.offsets.long()[:-1]
    if pooling == "cls":
        return x[starts].float()
    # In fp32: a mean of thousands of bf16 rows would lose what the later ones add.
    lengths = packed.offsets.long().diff()
    return torch.segment_reduce(x.float(), "mean", lengths=lengths, axis=0)


@torch.no_grad()
def _fresh(config: ModelConfig, labels: int) -> TaskHead:
    """Return a head with the initial weights of transformers, from torch's global generator."""
    with torch.device("meta"):
        head = TaskHead(config, labels)
    if not materialise(head):
        return head
    # ModernBERT's ``_init_weights``: the dense layer as an output matrix, the classifier by 1 / sqrt(h).
    deep, out = config.initializer_range / math.sqrt(2 * config.num_layers), config.hidden_size**-0.5
    for weight, std in ((head.head.dense.weight, deep), (head.classifier.weight, out)):
        cut = config.initializer_cutoff * std
        nn.init.trunc_normal_(weight, 0.0, std, -cut, cut)
    nn.init.ones_(head.head.norm.weight)
    nn.init.zeros_(head.classifier.bias)
    return head
