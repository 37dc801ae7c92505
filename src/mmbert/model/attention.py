"""Attention over packed documents: one function, with one plan per batch, for CUDA and for CPUs.

On GPUs that have it, torch's variable-length flash kernel does everything, window included (``varlen_attn``).

Elsewhere the encoder sorts the documents by length (``AttentionPlan.order``): on CPUs, in fp32, and on GPUs before
compute capability 8.0, where torch takes its memory-efficient kernel in fp16. Then there are

* **groups**: documents of one length are one call of ``scaled_dot_product_attention`` over views, without padding or
  copies. Global layers use groups for all documents. (Padding documents of similar length into fewer calls was slower
  at every degree of padding tried, even for documents of 4 to 60 tokens.)
* **band**: in local layers documents longer than a block and its window are cut into blocks of queries, each of which
  sees its own keys and half a window on either side: time and memory are O(tokens x window), forward and backward.
  A mask separates documents. Shorter documents stay in groups, with a mask of the window if they are longer than it.

Masks and index tensors are made at most once per batch and shared by all layers. Torch's attention runs in fp32 on a
CPU even under bf16 autocast, because its kernel is slower in bf16; ``mmbert.native.attention`` takes its place where it
can.

Shapes: ``T`` tokens, ``H`` heads, ``D`` head dimension, ``w`` half a window (token i sees j iff |i - j| <= w).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbert.device import runs_flash_attention
from mmbert.packed import Packed

BLOCK = 32
"""Queries per block of the band. 32 and 64 are equal in training; without gradients 32 is 1.15 times as fast as 64, and
96 and 128 are slower (fp32, H = 6, D = 32 and 64)."""


@dataclass(frozen=True)
class Group:
    """Neighbouring documents of one length; ``mask`` (1, 1, length, length) is the window, None if it hides nothing."""

    documents: int
    length: int
    mask: Tensor | None

    @property
    def tokens(self) -> int:
        return self.documents * self.length


def lengths(groups: tuple[Group, ...]) -> tuple[int, ...]:
    """Return the length of each document."""
    return tuple(group.length for group in groups for _ in range(group.documents))


@dataclass(frozen=True)
class Band:
    """The long documents of a local layer, last in the batch; ``mask`` is (blocks, 1, BLOCK, BLOCK + 2 w)."""

    tokens: int
    half: int
    mask: Tensor


@dataclass(frozen=True)
class AttentionPlan:
    """The layout of a batch for attention, shared by all layers.

    order      (T,) permutation of tokens that the encoder applies before the first layer; None: unchanged
    inverse    (T,) its inverse; None with ``order``
    positions  (T,) position of each token in its document, in the plan's order
    dtype      of queries, keys and values
    offsets    (S + 1,) int32, borders of documents for the CUDA kernel; None elsewhere, where there are
    whole      the groups of a global layer; ``short`` are those of a local layer, with its ``band`` behind them
    adapters   (number, first token, end) of the adapter of neighbouring documents, in the plan's order
    """

    order: Tensor | None
    inverse: Tensor | None
    positions: Tensor
    dtype: torch.dtype
    half: int
    longest: int
    offsets: Tensor | None = None
    whole: tuple[Group, ...] = ()
    adapters: tuple[tuple[int, int, int], ...] = ()

    # Masks are made when they are asked for: kernels that know the window need none.

    @cached_property
    def short(self) -> tuple[Group, ...]:
        """The documents of a local layer that are no longer than a block and its window."""
        like = self.positions.new_empty(0, dtype=self.dtype)
        short = [group for group in self.whole if group.length <= _widest(self.half)]
        return tuple(replace(group, mask=_window(group.length, self.half, like)) for group in short)

    @cached_property
    def band(self) -> Band | None:
        """The other documents of a local layer."""
        long = [length for length in lengths(self.whole) if length > _widest(self.half)]
        return _band(long, self.half, self.positions.new_empty(0, dtype=self.dtype)) if long else None


def _widest(half: int) -> int:
    """Return the length of the longest document that the band leaves out: a band has no fewer keys."""
    return BLOCK + 2 * half


def attend(q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, *, local: bool) -> Tensor:
    """Return attention within each document, all of it or (``local``) half a window. All (T, H, D) ``plan.dtype``."""
    if plan.offsets is not None:
        return _varlen(q, k, v, plan, plan.offsets, local=local)
    with torch.autocast(q.device.type, enabled=False):  # autocast would choose the slow bf16 kernel
        return _blocked(q, k, v, plan, local=local)


def _varlen(q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, offsets: Tensor, *, local: bool) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # compiles nothing, but is absent from some builds

    window = (plan.half, plan.half) if local else (-1, -1)
    out = varlen_attn(q, k, v, offsets, offsets, plan.longest, plan.longest, window_size=window)
    assert isinstance(out, Tensor)  # a pair only with return_aux
    return out


def _blocked(q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, *, local: bool) -> Tensor:
    groups, band = (plan.short, plan.band) if local else (plan.whole, None)
    sizes = [group.tokens for group in groups] + ([band.tokens] if band else [])
    # the backward of split is one cat; each slice would allocate a gradient of the whole batch, mostly zeros
    queries, keys, values = (torch.split(x, sizes) for x in (q, k, v))
    parts = zip(groups, queries, keys, values, strict=False)
    outputs = [_attend_group(query, key, value, group) for group, query, key, value in parts]
    if band:
        outputs.append(_attend_band(queries[-1], keys[-1], values[-1], band))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _attend_group(q: Tensor, k: Tensor, v: Tensor, group: Group) -> Tensor:
    """Attend within documents of one length: (tokens, H, D) -> (tokens, H, D)."""
    # A view: documents of one length lie side by side, so a group is already a batch.
    shape = (group.documents, group.length, *q.shape[1:])
    query, key, value = (x.view(shape).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=group.mask)
    return out.transpose(1, 2).flatten(0, 1)


def _attend_band(q: Tensor, k: Tensor, v: Tensor, band: Band) -> Tensor:
    """Attend within the window, block by block: (tokens, H, D) -> (tokens, H, D)."""
    blocks = band.mask.shape[0]
    # Queries are padded to whole blocks; their rows are cut off again at the end.
    spare = blocks * BLOCK - band.tokens
    query = F.pad(q, (0, 0, 0, 0, 0, spare)) if spare else q
    query = query.view(blocks, BLOCK, *q.shape[1:]).transpose(1, 2)
    key, value = (_Windows.apply(x, blocks, band.half).transpose(1, 2) for x in (k, v))  # type: ignore[no-untyped-call]
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=band.mask)
    return out.transpose(1, 2).flatten(0, 1)[: band.tokens]


class _Windows(torch.autograd.Function):
    """(tokens, H, D) -> (blocks, BLOCK + 2 w, H, D): each block's rows and w rows on either side, zero-padded.

    Forward is one padded copy, viewed with overlapping strides; backward sums the overlaps slice by slice (autograd
    through as_strided or an index would add element by element).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, blocks: int, half: int) -> Tensor:
        ctx.tokens, ctx.half = x.shape[0], half
        padded = x.new_zeros(blocks * BLOCK + 2 * half, *x.shape[1:])
        padded[half : half + x.shape[0]] = x
        row, *inner = padded.stride()
        return padded.as_strided((blocks, BLOCK + 2 * half, *x.shape[1:]), (BLOCK * row, row, *inner))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        blocks, span = grad.shape[:2]
        total = grad.new_zeros(blocks + -(-span // BLOCK) - 1, BLOCK, *grad.shape[2:])
        # row r of window b is row b * BLOCK + r of the padded input: slice number ``shift`` adds to block b + shift
        for shift, start in enumerate(range(0, span, BLOCK)):
            part = grad[:, start : start + BLOCK]
            total[shift : shift + blocks, : part.shape[1]] += part
        return total.flatten(0, 1)[ctx.half : ctx.half + ctx.tokens], None, None


def plan_attention(packed: Packed, window: int, dtype: torch.dtype) -> AttentionPlan:
    """Return the plan of a batch of torch tensors, on their device. ``dtype``: of the results of linear layers."""
    device, lengths, half = packed.ids.device, packed.lengths, window // 2
    if dtype in (torch.bfloat16, torch.float16) and runs_flash_attention(device):
        positions = _positions(lengths).to(device, non_blocking=True)
        offsets = packed.offsets.to(torch.int32)
        adapters = _adapters(packed, range(packed.sequences))
        return AttentionPlan(None, None, positions, dtype, half, packed.longest, offsets, adapters=adapters)
    documents = _documents(packed, _widest(half))
    order, inverse = _order(packed, documents)
    lengths = [lengths[document] for document in documents]
    return AttentionPlan(
        order=order,
        inverse=inverse,
        positions=_positions(lengths).to(device),
        dtype=torch.float32 if device.type == "cpu" else dtype,
        half=half,
        longest=packed.longest,
        whole=tuple(Group(len(list(equal)), length, None) for length, equal in groupby(lengths)),
        adapters=_adapters(packed, documents),
    )


def _positions(lengths: Sequence[int]) -> Tensor:
    """Return 0, 1, 2, ... for each document: (T,) int64."""
    counts = torch.tensor(lengths)
    starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return torch.arange(int(counts.sum())) - starts


def _documents(packed: Packed, most: int) -> list[int]:
    """Return the documents by length; with adapters those of one adapter are neighbours, long ones still the last.

    More groups of equal length are the price of neighbours: a few calls of attention a layer, while an adapter's
    products on neighbouring rows need no copies.
    """
    lengths, adapters = packed.lengths, packed.adapters
    if adapters is None:
        return sorted(range(len(lengths)), key=lengths.__getitem__)
    return sorted(range(len(lengths)), key=lambda one: (lengths[one] > most, adapters[one], lengths[one]))


def _adapters(packed: Packed, documents: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """Return the tokens of each adapter, see AttentionPlan; ``documents`` in the plan's order."""
    if packed.adapters is None:
        return ()
    found, start = [], 0
    for number, own in groupby(documents, key=lambda document: int(packed.adapters[document])):
        end = start + sum(packed.lengths[document] for document in own)
        if number >= 0:
            found.append((number, start, end))
        start = end
    return tuple(found)


def _order(packed: Packed, documents: Sequence[int]) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Return the permutation of tokens that puts documents in this order, and its inverse; None for no change."""
    if all(document == place for place, document in enumerate(documents)):
        return None, None
    counts = torch.tensor(packed.lengths)
    chosen = torch.tensor(documents)
    ranked = counts[chosen]
    starts = torch.repeat_interleave((counts.cumsum(0) - counts)[chosen], ranked)
    order = starts + _positions(ranked.tolist())
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order))
    return order.to(packed.ids.device), inverse.to(packed.ids.device)


def _window(length: int, half: int, like: Tensor) -> Tensor | None:
    """Return the mask of a local layer over one short document: (1, 1, length, length)."""
    if length <= half + 1:
        return None
    where = torch.arange(length)
    return _hide((where[:, None] - where).abs() > half, like)[None, None]


def _band(lengths: Sequence[int], half: int, like: Tensor) -> Band:
    """Return the band over packed documents."""
    tokens = sum(lengths)
    blocks = -(-tokens // BLOCK)
    # the document of each row, with half a window of padding on either side as in _Windows
    document = torch.full((blocks * BLOCK + 2 * half,), -1)
    document[half : half + tokens] = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    of_query = document[half : half + blocks * BLOCK].view(blocks, BLOCK, 1)
    of_key = document.unfold(0, BLOCK + 2 * half, BLOCK).unsqueeze(1)
    distance = (torch.arange(BLOCK)[:, None] + half - torch.arange(BLOCK + 2 * half)).abs()
    # rows beyond the end belong to document -1 and see each other: softmax over no key would be NaN
    return Band(tokens, half, _hide((of_query != of_key) | (distance > half), like).unsqueeze(1))


def _hide(hidden: Tensor, like: Tensor) -> Tensor:
    """Return 0 where seen, minus infinity where hidden; SDPA would convert a boolean mask at every call."""
    return like.new_zeros(hidden.shape).masked_fill_(hidden.to(like.device), float("-inf"))
