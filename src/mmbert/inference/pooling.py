"""Pooling of token vectors to one vector for each text of a packed batch.

Modes are those of sentence-transformers; several are concatenated. Means are computed in fp32.

Shapes: ``T`` tokens, ``S`` texts, ``h`` hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmbert.packed import Packed

MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""First token, largest of each dimension, mean, sum / sqrt(length), mean weighted by position 1, 2, ..., last token."""


@dataclass(frozen=True)
class Pooling:
    """How token vectors become one vector.

    modes           of ``MODES``, in the order in which their vectors are concatenated
    include_prompt  False: the tokens of the prompt and <bos> are left out
    layers          weights of a sum of layers, embeddings first, the final norm's output last; None: the last layer
    """

    modes: tuple[str, ...] = ("mean",)
    include_prompt: bool = True
    layers: tuple[float, ...] | None = None

    @property
    def shares(self) -> tuple[float, ...] | None:
        """``layers`` scaled to a sum of one."""
        return None if self.layers is None else tuple(weight / sum(self.layers) for weight in self.layers)


def pool(x: Tensor, packed: Packed, modes: Sequence[str], skip: int | Sequence[int] = 0) -> Tensor:
    """Return the vectors of the texts of a batch: (T, h) -> (S, h * modes), fp32.

    skip  number of first tokens to leave out, for each text or for all (but never the last token of a text)
    """
    packed = packed.tensors(x.device)
    offsets = packed.offsets.long()
    ends = offsets[1:]
    skips = [skip] * packed.sequences if isinstance(skip, int) else skip
    starts = offsets[:-1]
    if any(skips):
        kept = [min(left, length - 1) for left, length in zip(skips, packed.lengths, strict=True)]
        starts = starts + torch.tensor(kept, device=x.device)
        rows = [torch.arange(length - left, device=x.device) for left, length in zip(kept, packed.lengths, strict=True)]
        inner = x[torch.cat([row + start for row, start in zip(rows, starts, strict=True)])].float()
    else:
        inner = x.float()
    lengths = ends - starts
    return torch.cat([_pool(mode, x, inner, starts, ends, lengths, starts - offsets[:-1]) for mode in modes], dim=1)


def _pool(
    mode: str, x: Tensor, inner: Tensor, starts: Tensor, ends: Tensor, lengths: Tensor, skipped: Tensor
) -> Tensor:
    if mode == "cls":
        return x[starts].float()
    if mode == "lasttoken":
        return x[ends - 1].float()
    if mode == "weightedmean":  # positions count skipped tokens too
        before = torch.repeat_interleave(lengths.cumsum(0) - lengths - skipped, lengths)
        weights = (torch.arange(1, len(inner) + 1, device=x.device) - before).float()
        inner = inner * weights[:, None]
        total = torch.segment_reduce(weights, "sum", lengths=lengths)[:, None]
        return torch.segment_reduce(inner, "sum", lengths=lengths, axis=0) / total
    if mode == "mean_sqrt_len_tokens":
        return torch.segment_reduce(inner, "sum", lengths=lengths, axis=0) / lengths[:, None].float().sqrt()
    return torch.segment_reduce(inner, mode, lengths=lengths, axis=0)
