"""Attention over documents laid end to end: one function, one plan per batch, two machines.

On CUDA torch's variable-length flash kernel does everything, window included (``varlen_attn``).

Elsewhere the encoder lays the documents out from short to long (``AttentionPlan.order``), and then

* **groups**: neighbours of nearly the same length are one call of ``scaled_dot_product_attention``. A document joins a
  group when padding it costs less than a call of its own; groups of equal lengths are views, nothing is copied.
  Global layers do this for all documents, local layers for the short ones (with a band in the mask if they need one).
* **band**: in local layers the long documents are cut into blocks of queries, and each block sees its own keys and half
  a window on either side: time and memory are O(tokens x window), forward and backward. A mask keeps documents apart.

Masks and index tensors are made once per batch and shared by all layers. Attention runs in fp32 on a CPU even under
bf16 autocast: torch's CPU kernel is slower in bf16 (measured: docs/decisions).

Shapes: ``T`` tokens, ``H`` heads, ``D`` head dimension, ``n`` documents of a group, ``L`` its padded length,
``w`` half a window (token i sees j iff |i - j| <= w), ``b`` queries in a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbert.packed import Packed

BLOCK = 64
"""Queries per block of the band; 64 and 32 are equal in training on the CPUs tried, 128 is slower."""
LONG = 192
"""Documents longer than this many tokens take the band in local layers (at least ``window`` + ``BLOCK``)."""
CALL_COST = 150_000
"""What one call costs, forward and backward, as padded L x L x H x D: 60 microseconds at the speed of attention."""


@dataclass(frozen=True)
class Group:
    """Neighbouring documents attended in one call.

    ``rows`` (n * L,) reads the padded layout from the group's tokens, ``back`` (tokens,) reads it back and ``pads``
    are the padded positions; None when all lengths are equal. Masks are added to the scores; None when nothing is hidden.
    """

    documents: int
    length: int
    tokens: int
    rows: Tensor | None
    back: Tensor | None
    pads: Tensor | None
    global_mask: Tensor | None
    local_mask: Tensor | None


@dataclass(frozen=True)
class Band:
    """The long documents of a local layer: blocks of ``block`` queries, ``mask`` (blocks, 1, block, block + 2 w)."""

    tokens: int
    block: int
    half: int
    mask: Tensor


@dataclass(frozen=True)
class AttentionPlan:
    """Everything attention needs to know about a batch.

    order      (T,) the encoder gathers its tokens by it before the first layer; None: as they come
    inverse    (T,) where each token of the batch went; None with ``order``
    positions  (T,) position of each token (in the plan's order) in its document
    dtype      of queries, keys and values
    offsets    (S + 1,) int32 document borders for the CUDA kernel, None elsewhere
    """

    order: Tensor | None
    inverse: Tensor | None
    positions: Tensor
    dtype: torch.dtype
    half: int
    longest: int
    offsets: Tensor | None
    groups: tuple[Group, ...]
    short_groups: int
    band: Band | None


def attend(q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, *, local: bool) -> Tensor:
    """Each document attends to itself, whole or (``local``) within half a window: (T, H, D) three times -> (T, H, D)."""
    if plan.offsets is not None:
        return _varlen(q, k, v, plan, local=local)
    with torch.autocast(q.device.type, enabled=False):  # autocast would send SDPA to the slow bf16 kernel
        return _grouped(q, k, v, plan, local=local)


def _varlen(q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, *, local: bool) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # does not exist on every build of torch

    window = (plan.half, plan.half) if local else (-1, -1)
    out = varlen_attn(q, k, v, plan.offsets, plan.offsets, plan.longest, plan.longest, window_size=window)
    assert isinstance(out, Tensor)
    return out


def _grouped(q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, *, local: bool) -> Tensor:
    banded = local and plan.band is not None
    groups = plan.groups[: plan.short_groups] if banded else plan.groups
    sizes = [group.tokens for group in groups]
    if banded and plan.band is not None:
        sizes.append(plan.band.tokens)
    if len(sizes) == 1:
        pieces = [(q, k, v)]
    else:  # the gradient of split is one cat; that of a slice would be a whole stream of zeros
        pieces = list(zip(q.split(sizes), k.split(sizes), v.split(sizes), strict=True))
    outputs = [_attend_group(*piece, group, local=local) for piece, group in zip(pieces, groups, strict=False)]
    if banded and plan.band is not None:
        outputs.append(_attend_band(*pieces[-1], plan.band))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _attend_group(q: Tensor, k: Tensor, v: Tensor, group: Group, *, local: bool) -> Tensor:
    """(tokens, H, D) -> (tokens, H, D) for the documents of one group."""
    padded = [x if group.rows is None else _Pad.apply(x, group.rows, group.back) for x in (q, k, v)]  # type: ignore[no-untyped-call]
    query, key, value = [x.view(group.documents, group.length, *x.shape[1:]).transpose(1, 2) for x in padded]
    mask = group.local_mask if local else group.global_mask
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    out = out.transpose(1, 2).flatten(0, 1)
    if group.rows is None:
        return out
    unpadded: Tensor = _Unpad.apply(out, group.rows, group.back, group.pads)  # type: ignore[no-untyped-call]
    return unpadded


def _attend_band(q: Tensor, k: Tensor, v: Tensor, band: Band) -> Tensor:
    """(tokens, H, D) -> (tokens, H, D), each token seeing its own document within half a window."""
    tokens, heads, width = q.shape
    blocks = band.mask.shape[0]
    query = F.pad(q, (0, 0, 0, 0, 0, blocks * band.block - tokens)) if blocks * band.block > tokens else q
    query = query.reshape(blocks, band.block, heads, width).transpose(1, 2)
    key, value = [_Windows.apply(x, blocks, band.block, band.half).transpose(1, 2) for x in (k, v)]  # type: ignore[no-untyped-call]
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=band.mask)
    return out.transpose(1, 2).flatten(0, 1)[:tokens]


class _Pad(torch.autograd.Function):
    """Gather rows into the padded layout. Backward gathers too: padding receives no gradient, so nothing need be summed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return grad.index_select(0, back), None, None


class _Unpad(torch.autograd.Function):
    """Gather the real rows out of the padded layout; the gradient of padding is zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, back: Tensor, pads: Tensor) -> Tensor:
        ctx.save_for_backward(rows, pads)
        return x.index_select(0, back)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        rows, pads = ctx.saved_tensors
        return grad.index_select(0, rows).index_fill_(0, pads, 0.0), None, None, None


class _Windows(torch.autograd.Function):
    """(tokens, H, D) -> (blocks, b + 2 w, H, D): each block's rows and w rows on either side, zeros beyond the ends.

    Forward is one padded copy seen through overlapping strides; backward adds the overlaps slice by slice.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, blocks: int, block: int, half: int) -> Tensor:
        ctx.shape = (x.shape[0], blocks, block, half)
        padded = x.new_zeros(blocks * block + 2 * half, *x.shape[1:])
        padded[half : half + x.shape[0]] = x
        row, head, one = padded.stride()
        return padded.as_strided((blocks, block + 2 * half, *x.shape[1:]), (block * row, row, head, one))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        tokens, blocks, block, half = ctx.shape
        span = block + 2 * half
        total = grad.new_zeros((blocks + -(-span // block) - 1) * block, *grad.shape[2:])
        for start in range(0, span, block):
            part = grad[:, start : start + block]
            total[start : start + blocks * block].view(blocks, block, *grad.shape[2:])[:, : part.shape[1]] += part
        return total[half : half + tokens], None, None, None


def plan_attention(packed: Packed, window: int, heads: int, head_dim: int, dtype: torch.dtype | None = None) -> AttentionPlan:
    """Plan one batch (torch tensors; the plan lives on their device). ``dtype`` is that of the projections."""
    device = packed.ids.device
    lengths = packed.lengths
    half = window // 2
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        positions = _positions(lengths).to(device)
        offsets = packed.offsets.to(torch.int32)
        return AttentionPlan(None, None, positions, dtype, half, packed.longest, offsets, (), 0, None)
    ranked = sorted(range(len(lengths)), key=lambda i: lengths[i])
    order = inverse = None
    if any(lengths[i] > lengths[i + 1] for i in range(len(lengths) - 1)):
        starts = packed.offsets.tolist()
        order = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in ranked])
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order))
        order, inverse = order.to(device), inverse.to(device)
    arranged = [lengths[i] for i in ranked]
    limit = max(LONG, window + BLOCK)
    short = sum(length <= limit for length in arranged)
    budget = CALL_COST // (heads * head_dim)
    short_groups = [_group(part, half, device) for part in _partition(arranged[:short], budget)]
    long_groups = [_group(part, None, device) for part in _partition(arranged[short:], budget)]
    band = _band(arranged[short:], half, device) if short < len(arranged) else None
    return AttentionPlan(
        order=order,
        inverse=inverse,
        positions=_positions(arranged).to(device),
        dtype=torch.float32 if device.type == "cpu" or dtype is None else dtype,
        half=half,
        longest=packed.longest,
        offsets=None,
        groups=(*short_groups, *long_groups),
        short_groups=len(short_groups),
        band=band,
    )


