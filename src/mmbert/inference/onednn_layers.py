"""The encoder's layers for CPUs: the same function as ``model.layers``, with weights packed for oneDNN.

* Matrices are packed once, in fp32 or bf16: no reordering at every call, and faster than MKL in fp32. Where oneDNN
  cannot pack (bf16 without AVX-512), torch's own products take its place.
* GELU and gate are fused into the products: after the matrices, passes over tensors as wide as the MLP cost most.
* The rows of Wqkv are permuted so that the two dimensions that RoPE rotates together are neighbours. RoPE is then one
  multiplication of complex numbers, in place. Scores of attention do not depend on the order of dimensions.

The residual stream, the norms, RoPE and attention are fp32 in both precisions, except for the products of attention in
bf16 where ``native.kernel`` computes it (then rows of Wqkv stay as they are).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbert import cpu
from mmbert.inference.native import kernel
from mmbert.inference.native.kernel import Kernels
from mmbert.model.attention import AttentionPlan, attend
from mmbert.model.layers import Layer
from mmbert.model.rope import Angles

PART = 4096
"""Tokens that go through a layer's matrices together, at most. Attention takes the whole batch."""


class PackedMatrix(nn.Module):
    """Computes x W^T, with W in ``dtype`` and packed if possible; (T, n) fp32 or ``dtype`` -> (T, m) ``dtype``."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.packed = dtype, cpu.packs(dtype)
        weight = weight.detach().to(dtype).clone()  # a view would keep the matrix of the layer in memory
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, cpu.ROWS) if self.packed else weight

    def forward(self, x: Tensor, then: str = "none") -> Tensor:
        """Return the product, through ``then``: none, or the exact gelu."""
        x = x.to(self.dtype)
        if not self.packed:
            product = F.linear(x, self._weight)
            return F.gelu(product) if then == "gelu" else product
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, None, then, [], "none")
        return out

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """Return the product, multiplied elementwise by ``factor`` (T, m)."""
        x = x.to(self.dtype)
        if not self.packed:
            return F.linear(x, self._weight) * factor
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, factor, self._weight, None, "mul")
        return out


class SplitLayer(nn.Module):
    """Base of the layers for inference: project, attend, mix.

    native  kernels that compute attention and rotate queries and keys; None: torch does, of :func:`paired` weights

    Project and mix take a long batch in parts of ``PART`` tokens, so that their intermediates stay in the cache.
    """

    def __init__(self, layer: Layer, native: Kernels | None) -> None:
        super().__init__()
        self.local, self.head_dim, self.native = layer.local, layer.attn.head_dim, native
        self.attn_norm, self.mlp_norm = layer.attn_norm, layer.mlp_norm

    def project(self, x: Tensor) -> Tensor:
        """Apply the norm and Wqkv: (T, h) -> (T, 3 h) fp32, or what ``native`` takes."""
        raise NotImplementedError

    def mix(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add Wo of the attention's output (T, h) to x (T, h), then the MLP of the norm of that."""
        raise NotImplementedError

    def forward(self, x: Tensor, plan: AttentionPlan, cos_sin: Angles) -> Tensor:
        """(T, h) -> (T, h), fp32."""
        parts, cosines, sines = (torch.split(tensor, PART) for tensor in (x, *cos_sin))
        projected = []
        for part, cos, sin in zip(parts, cosines, sines, strict=True):
            qkv = self.project(part).view(part.shape[0], 3, -1, self.head_dim)
            if not self.native:
                rotate_pairs(qkv, (cos, sin))
            projected.append(qkv)
        qkv = _joined(projected)  # attention needs the whole batch: documents may cross the borders of parts
        rows = zip(parts, torch.split(self.attended(qkv, plan, cos_sin), PART), strict=True)
        return _joined([self.mix(part, own) for part, own in rows])

    def attended(self, qkv: Tensor, plan: AttentionPlan, cos_sin: Angles) -> Tensor:
        """Return the attention's output (T, h) for qkv (T, 3, H, D), which are rotated unless ``native`` does that."""
        if self.native:
            return self.native.attend(qkv, cos_sin, plan, local=self.local).flatten(1)
        q, k, v = qkv.unbind(1)
        return attend(q, k, v, plan, local=self.local).flatten(1)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class OneDnnLayer(SplitLayer):
    """A layer in fp32 or bf16, made from a trained one."""

    def __init__(self, layer: Layer, dtype: torch.dtype) -> None:
        super().__init__(layer, kernel.ready(layer.attn.head_dim))
        self.attention_dtype = self.native.dtype(dtype) if self.native else torch.float32
        qkv = layer.attn.Wqkv.weight
        self.qkv = PackedMatrix(qkv if self.native else paired(qkv, self.head_dim), dtype)
        self.out = PackedMatrix(layer.attn.Wo.weight, dtype)
        self.activated, self.gate = (PackedMatrix(half, dtype) for half in layer.mlp.Wi.weight.chunk(2))
        self.narrow = PackedMatrix(layer.mlp.Wo.weight, dtype)

    def project(self, x: Tensor) -> Tensor:
        qkv: Tensor = self.qkv(self.attn_norm(x))
        return qkv.to(self.attention_dtype)

    def mix(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.out(attended)
        normed = self.mlp_norm(x).to(self.gate.dtype)
        # the two halves of Wi are matrices of their own: gelu and gate then run inside the products
        out: Tensor = x + self.narrow(self.gate.times(normed, self.activated(normed, "gelu")))
        return out


def paired(weight: Tensor, head_dim: int) -> Tensor:
    """Return Wqkv (3 h, h) with the rows of each query and key head in the order 0, D/2, 1, D/2 + 1, ..."""
    q, k, v = weight.detach().chunk(3)
    order = torch.arange(head_dim).view(2, -1).t().flatten()
    permuted = [part.view(-1, head_dim, part.shape[1])[:, order].reshape(part.shape) for part in (q, k)]
    return torch.cat([*permuted, v])


def rotate_pairs(qkv: Tensor, cos_sin: Iterable[Tensor]) -> None:
    """Apply RoPE to queries and keys of ``qkv`` (T, 3, H, D), of :func:`paired` weights, in place."""
    tokens, _, heads, width = qkv.shape
    pairs = torch.view_as_complex(qkv.view(tokens, 3 * heads, width // 2, 2)[:, : 2 * heads])
    pairs *= torch.complex(*cos_sin)  # (a + ib) (cos + i sin) rotates (a, b); values are not among the pairs
