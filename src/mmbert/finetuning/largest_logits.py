"""The largest logit of every token of a large vocabulary over each text: SPLADE's pooling (Formal et al. 2109.10086).

log(1 + relu(x)) increases with x, so the maximum over a text can be taken before it. All logits, (T, V), would take
gigabytes with a vocabulary of 256,000; here they are computed for some rows at a time, in forward and backward, and
only the index w(s, v) of the row that holds the maximum is kept for backward:

    y[s, v] = x[w(s, v)] W[v] + b[v]    dW[v] = Σ_s dy[s, v] x[w(s, v)]    dx[t] = Σ_{s, v: w(s, v) = t} dy[s, v] W[v]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mmbert.packed import Packed

ROWS = 256
"""Rows of logits at a time: 256 MiB at 256,000 tokens in fp32."""


def largest_logits(x: Tensor, weight: Tensor, bias: Tensor | None, packed: Packed, rows: int = ROWS) -> Tensor:
    """Return the maximum over each text of x W^T + b: x (T, h), W (V, h), b (V,) -> (S, V)."""
    out: Tensor = _Largest.apply(x, weight, bias, packed.lengths, rows)  # type: ignore[no-untyped-call]
    return out


class _Largest(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, lengths: list[int], rows: int) -> Tensor:
        best, winner = None, None
        for start, parts in _chunks(lengths, rows):
            logits = torch.nn.functional.linear(x[start : start + sum(n for _, n in parts)], weight, bias)
            if best is None or winner is None:
                best = logits.new_full((len(lengths), logits.shape[1]), float("-inf"))
                winner = torch.zeros_like(best, dtype=torch.int32)
            begin = 0
            for text, count in parts:
                values, places = logits[begin : begin + count].max(0)
                # strictly larger: of equal logits in several chunks the first one wins, whatever the chunks' size
                higher = values > best[text]
                winner[text] = torch.where(higher, (places + (start + begin)).int(), winner[text])
                best[text] = torch.where(higher, values, best[text])
                begin += count
        assert best is not None, "a batch holds a text"
        ctx.save_for_backward(x, weight, winner)
        ctx.lengths, ctx.rows, ctx.biased = lengths, rows, bias is not None
        return best

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight, winner = ctx.saved_tensors
        grad_x = torch.zeros_like(x)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        low = weight.to(grad.dtype)
        for start, parts in _chunks(ctx.lengths, ctx.rows):
            end = start + sum(count for _, count in parts)
            of_logits = grad.new_zeros(
                end - start, weight.shape[0]
            )  # each winner's gradient in its row, zero elsewhere
            for text, _count in parts:
                # a text may extend over several chunks; its gradient for v belongs to the chunk that holds the winner
                inside = (winner[text] >= start) & (winner[text] < end)
                place = (winner[text].long() - start).clamp(0, end - start - 1)
                of_logits.scatter_add_(0, place[None], torch.where(inside, grad[text], 0)[None])
            grad_x[start:end] = (of_logits @ low).to(x.dtype)
            if grad_weight is not None:
                grad_weight += (of_logits.T @ x[start:end].to(grad.dtype)).to(weight.dtype)
        grad_bias = grad.sum(0).to(weight.dtype) if ctx.biased and ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias, None, None


def _chunks(lengths: list[int], rows: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Yield (first row, [(text, rows of it), ...]) of stretches of at most ``rows`` rows."""
    start = taken = 0
    parts: list[tuple[int, int]] = []
    for text, length in enumerate(lengths):
        while length:
            count = min(length, rows - taken)
            parts.append((text, count))
            taken, length = taken + count, length - count
            if taken == rows:
                yield start, parts
                start, taken, parts = start + taken, 0, []
    if parts:
        yield start, parts
