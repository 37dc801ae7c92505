"""Losses of a student's vectors against a teacher's, and the targets that the teacher's vectors become."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn

from mmbert.errors import ConfigError
from mmbert.finetuning.recipe_distil import Distil

DOCUMENTS_EVERY = 4
"""One batch in so many is read as documents, with the option of that name."""

TOKEN_WEIGHT = 1.0
"""``distil.tokens`` where the recipe does not say."""

_ROWS = 65_536
"""Vectors read from disk at a time."""


@dataclass(frozen=True)
class Targets:
    """The vectors that a student learns: the teacher's, centred, turned, of unit length, as far as was asked.

    rows  (n, D) float16, the teacher's
    mean  (D,) float32, subtracted; zeros if vectors are not centred
    axes  (D, d) float32, orthonormal columns; None: as they are
    """

    rows: np.ndarray
    mean: Tensor
    axes: Tensor | None
    unit: bool

    @property
    def width(self) -> int:
        """Return d."""
        return len(self.mean) if self.axes is None else self.axes.shape[1]

    def __call__(self, rows: Tensor | slice) -> Tensor:
        """Return the targets of some rows (m, d), float32."""
        index = rows if isinstance(rows, slice) else rows.cpu().numpy()
        found = torch.from_numpy(np.asarray(self.rows[index], dtype=np.float32)) - self.mean
        if self.axes is not None:
            found = found @ self.axes
        return F.normalize(found, dim=-1) if self.unit else found


@dataclass(frozen=True)
class TokenTargets:
    """The vectors that a student's tokens learn: parts of the teacher's vector of the text, centred and turned as that.

    rows     (tokens, D) float16, of all texts end to end, NaN where the teacher reads other tokens
    ends     (n + 1,) where each text begins and ends
    targets  of whole texts
    """

    rows: np.ndarray
    ends: np.ndarray
    targets: Targets

    def __call__(self, index: int) -> Tensor:
        """Return the targets of the tokens of a text (t, d), float32."""
        found = torch.from_numpy(self.rows[self.ends[index] : self.ends[index + 1]].astype(np.float32))
        found = found - self.targets.mean
        return found if self.targets.axes is None else found @ self.targets.axes


def make_targets(rows: np.ndarray, training: int, options: Distil, hidden: int) -> Targets:
    """Return the targets of a run. Mean and axes are those of the first ``training`` rows.

    hidden  the student's hidden size
    The axes are the principal ones: of all subspaces of d dimensions theirs keeps most of the vectors' squared length,
    and with d = D no dot product changes. Raises ConfigError for more dimensions than the teacher has.
    """
    teacher = rows.shape[1]
    width = options.dimensions or min(teacher, hidden)
    if width > teacher:
        raise ConfigError(f"distil.dimensions {width}: the teacher's vectors have {teacher}")
    wide = [each for each in options.matryoshka if each > width]
    if wide:
        raise ConfigError(f"distil.matryoshka {wide[0]}: the student's vectors have {width} dimensions")
    mean, moment = torch.zeros(teacher, dtype=torch.float64), torch.zeros(teacher, teacher, dtype=torch.float64)
    turned = width < teacher or bool(options.matryoshka)
    for start in range(0, training, _ROWS):
        some = torch.from_numpy(np.asarray(rows[start : min(start + _ROWS, training)], dtype=np.float64))
        mean += some.sum(0) / training
        if turned:
            moment += some.T @ some / training
    if not options.center:
        mean.zero_()
    axes = None
    if turned:
        axes = torch.linalg.eigh(moment - torch.outer(mean, mean))[1].flip(1)[:, :width].float()
    return Targets(rows, mean.float(), axes, options.loss == "cosine")


class DistilLoss(nn.Module):
    """The loss of a batch; labels are row numbers of ``targets``.

    With several texts a row, such as a text and its translation, all of them learn the vector of the first
    (2004.09813).
    tokens  the targets of tokens, for ``distil.tokens``
    """

    def __init__(self, model: Any, targets: Targets, options: Distil, tokens: TokenTargets | None = None) -> None:
        super().__init__()
        self.model, self._targets, self._options, self._tokens = model, targets, options, tokens
        # Kept here, for the trainer puts a wrapper of several processes around the model, which has no modules to list.
        self._after = [module for module in list(model)[1:] if not isinstance(module, Pooling)]
        self._token_weight = TOKEN_WEIGHT if options.tokens is None else options.tokens
        self._widths = sorted({*options.matryoshka, targets.width}, reverse=True)

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """Return the mean loss over texts and widths."""
        losses = []
        # A choice by the batch's first row, not by a count of steps: a run that goes on makes the same one.
        joined = self._options.documents > 1 and int(labels[0]) % DOCUMENTS_EVERY == 0
        for features in sentence_features:
            found = {"sentence_embedding": self._late(features)} if joined else self.model(features)
            vectors = found["sentence_embedding"].float()
            targets = self._targets(labels).to(vectors.device)
            losses += [self._compare(vectors[:, :width], targets[:, :width]) for width in self._widths]
            if self._tokens is not None and not joined:
                losses[-1] = losses[-1] + self._token_weight * self._compare_tokens(found, labels)
        return torch.stack(losses).mean()

    def _compare_tokens(self, found: dict[str, Tensor], labels: Tensor) -> Tensor:
        """Return 1 - cosine of tokens to their targets, the mean over tokens; 0 where no text has targets.

        Lengths of vectors do not count: a student may weight the tokens of a text in its own way.
        """
        assert self._tokens is not None, "the caller looked"
        vectors, mask = found["token_embeddings"], found["attention_mask"].cpu().bool()
        kept, targets = torch.zeros_like(mask), []
        for row, index in enumerate(labels.tolist()):
            wanted = self._tokens(index)
            if len(wanted) == int(mask[row].sum()):  # else the text is cut at another length than the teacher's
                there = wanted[:, 0].isfinite()
                kept[row, mask[row]] = there
                targets.append(wanted[there])
        if not kept.any():
            return vectors.sum() * 0
        # All at once: the gradient of each row alone would be a table of all rows.
        own, goal = vectors[kept.to(vectors.device)], torch.cat(targets).to(vectors.device)
        for module in self._after:
            own = module.linear(own) if isinstance(module, Dense) else own
        return 1 - F.cosine_similarity(own.float(), goal).mean()

    def _late(self, features: dict[str, Tensor]) -> Tensor:
        """Return the vectors of texts (S, d) that are read together, ``documents`` of them at a time."""
        ids, spans = join_texts(features["input_ids"], features["attention_mask"], self._options.documents)
        mask = ids >= 0
        inputs = {"input_ids": ids.clamp(min=0), "attention_mask": mask.long()}
        tokens = self.model(inputs)["token_embeddings"]
        rows = [tokens[row, start:end].mean(0) for row, start, end in spans]
        found = {"sentence_embedding": torch.stack(rows)}
        for module in self._after:
            found = module(found)
        return found["sentence_embedding"]

    def _compare(self, vectors: Tensor, targets: Tensor) -> Tensor:
        if self._options.loss == "cosine":
            found = 1 - F.cosine_similarity(vectors, targets).mean()
        else:
            # The sum over dimensions, not their mean: the loss then has the size of a squared distance.
            found = (vectors - targets).square().sum(1).mean()
        if self._options.relational and len(vectors) > 2:
            found = found + self._options.relational * relational(
                vectors, targets, self._options.relational_temperature
            )
        return found


def join_texts(ids: Tensor, mask: Tensor, count: int) -> tuple[Tensor, list[tuple[int, int, int]]]:
    """Return documents of ``count`` texts each, and where each text is in them.

    ids, mask  (S, L), every text between a first and a last special token, which a document has once: they belong to
               its first and its last text, as in ``Embedder.passages``
    Returns ids (ceil(S / count), longest document), -1 behind the end of one, and for each text (row, start, end).
    """
    lengths = mask.sum(1).tolist()
    documents: list[Tensor] = []
    spans: list[tuple[int, int, int]] = []
    for first in range(0, len(ids), count):
        last = min(first + count, len(ids)) - 1
        parts: list[Tensor] = []
        at = 0
        for index in range(first, last + 1):
            part = ids[index, index != first : lengths[index] - (index != last)]
            # A text of nothing but its two special tokens is one of them, so that every text has a token.
            part = part if len(part) else ids[index, :1]
            parts.append(part)
            spans.append((len(documents), at, at + len(part)))
            at += len(part)
        documents.append(torch.cat(parts))
    return nn.utils.rnn.pad_sequence(documents, batch_first=True, padding_value=-1), spans


def relational(vectors: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher || student) of each text's similarities to the other texts of the batch, as softmax.

    vectors, targets  (m, d) and (m, D), m > 1
    """
    own, wanted = F.normalize(vectors, dim=1), F.normalize(targets, dim=1)
    others = ~torch.eye(len(own), dtype=torch.bool, device=own.device)  # a text's similarity to itself says nothing
    logits = (own @ own.T / temperature)[others].view(len(own), -1).log_softmax(1)
    goal = (wanted @ wanted.T / temperature)[others].view(len(own), -1).log_softmax(1)
    return F.kl_div(logits, goal, reduction="batchmean", log_target=True)
