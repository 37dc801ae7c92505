"""The encoder: embeddings, pre-norm layers, final norm, over packed documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmbert.model.attention import AttentionPlan, plan_attention
from mmbert.model.config import ModelConfig
from mmbert.model.init import init_weights, materialise
from mmbert.model.layers import Embeddings, Layer, PredictionHead, layer_norm
from mmbert.model.rope import Angles, angles
from mmbert.model.rope_parameters import Rope
from mmbert.model.weights import (
    check_size,
    cut_padding,
    fill,
    load_config,
    load_state,
    model_folder,
    save_model,
    take_encoder,
)
from mmbert.packed import Packed

EVEN = 128
"""Tokens of a batch come in multiples of so many where each number would be compiled for (``_evened``)."""


class Encoder(nn.Module):
    """ModernBERT without a head. Fresh weights are drawn from torch's global generator.

    ``gradient_checkpointing``: keep only the input of each layer for backward, and compute the layer again.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.linear_dtype: torch.dtype | None = None  # of the results of linear layers, if they were replaced
        self.adapter: int | None = None  # of texts whose batch does not say, if the layers have adapters
        with torch.device("meta"):
            self.embeddings = Embeddings(config)
            self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_layers))
            self.final_norm = layer_norm(config)
        if materialise(self):
            init_weights(self, config)

    @classmethod
    def load(cls, name: str | Path, *, revision: str | None = None) -> Encoder:
        """Load the encoder of a folder or hub model, with or without a head. Raises WeightsError."""
        folder = model_folder(name, revision=revision)
        return cls.from_state(load_config(folder), load_state(folder), str(folder))

    @classmethod
    def from_state(cls, config: ModelConfig, state: dict[str, Tensor], where: str, *, mapped: bool = False) -> Encoder:
        """Return the encoder of the tensors in ``state``, and take them out; those of a head stay.

        mapped  see :func:`mmbert.model.weights.fill`: for inference, which never writes to weights
        Raises WeightsError, which names ``where``, if they do not fit the config.
        """
        own = take_encoder(state)
        check_size(config, own, where)
        cut_padding(own, config.vocab_size)
        with torch.device("meta"):
            model = cls(config)
        fill(model, own, where, mapped=mapped)
        return model

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` of a ``ModernBertModel``."""
        save_model(self, self.config, "ModernBertModel", Path(folder))

    def forward(self, packed: Packed, mix: Sequence[float] | Tensor | None = None) -> Tensor:
        """Return the final hidden states (T, h) of a batch, in the order of ``packed.ids``; ``mix`` as in run."""
        return _restored(*self.run(_evened(packed), mix))[: packed.tokens]

    def forward_layers(self, packed: Packed, layers: Sequence[int]) -> list[Tensor]:
        """Return for each number of layers what a model of the first so many returns, (T, h), all from one pass."""
        exits = dict.fromkeys(layers, torch.empty(0))
        x, plan = self.run(_evened(packed), exits=exits)
        exits[self.config.num_layers] = x
        return [_restored(exits[count], plan)[: packed.tokens] for count in layers]

    def run(
        self, packed: Packed, mix: Sequence[float] | Tensor | None = None, exits: dict[int, Tensor] | None = None
    ) -> tuple[Tensor, AttentionPlan]:
        """Return the final hidden states in the plan's order, and the plan, for callers that need few rows.

        mix  weights of a sum over the ``hidden_states`` of transformers (num_layers + 1: embeddings, every layer but
             the last, the final norm's output), instead of the last alone. The sum is taken on the way, so it needs no
             more memory. A tensor of weights gets a gradient
        exits  numbers of layers, fewer than all: each gets the final norm's output behind so many layers
        """
        config, packed = self.config, packed.tensors(self.embeddings.tok_embeddings.weight.device)
        if self.adapter is not None and packed.adapters is None:
            packed = replace(packed, adapters=[self.adapter] * packed.sequences)
        plan = plan_attention(packed, config.window, self.compute_dtype(packed))
        cos_sin = self._angles(packed, plan)
        # The tokens are sorted once, here, so that no layer has to gather.
        x = self.embeddings(packed.ids if plan.order is None else packed.ids.index_select(0, plan.order))
        mixed = None
        for index, layer in enumerate(self.layers):
            # Before the layer: entry i of ``mix`` weighs the input of layer i, as hidden_states of transformers are
            # counted.
            if mix is not None:
                mixed = _add(mixed, x, mix[index])
            if exits is not None and index in exits:
                exits[index] = self.final_norm(x)
            rotary = cos_sin[config.rope(local=bool(layer.local))]
            if self.gradient_checkpointing and torch.is_grad_enabled():
                # The reentrant form gives no gradients unless its input has one, as below frozen embeddings.
                x = checkpoint(layer, x, plan, rotary, use_reentrant=False)
            else:
                x = layer(x, plan, rotary)
        x = self.final_norm(x)
        return (x if mix is None else _add(mixed, x, mix[-1])), plan

    def _angles(self, packed: Packed, plan: AttentionPlan) -> dict[Rope, Angles]:
        """Return the rotary angles of all positions, once for each kind of RoPE that the layers have."""
        config, lengths = self.config, None
        if config.longest_text > config.max_context:  # a dynamic scaling: each document has frequencies of its own
            lengths = torch.tensor(packed.lengths).repeat_interleave(torch.tensor(packed.lengths))
            lengths = lengths if plan.order is None else lengths.index_select(0, plan.order.cpu())
        return {
            rope: angles(plan.positions, config.head_dim, rope.theta, config.num_heads, rope.scaling, lengths)
            for rope in {config.rope(local=local) for local in (False, True)}
        }

    def compute_dtype(self, packed: Packed) -> torch.dtype:
        """Return the type of linear layers' results: autocast's, ``linear_dtype`` if set, or the weights'."""
        device = packed.ids.device.type
        if torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
        if self.linear_dtype is not None:
            return self.linear_dtype
        return self.final_norm.weight.dtype  # not the embedding's, which may be stored in 16 bits


def _evened(packed: Packed) -> Packed:
    """Return a batch with a text at its end that makes a multiple of ``EVEN`` tokens, where products are compiled anew.

    oneDNN compiles bf16 products for every number of rows, which in training is another one at every step.
    """
    more = -packed.tokens % EVEN
    if not more or not (torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")) or packed.adapters is not None:
        return packed
    given = packed.tensors(torch.device("cpu"))
    end = given.offsets.new_tensor([given.tokens + more])
    made = Packed(
        torch.cat([given.ids, given.ids.new_zeros(more)]), torch.cat([given.offsets, end]), max(given.longest, more)
    )
    made.__dict__["lengths"] = [*packed.lengths, more]  # fills the cached property
    return made


def _restored(x: Tensor, plan: AttentionPlan) -> Tensor:
    """Return rows in the order of the batch instead of the plan's."""
    return x if plan.inverse is None else _Permute.apply(x, plan.inverse, plan.order)  # type: ignore[no-untyped-call]


def _add(mixed: Tensor | None, x: Tensor, weight: float | Tensor) -> Tensor:
    """Return ``mixed`` plus ``weight`` times ``x``."""
    if mixed is None:
        return x * weight
    return torch.addcmul(mixed, x, weight) if isinstance(weight, Tensor) else torch.add(mixed, x, alpha=weight)


class _Permute(torch.autograd.Function):
    """Permutes rows. Its backward gathers by the inverse; index_select's own would scatter-add."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse), None, None


def compile_model(model: nn.Module, *, backend: str = "inductor") -> None:
    """Compile embedding + norm, each layer's norm + MLP, and the head, for any number of tokens.

    In place; names of weights do not change, and attention is not compiled. All layers share one compilation. It pays
    on CUDA; on a CPU the gain is within noise and the first step waits for the compiler.
    """
    for module in model.modules():
        if isinstance(module, Embeddings | PredictionHead):
            module.compile(dynamic=True, backend=backend)
        elif isinstance(module, Layer):
            module.compile_feed_forward(backend)
