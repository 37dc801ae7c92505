"""Features to packed batches, and per-token answers back to one row an example.

A feature is a map: ``ids``, uint32 of one text, or a list of them for one example's choices, ``labels``, and with a
teacher ``teacher``, its logits of a text (labels,), or of the words that have a label in ``labels`` (words, labels).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmbert.packed import Packed

Feature = dict[str, Any]

PADDED = -100
"""What fills rows of different lengths, as the trainer's own padding does."""


def collate(features: Sequence[Feature]) -> dict[str, Tensor]:
    """Return the batch that ``PackedModel`` takes: lengths first, ids end to end, labels as one tensor.

    Labels of tokens (a feature's ``labels`` is an array) are laid end to end as the ids are; others are stacked.
    """
    several = isinstance(features[0]["ids"], list)
    texts = [ids for feature in features for ids in (feature["ids"] if several else [feature["ids"]])]
    batch = {
        "lengths": _choice_lengths(features) if several else torch.tensor([len(ids) for ids in texts]),
        "input_ids": torch.from_numpy(np.concatenate(texts).astype(np.int64)),
    }
    if "labels" in features[0]:
        labels = [feature["labels"] for feature in features]
        flat = isinstance(labels[0], np.ndarray)
        batch["labels"] = torch.from_numpy(np.concatenate(labels)) if flat else torch.tensor(labels)
    if "teacher" in features[0]:
        batch["teacher"] = torch.from_numpy(np.concatenate([np.atleast_2d(f["teacher"]) for f in features]))
    return batch


def _choice_lengths(features: Sequence[Feature]) -> Tensor:
    """Return (E, C) lengths, 0 where an example has fewer choices than another."""
    most = max(len(feature["ids"]) for feature in features)
    return torch.tensor([[*map(len, f["ids"]), *[0] * (most - len(f["ids"]))] for f in features])


def texts_as_rows(logits: Tensor, packed: Packed, lengths: Tensor) -> Tensor:
    """Return (S, labels) unchanged."""
    return logits


def best_as_rows(logits: Tensor, packed: Packed, lengths: Tensor) -> Tensor:
    """Return the best class of every token: (T, labels) -> (S, longest), padded with -100."""
    return spans_as_rows(logits.argmax(-1), packed, lengths)


def spans_as_rows(logits: Tensor, packed: Packed, lengths: Tensor) -> Tensor:
    """Return start and end of every token: (T, 2) -> (S, longest, 2), padded with -100."""
    return torch.nn.utils.rnn.pad_sequence(
        list(torch.split(logits, packed.lengths)), batch_first=True, padding_value=PADDED
    )


def choices_as_rows(logits: Tensor, packed: Packed, lengths: Tensor, nothing: float) -> Tensor:
    """Return (texts, 1) as (E, C), filled with ``nothing`` where an example has no such choice."""
    there = lengths > 0
    return torch.full(there.shape, nothing, device=logits.device).masked_scatter(there, logits[:, 0])
