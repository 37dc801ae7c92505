"""Masked-language-model loss per language, in bits per byte, on masks that are the same for every model.

A loss per token cannot be compared across languages: a vocabulary that knows English cuts Tamil into bytes, and a byte
is easy to guess. So nats are summed over the masked tokens and divided by the UTF-8 bytes that those tokens stand for
(after karpathy/nanochat: nanochat/loss_eval.py).

Held-out text of one language is short (a few thousand tokens), and there are up to 1,833 languages, so the batches
of several languages go through the model together, and only labelled rows through the head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from mmbert.errors import WeightsError
from mmbert.evaluation.results import LanguageLoss
from mmbert.log import progress
from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed
from mmbert.recipe import Precision

_LOGITS_AT_ONCE = 2**26
"""Logits held at a time (256 MiB in fp32), so that memory does not grow with the batch times the vocabulary."""


@dataclass(frozen=True)
class _Joined:
    """Batches of several languages as one; ``languages`` (N,) int64 says whose each label is."""

    packed: Packed
    languages: np.ndarray


def evaluate_mlm(
    model: MaskedLM,
    batches: Mapping[str, Packed],
    token_bytes: np.ndarray,
    *,
    batch: int = 16_384,
    precision: Precision = "fp32",
) -> dict[str, LanguageLoss]:
    """Loss of each language on its masked tokens.

    batches      language -> held-out text with targets and labels (NumPy), see ``mmbert.data.heldout``
    token_bytes  (V,) bytes of text that each token stands for
    batch        tokens per forward pass; a single longer sequence goes through alone

    Languages without a labelled token, or whose labelled tokens stand for no byte, are left out.
    The model is put into evaluation mode and back. Raises WeightsError for a loss that is not finite.
    """
    names = list(batches)
    nats = np.zeros(len(names))
    hits = np.zeros(len(names))
    tokens = np.zeros(len(names), dtype=np.int64)
    num_bytes = np.zeros(len(names), dtype=np.int64)
    device = next(model.parameters()).device
    total = sum(packed.tokens for packed in batches.values())
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), progress[None](total=total, desc="held-out loss", unit="tok") as bar:
            for joined in join(batches.values(), batch):
                loss, hit = losses(model, joined.packed.to(device), precision)
                size = len(names)
                nats += np.bincount(joined.languages, weights=loss, minlength=size)
                hits += np.bincount(joined.languages, weights=hit, minlength=size)
                tokens += np.bincount(joined.languages, minlength=size)
                label_bytes = token_bytes[joined.packed.labels].astype(np.float64)
                num_bytes += np.bincount(joined.languages, weights=label_bytes, minlength=size).astype(np.int64)
                bar.update(joined.packed.tokens)
    finally:
        model.train(training)
    wrong = np.flatnonzero(~np.isfinite(nats))
    if wrong.size:
        raise WeightsError(
            f"the model's loss in {names[wrong[0]]} is {nats[wrong[0]]}: its weights overflow on this text; take an "
            "earlier checkpoint, or fp32"
        )
    return {
        name: LanguageLoss.of(
            nats=float(nats[i]), tokens=int(tokens[i]), num_bytes=int(num_bytes[i]), hits=float(hits[i])
        )
        for i, name in enumerate(names)
        if num_bytes[i]
    }


def losses(model: MaskedLM, packed: Packed, precision: Precision) -> tuple[np.ndarray, np.ndarray]:
    """Loss in nats and whether the best guess was right, for each label: two (N,) float64 arrays.

    The last product and the softmax are fp32 in any precision: over 256k tokens bf16 logits would blur the figure.
    """
    with autocast(packed.ids.device, precision):
        rows_ND = model.features(packed)
    weight = model.decoder.weight.float()
    bias = None if model.decoder.bias is None else model.decoder.bias.float()
    chunk = max(1, _LOGITS_AT_ONCE // weight.shape[0])
    nats, hits = [], []
    for start in range(0, rows_ND.shape[0], chunk):
        logits = F.linear(rows_ND[start : start + chunk].float(), weight, bias)
        labels = packed.labels[start : start + chunk]
        nats.append(F.cross_entropy(logits, labels, reduction="none"))
        hits.append(logits.argmax(dim=1) == labels)
    return torch.cat(nats).double().cpu().numpy(), torch.cat(hits).double().cpu().numpy()


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context in which the model runs at a precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def join(batches: Iterable[Packed], batch: int) -> Iterator[_Joined]:
    """Lay the sequences of all batches end to end, in order, and cut them into batches of at most ``batch`` tokens."""
    waiting: list[tuple[int, Packed]] = []
    size = 0
    for number, whole in enumerate(batches):
        for packed in cut(whole, batch):
            if waiting and size + packed.tokens > batch:
                yield _joined(waiting)
                waiting, size = [], 0
            waiting.append((number, packed))
            size += packed.tokens
    if waiting:
        yield _joined(waiting)


def cut(packed: Packed, batch: int) -> Iterator[Packed]:
    """The same sequences in batches of at most ``batch`` tokens, or of one longer sequence."""
    offsets = packed.offsets
    first = 0
    while first < packed.sequences:
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + batch, side="right")) - 1)
        start, end = int(offsets[first]), int(offsets[last])
        low, high = np.searchsorted(packed.targets, [start, end])
        part = offsets[first : last + 1] - start
        yield Packed(
            ids=packed.ids[start:end],
            offsets=part,
            longest=int(np.diff(part).max()),
            targets=packed.targets[low:high] - start,
            labels=packed.labels[low:high],
        )
        first = last


def _joined(parts: list[tuple[int, Packed]]) -> _Joined:
    batches = [packed for _, packed in parts]
    starts = np.cumsum([0, *(packed.tokens for packed in batches)])
    packed = Packed(
        ids=np.concatenate([p.ids for p in batches]),
        offsets=np.concatenate(
            [*(p.offsets[:-1] + s for p, s in zip(batches, starts, strict=False)), starts[-1:]]
        ).astype(np.int32),
        longest=max(p.longest for p in batches),
        targets=np.concatenate([p.targets + s for p, s in zip(batches, starts, strict=False)]),
        labels=np.concatenate([p.labels for p in batches]),
    )
    return _Joined(packed, np.repeat([number for number, _ in parts], [len(p.labels) for p in batches]))
