"""One encoder with many LoRA adapters, which computes texts of different adapters in one batch.

The base's matrices multiply all tokens of a batch together. Each adapter then adds its low-rank product to its own
tokens, s B (A x), which costs r (m + n) operations a token where the matrix costs m n. Ten adapters so need the memory
of one model and ten pairs of narrow matrices, and nearly the time of one model. (Weights merged for each adapter would
need ten models, and a batch for each.)

Shapes: ``T`` tokens of a batch, ``N`` of them an adapter's; a matrix is (m, n).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbert.errors import WeightsError
from mmbert.inference.onednn_layers import OneDnnLayer, paired, rotate_pairs
from mmbert.model.adapter import Adapter, LowRank
from mmbert.model.attention import AttentionPlan, attend
from mmbert.model.encoder import Encoder
from mmbert.model.layers import Layer
from mmbert.model.rope import Angles

MATRICES = ("attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo")
"""The matrices of a layer, all of which an adapter may change."""


class Change(nn.Module):
    """What an adapter does to the product of one matrix, for its tokens."""

    down: Tensor
    up: Tensor
    scales: Tensor | None

    def __init__(self, change: LowRank, weight: Tensor, dtype: torch.dtype, head_dim: int | None) -> None:
        """``head_dim``: the rows are in the order of :func:`mmbert.inference.onednn_layers.paired`."""
        super().__init__()
        up, scales = change.scale * change.up.float(), None
        if change.magnitude is not None:  # DoRA: the row's stored length over that of its tuned weights
            scales = change.magnitude.float() / change.tuned(weight).norm(dim=1)
        if head_dim is not None:
            up = paired(up, head_dim)
            scales = None if scales is None else paired(scales[:, None], head_dim)[:, 0]
        self.register_buffer("down", change.down.to(dtype).t().contiguous(), persistent=False)
        self.register_buffer("up", up.to(dtype).t().contiguous(), persistent=False)
        self.register_buffer("scales", scales, persistent=False)

    def add(self, product: Tensor, x: Tensor, rows: Tensor) -> None:
        """Change rows (N,) of ``product`` (T, m), the base's for x (T, n), in place."""
        change = (x.index_select(0, rows).to(self.down.dtype) @ self.down @ self.up).to(product.dtype)
        if self.scales is None:
            product.index_add_(0, rows, change)
        else:
            product[rows] = ((product.index_select(0, rows) + change) * self.scales).to(product.dtype)


class AdaptedLayer(OneDnnLayer):
    """A layer in fp32 or bf16 with the changes of many adapters; those of a batch are named by its plan."""

    def __init__(self, layer: Layer, dtype: torch.dtype, changes: Sequence[dict[str, LowRank]]) -> None:
        """``changes``: of each adapter, the low-rank changes of this layer by name of the matrix."""
        super().__init__(layer, dtype)
        weights = {name: weight_of(layer, name) for name in MATRICES}
        self.changes = nn.ModuleDict()
        for number, own in enumerate(changes):
            for name, change in own.items():
                head_dim = self.head_dim if name == "attn.Wqkv" else None
                self.changes[_key(number, name)] = Change(change, weights[name], dtype, head_dim)

    def forward(self, x: Tensor, plan: AttentionPlan, cos_sin: Angles) -> Tensor:
        """(T, h) -> (T, h), fp32."""
        if not plan.adapters:
            return super().forward(x, plan, cos_sin)
        normed = self.attn_norm(x)
        product = self.qkv(normed).float()
        self._change("attn.Wqkv", product, normed, plan)
        qkv = product.view(x.shape[0], 3, -1, self.head_dim)
        rotate_pairs(qkv, cos_sin)
        q, k, v = qkv.unbind(1)
        attended = attend(q, k, v, plan, local=self.local).flatten(1)
        product = self.out(attended).float()
        self._change("attn.Wo", product, attended, plan)
        x = x + product
        normed = self.mlp_norm(x)
        # GELU cannot run inside the product, as in OneDnnLayer: the change comes before it
        product = torch.cat([self.activated(normed), self.gate(normed)], dim=1).float()
        self._change("mlp.Wi", product, normed, plan)
        activated, gate = product.chunk(2, dim=1)
        inner = F.gelu(activated) * gate
        last: Tensor = self.narrow(inner).float()
        self._change("mlp.Wo", last, inner, plan)
        return x + last

    def _change(self, name: str, product: Tensor, x: Tensor, plan: AttentionPlan) -> None:
        for number, rows in plan.adapters:
            key = _key(number, name)
            if key in self.changes:
                change = self.changes[key]
                assert isinstance(change, Change)
                change.add(product, x, rows)


def weight_of(layer: Layer, name: str) -> Tensor:
    """Return the weights (m, n) of a matrix of ``MATRICES``."""
    return layer.get_parameter(f"{name}.weight").detach()


def _key(number: int, name: str) -> str:
    return f"{name.replace('.', ' ')} {number}"  # torch allows no dot in names of modules


def adapt(encoder: Encoder, adapters: Sequence[Adapter], dtype: torch.dtype) -> None:
    """Replace the layers of a plain encoder on the CPU, in place, by such that serve all ``adapters``.

    Raises WeightsError for an adapter that changes something of the encoder beside the matrices of its layers.
    """
    for adapter in adapters:
        _refuse_other_changes(adapter)
    for index, layer in enumerate(encoder.layers):
        assert isinstance(layer, Layer), "an encoder in precision plain"
        own = [
            {name: change for name in MATRICES if (change := adapter.low_rank.get(f"layers.{index}.{name}"))}
            for adapter in adapters
        ]
        for adapter, changes in zip(adapters, own, strict=True):
            for name, change in changes.items():
                change.check(weight_of(layer, name), f"layers.{index}.{name}", adapter)
        encoder.layers[index] = AdaptedLayer(layer, dtype, own)


def _refuse_other_changes(adapter: Adapter) -> None:
    heads = ("head.", "classifier")
    low_rank = [name for name in adapter.low_rank if not name.startswith(("layers.", *heads))]
    other = low_rank + [name for name in adapter.replaced if not name.startswith(heads)]
    if other:
        raise WeightsError(
            f"{adapter.folder} changes {other[0]}, which all adapters of a server share: serve it as a model of its own"
        )
