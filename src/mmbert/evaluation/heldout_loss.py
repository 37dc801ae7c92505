"""Masked-language-model loss per language, in bits per byte, on masks that are the same for every model.

A loss per token cannot be compared across languages: a vocabulary that knows English cuts Tamil into bytes, and a byte
is easy to guess. So nats are summed over the masked tokens and divided by the UTF-8 bytes that those tokens stand for
(after karpathy/nanochat: nanochat/loss_eval.py).

Held-out text of one language is short (a few thousand tokens), and there are up to 1,833 languages, so the batches
of several languages go through the model together, and only labelled rows through the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from mmbert.device import autocast
from mmbert.errors import WeightsError
from mmbert.evaluation.results import LanguageLoss
from mmbert.inference.load import Loaded
from mmbert.log import progress
from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed
from mmbert.recipe import Precision

_LOGITS_AT_ONCE = 2**26
"""Logits held at a time (256 MiB in fp32), so that memory does not grow with the batch times the vocabulary."""


def evaluate_mlm(
    model: MaskedLM,
    batches: Mapping[str, Packed],
    token_bytes: np.ndarray,
    *,
    batch: int = 16_384,
    precision: Precision = "fp32",
) -> dict[str, LanguageLoss]:
    """Return the loss of each language on its masked tokens.

    batches      language -> held-out text with targets and labels (NumPy), see ``mmbert.data.heldout``
    token_bytes  (V,) bytes of text that each token stands for
    batch        tokens per forward pass; a single longer sequence goes through alone

    Languages without a labelled token, or whose labelled tokens stand for no byte, are left out.
    Raises WeightsError for a loss that is not finite.
    """
    if not batches:
        return {}
    names = list(batches)
    size, device = len(names), next(model.parameters()).device
    whole, languages = _concatenate(list(batches.values()))
    sums = {name: np.zeros(size) for name in ("nats", "hits", "tokens", "bytes")}
    first = 0
    model.eval()  # dropout would change the loss
    with torch.inference_mode(), progress[None](total=whole.tokens, desc="held-out loss", unit="tok") as bar:
        for packed in cut(whole, batch):
            loss, hit = losses(model, packed.to(device), precision)
            owners = languages[first : first + len(loss)]
            first += len(loss)
            weights = {"nats": loss, "hits": hit, "tokens": np.ones(len(loss)), "bytes": token_bytes[packed.labels]}
            for name, weight in weights.items():
                sums[name] += np.bincount(owners, weights=weight, minlength=size)
            bar.update(packed.tokens)
    nats = sums["nats"]
    wrong = np.flatnonzero(~np.isfinite(nats))
    if wrong.size:
        raise WeightsError(
            f"the model's loss in {names[wrong[0]]} is {nats[wrong[0]]}: its weights overflow on this text; take an "
            "earlier checkpoint, or fp32"
        )
    return {
        name: LanguageLoss.of(
            nats=float(nats[i]), tokens=int(sums["tokens"][i]), num_bytes=int(sums["bytes"][i]),
            hits=float(sums["hits"][i]),
        )
        for i, name in enumerate(names)
        if sums["bytes"][i]
    }  # fmt: skip


def masked_lm(loaded: Loaded) -> MaskedLM:
    """Return the whole masked language model. Raises WeightsError for a folder that has another head, or none."""
    if not isinstance(loaded.head, MaskedLM):
        raise WeightsError(f"{loaded.folder} has no masked-LM head, whose loss is measured: give the pretrained model")
    return loaded.head


def losses(model: MaskedLM, packed: Packed, precision: Precision) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss in nats and whether the best guess was right, for each label: two (N,) float64 arrays.

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


def _concatenate(batches: Sequence[Packed]) -> tuple[Packed, np.ndarray]:
    """The sequences of all batches end to end, in order, and (N,) the number of the batch that each label is of."""
    starts = np.cumsum([0, *(packed.tokens for packed in batches)])
    moved = list(zip(batches, starts, strict=False))  # the last start is the end of all
    offsets = np.concatenate([*(packed.offsets[:-1] + start for packed, start in moved), starts[-1:]])
    return Packed(
        ids=np.concatenate([packed.ids for packed in batches]),
        offsets=offsets.astype(np.int32),
        longest=max(packed.longest for packed in batches),
        targets=np.concatenate([packed.targets + start for packed, start in moved]),
        labels=np.concatenate([packed.labels for packed in batches]),
    ), np.repeat(np.arange(len(batches)), [len(packed.labels) for packed in batches])


def cut(packed: Packed, batch: int) -> Iterator[Packed]:
    """Yield the same sequences in batches of at most ``batch`` tokens, or of one longer sequence."""
    offsets = packed.offsets
    first = 0
    while first < packed.sequences:
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + batch, side="right")) - 1)
        start, end = int(offsets[first]), int(offsets[last])
        low, high = np.searchsorted(packed.targets, [start, end])  # targets are in the order of tokens
        part = offsets[first : last + 1] - start
        yield Packed(
            ids=packed.ids[start:end],
            offsets=part,
            longest=int(np.diff(part).max()),
            targets=packed.targets[low:high] - start,
            labels=packed.labels[low:high],
        )
        first = last