def _positions(lengths: Sequence[int]) -> Tensor:
    """0, 1, 2, ... anew for each document: (T,) int64."""
    counts = torch.tensor(lengths)
    starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return torch.arange(int(counts.sum())) - starts


def _partition(lengths: Sequence[int], budget: int) -> list[Sequence[int]]:
    """Cut ascending ``lengths`` into groups: a document is padded to L while that costs less than a call, L^2 - l^2 <= budget."""
    groups: list[Sequence[int]] = []
    end = len(lengths)
    while end:
        longest = lengths[end - 1]
        start = end - 1
        while start and longest**2 - lengths[start - 1] ** 2 <= budget:
            start -= 1
        groups.append(lengths[start:end])
        end = start
    return groups[::-1]


def _group(lengths: Sequence[int], half: int | None, device: torch.device) -> Group:
    """The index tensors and masks of one group; ``half`` None: local layers do not use it."""
    longest, documents = lengths[-1], len(lengths)
    where = torch.arange(longest)
    rows = back = pads = global_mask = local_mask = None
    seen = torch.ones(1, 1, 1, longest, dtype=torch.bool)
    if lengths[0] < longest:
        counts = torch.tensor(lengths)[:, None]
        real = where < counts
        starts = torch.cumsum(counts, 0) - counts
        rows = (starts + torch.minimum(where, counts - 1)).flatten().to(device)
        back = real.flatten().nonzero().squeeze(1).to(device)
        pads = (~real).flatten().nonzero().squeeze(1).to(device)
        seen = real[:, None, None, :]
        global_mask = _hide(~seen).to(device)
    local_mask = global_mask
    if half is not None and longest > half + 1:
        distance = (where[:, None] - where).abs()
        # padding sees itself: a query that sees nothing would be NaN
        local_mask = _hide(~((seen & (distance <= half)) | (distance == 0))).to(device)
    return Group(documents, longest, sum(lengths), rows, back, pads, global_mask, local_mask)


def _band(lengths: Sequence[int], half: int, device: torch.device) -> Band:
    """The mask of the band over long documents laid end to end."""
    tokens = sum(lengths)
    blocks = -(-tokens // BLOCK)
    document = torch.full((blocks * BLOCK + 2 * half,), -1)
    document[half : half + tokens] = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    of_query = document[half : half + blocks * BLOCK].view(blocks, BLOCK, 1)
    of_key = document.unfold(0, BLOCK + 2 * half, BLOCK).unsqueeze(1)
    distance = (torch.arange(BLOCK)[:, None] + half - torch.arange(BLOCK + 2 * half)).abs()
    # rows beyond the end carry document -1 and see each other, so that no query sees nothing
    mask = _hide((of_query != of_key) | (distance > half))
    return Band(tokens, BLOCK, half, mask.unsqueeze(1).to(device))


def _hide(hidden: Tensor) -> Tensor:
    """0 where seen, minus infinity where hidden: made once, or SDPA would turn a boolean mask into this at every call."""
    return torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))
