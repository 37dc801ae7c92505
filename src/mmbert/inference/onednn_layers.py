"""The encoder's layers as a CPU runs them fastest: the same function, weights laid out beforehand.

* Matrices are packed once for oneDNN, in fp32 or bf16: no reordering at every call, and faster than MKL in fp32. Where
  it cannot pack (bf16 without AVX-512), torch's own products take its place.
* GELU and gate are applied while the products are made, before they are written: of all that is done for a token the
  passes over what is as wide as the MLP would cost most after the matrices.
* The rows of Wqkv are put in another order, the two halves that RoPE turns against each other side by side, so that
  turning queries and keys is one multiplication of complex numbers, in place. Attention does not see the order.

The residual stream, the norms, RoPE and attention are fp32 in both, but for the products of attention in bf16 where
``native.kernel`` computes it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbert import cpu
from mmbert.inference.native import kernel
from mmbert.model.attention import AttentionPlan, attend
from mmbert.model.layers import Layer
from mmbert.model.rope import Angles

PART = 4096
"""Tokens that go through a layer's matrices together, at most. Attention takes all."""


class PackedMatrix(nn.Module):
    """x W^T, W in ``dtype`` and packed for oneDNN if it can; (T, n) fp32 or ``dtype`` -> (T, m) in ``dtype``."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.packed = dtype, cpu.packs(dtype)
        weight = weight.detach().to(dtype).clone()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, cpu.ROWS) if self.packed else weight

    def forward(self, x: Tensor, then: str = "none") -> Tensor:
        """``then``: none, or gelu (exact) of the product."""
        x = x.to(self.dtype)
        if not self.packed:
            product = F.linear(x, self._weight)
            return F.gelu(product) if then == "gelu" else product
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, None, then, [], "none")
        return out

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """The product, times ``factor`` (T, m)."""
        x = x.to(self.dtype)
        if not self.packed:
            return F.linear(x, self._weight) * factor
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, factor, self._weight, None, "mul")
        return out


class SplitLayer(nn.Module):
    """A layer whose matrices take a long batch in parts, so that what stands between them stays in the cache.

    ``native``: attention is that of ``native.kernel``, which takes queries and keys unturned in bf16.
    """

    def __init__(self, layer: Layer, *, native: bool) -> None:
        super().__init__()
        self.local = layer.local
        self.head_dim = layer.attn.head_dim
        self.native = native
        self.attn_norm, self.mlp_norm = layer.attn_norm, layer.mlp_norm

    def project(self, x: Tensor) -> Tensor:
        """Norm and Wqkv: (T, h) -> (T, 3 h), bf16 where ``native``, else fp32."""
        raise NotImplementedError

    def mix(self, x: Tensor, attended: Tensor) -> Tensor:
        """What comes after attention (T, h): Wo, norm and MLP, added to x (T, h)."""
        raise NotImplementedError

    def forward(self, x: Tensor, plan: AttentionPlan, cos_sin: Angles) -> Tensor:
        """(T, h) -> (T, h), fp32."""
        parts, cosines, sines = (torch.split(tensor, PART) for tensor in (x, *cos_sin))
        projected = []
        for part, cos, sin in zip(parts, cosines, sines, strict=True):
            qkv = self.project(part).view(part.shape[0], 3, -1, self.head_dim)
            if not self.native:
                turn_pairs(qkv, (cos, sin))
            projected.append(qkv)
        together = self._attend(_joined(projected), plan, cos_sin).flatten(1)
        attended = zip(parts, torch.split(together, PART), strict=True)
        return _joined([self.mix(part, rows) for part, rows in attended])

    def _attend(self, qkv: Tensor, plan: AttentionPlan, cos_sin: Angles) -> Tensor:
        """(T, 3, H, D) -> (T, H, D)."""
        if self.native:
            return kernel.attend(qkv, cos_sin, plan, local=self.local)
        q, k, v = qkv.unbind(1)
        return attend(q, k, v, plan, local=self.local)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class FastLayer(SplitLayer):
    """A layer in fp32 or bf16, made of a trained one."""

    def __init__(self, layer: Layer, dtype: torch.dtype) -> None:
        super().__init__(layer, native=dtype == torch.bfloat16 and kernel.ready(layer.attn.head_dim))
        self.qkv = PackedMatrix(paired(layer.attn.Wqkv.weight, self.head_dim), dtype)
        self.out = PackedMatrix(layer.attn.Wo.weight, dtype)
        self.activated, self.gate = (PackedMatrix(half, dtype) for half in layer.mlp.Wi.weight.chunk(2))
        self.narrow = PackedMatrix(layer.mlp.Wo.weight, dtype)

    def project(self, x: Tensor) -> Tensor:
        qkv: Tensor = self.qkv(self.attn_norm(x))
        return qkv if self.native else qkv.float()

    def mix(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.out(attended)
        normed = self.mlp_norm(x).to(self.gate.dtype)
        out: Tensor = x + self.narrow(self.gate.times(normed, self.activated(normed, "gelu")))
        return out


def paired(weight: Tensor, head_dim: int) -> Tensor:
    """Wqkv (3 h, h) with the rows of each query and key head in the order 0, D/2, 1, D/2 + 1, ..."""
    q, k, v = weight.detach().chunk(3)
    order = torch.arange(head_dim).view(2, -1).t().flatten()
    turned = [part.view(-1, head_dim, part.shape[1])[:, order].reshape(part.shape) for part in (q, k)]
    return torch.cat([*turned, v])


def turn_pairs(qkv: Tensor, cos_sin: Iterable[Tensor]) -> None:
    """Turn queries and keys of ``qkv`` (T, 3, H, D), of :func:`paired` weights, in place."""
    tokens, _, heads, width = qkv.shape
    pairs = torch.view_as_complex(qkv.view(tokens, 3 * heads, width // 2, 2)[:, : 2 * heads])
    pairs *= torch.complex(*cos_sin)
