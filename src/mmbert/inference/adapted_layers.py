"""One encoder with many LoRA adapters, which computes texts of different adapters in one batch.

The base's matrices multiply all tokens of a batch together. Each adapter then adds its low-rank product s B (A x) to
its own tokens, which the plan makes neighbours. That costs r (m + n) operations a token where the matrix costs m n. Ten
adapters so need the memory of one model and ten pairs of narrow matrices, and nearly the time of one model. (Weights
merged for each adapter would need ten models, and a batch for each.)

Shapes: ``T`` tokens of a batch, ``N`` of them an adapter's; a matrix is (m, n).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbert.errors import WeightsError
from mmbert.inference.onednn_layers import OneDnnLayer, paired, rotate_pairs
from mmbert.inference.precision import DTYPES, replace_layers
from mmbert.model.adapter import Adapter, LowRank
from mmbert.model.attention import AttentionPlan
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
        # (r, n), as a linear layer has it: its product takes half the time of x @ (n, r)
        self.register_buffer("down", change.down.to(dtype).contiguous(), persistent=False)
        self.register_buffer("up", up.to(dtype).t().contiguous(), persistent=False)
        self.register_buffer("scales", scales, persistent=False)

    def add(self, product: Tensor, x: Tensor) -> None:
        """Change the adapter's rows of a product (N, m), the base's for x (N, n) in the layer's type, in place."""
        narrow = F.linear(x, self.down)
        if narrow.dtype == product.dtype:
            product.addmm_(narrow, self.up)
        else:
            product += narrow @ self.up
        if self.scales is not None:
            product *= self.scales


class AdaptedLayer(OneDnnLayer):
    """A layer in fp32 or bf16 with the changes of many adapters; those of a batch are named by its plan."""

    def __init__(self, layer: Layer, dtype: torch.dtype, changes: Sequence[dict[str, LowRank]]) -> None:
        """``changes``: of each adapter, the low-rank changes of this layer by name of the matrix."""
        super().__init__(layer, dtype)
        weights = {name: weight_of(layer, name) for name in MATRICES}
        self.changes = nn.ModuleDict()
        for number, own in enumerate(changes):
            for name, change in own.items():
                head_dim = self.head_dim if name == "attn.Wqkv" and not self.native else None
                if name != "mlp.Wi":
                    self.changes[_key(number, name)] = Change(change, weights[name], dtype, head_dim)
                    continue
                # the layer multiplies by the two halves of Wi one after the other
                for half, (part, weight) in enumerate(zip(change.halves(), weights[name].chunk(2), strict=True)):
                    self.changes[_key(number, f"{name} {half}")] = Change(part, weight, dtype, None)

    def forward(self, x: Tensor, plan: AttentionPlan, cos_sin: Angles) -> Tensor:
        """(T, h) -> (T, h), fp32."""
        if not plan.adapters:
            return super().forward(x, plan, cos_sin)
        dtype = self.gate.dtype
        normed = self.attn_norm(x).to(dtype)  # once for the matrix and all changes
        product = self.qkv(normed)
        self._change("attn.Wqkv", product, normed, plan)
        qkv = product.to(self.attention_dtype).view(x.shape[0], 3, -1, self.head_dim)
        if not self.native:
            rotate_pairs(qkv, cos_sin)
        attended = self.attended(qkv, plan, cos_sin).to(dtype)
        product = self.out(attended)
        self._change("attn.Wo", product, attended, plan)
        x = x + product
        normed = self.mlp_norm(x).to(dtype)
        if any(_key(number, "mlp.Wi 0") in self.changes for number, _, _ in plan.adapters):
            # GELU cannot run inside the product, as in OneDnnLayer: the change comes before it
            activated, gate = self.activated(normed), self.gate(normed)
            self._change("mlp.Wi 0", activated, normed, plan)
            self._change("mlp.Wi 1", gate, normed, plan)
            inner = F.gelu(activated).mul_(gate)
        else:
            inner = self.gate.times(normed, self.activated(normed, "gelu"))
        last: Tensor = self.narrow(inner)
        self._change("mlp.Wo", last, inner, plan)
        return x + last

    def _change(self, name: str, product: Tensor, x: Tensor, plan: AttentionPlan) -> None:
        for number, start, end in plan.adapters:
            key = _key(number, name)
            if key in self.changes:
                change = self.changes[key]
                assert isinstance(change, Change)
                change.add(product[start:end], x[start:end])


def weight_of(layer: Layer, name: str) -> Tensor:
    """Return the weights (m, n) of a matrix of ``MATRICES``."""
    return layer.get_parameter(f"{name}.weight").detach()


def _key(number: int, name: str) -> str:
    return f"{name.replace('.', ' ')} {number}"  # torch allows no dot in names of modules


def adapt(encoder: Encoder, adapters: Sequence[Adapter], precision: str) -> None:
    """Replace the layers of a plain encoder on the CPU, in place, by such that serve all ``adapters``.

    precision  fp32 or bf16
    Raises WeightsError for an adapter that changes something of the encoder beside the matrices of its layers.
    """
    matrices = {f"layers.{index}.{name}" for index in range(len(encoder.layers)) for name in MATRICES}
    for adapter in adapters:
        _refuse_other_changes(adapter, matrices)

    def adapted(index: int, layer: Layer) -> AdaptedLayer:
        own: list[dict[str, LowRank]] = []
        for adapter in adapters:
            changes = {name: adapter.low_rank.get(f"layers.{index}.{name}") for name in MATRICES}
            own.append({name: change for name, change in changes.items() if change is not None})
            for name, change in own[-1].items():
                change.check(weight_of(layer, name), f"layers.{index}.{name}", adapter)
        return AdaptedLayer(layer, DTYPES[precision], own)

    replace_layers(encoder, adapted)


def _refuse_other_changes(adapter: Adapter, matrices: set[str]) -> None:
    """Raise WeightsError for a change of something else than these matrices of the encoder, or the adapter's head."""
    changed = [*(name for name in adapter.low_rank if name not in matrices), *adapter.replaced]
    other = [name for name in changed if not name.startswith(("head.", "classifier"))]
    if other:
        raise WeightsError(
            f"{adapter.folder} changes {other[0]}, which is no matrix of a layer here, and all adapters of a server "
            "share the rest: serve it as a model of its own"
        )
