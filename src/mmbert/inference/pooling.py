"""From token vectors to one vector a text, over documents laid end to end.

Modes are those of sentence-transformers, by its names; several are laid side by side. Means are taken in fp32.

Shapes: ``T`` tokens, ``S`` texts, ``h`` hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""First token, largest of each dimension, mean, sum / sqrt(length), mean weighted by position 1, 2, ..., last token."""


@dataclass(frozen=True)
class Pooling:
    """How token vectors become one vector.

    modes           of ``MODES``, in the order in which their vectors stand side by side
    include_prompt  False: tokens of the prompt, and <bos> before it, are left out
    layers          weights of a layer mix, embeddings first, the final norm's output last; None: the last layer alone
    """

    modes: tuple[str, ...] = ("mean",)
    include_prompt: bool = True
    layers: tuple[float, ...] | None = None

    @property
    def shares(self) -> tuple[float, ...] | None:
        """``layers`` as shares of one."""
        return None if self.layers is None else tuple(weight / sum(self.layers) for weight in self.layers)


def pool(x: Tensor, starts: Tensor, ends: Tensor, modes: Sequence[str], first: Tensor | None = None) -> Tensor:
    """Vectors of spans of rows: (T, h) -> (S, h * modes), fp32.

    starts, ends  (S,) rows of ``x``; every span has at least one row
    first         (S,) where counting of positions begins for ``weightedmean``; default ``starts``
    """
    lengths = ends - starts
    segments = torch.repeat_interleave(torch.arange(len(starts), device=x.device), lengths)
    before = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    rows = torch.arange(len(segments), device=x.device) - before + torch.repeat_interleave(starts, lengths)
    inner = x if len(rows) == len(x) and bool((rows == torch.arange(len(x), device=x.device)).all()) else x[rows]
    origin = torch.repeat_interleave(starts if first is None else first, lengths)
    found = [_pool(mode, x, inner.float(), starts, ends, segments, rows - origin) for mode in modes]
    return torch.cat(found, dim=1)


def _pool(
    mode: str, x: Tensor, inner: Tensor, starts: Tensor, ends: Tensor, segments: Tensor, positions: Tensor
) -> Tensor:
    if mode == "cls":
        return x[starts].float()
    if mode == "lasttoken":
        return x[ends - 1].float()
    lengths = (ends - starts)[:, None].float()
    empty = inner.new_zeros(len(starts), inner.shape[1])
    if mode == "max":
        return empty.index_reduce(0, segments, inner, "amax", include_self=False)
    if mode == "weightedmean":
        weights = (positions + 1).float()
        total = torch.zeros(len(starts), device=x.device).index_add(0, segments, weights)
        return empty.index_add(0, segments, inner * weights[:, None]) / total[:, None]
    total = empty.index_add(0, segments, inner)
    return total / lengths if mode == "mean" else total / lengths.sqrt()
