"""Memory of one device while it trains, by what holds it."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Literal

from mmbert.model.config import ModelConfig
from mmbert.model.count import activation_bytes, layer_matrices, parameters

LOSS_ROWS = {"cuda": 4096, "cpu": 512}
"""Rows of logits that exist at a time (``training/loss.py``)."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on one device at the worst moment. Allocator slack and the framework itself are not counted."""

    weights: int
    """fp32."""
    gradients: int
    """fp32."""
    moments: int
    """Two, fp32."""
    copies: int
    """Matrices in the type of their products, and with sharding those that are gathered for the moment."""
    activations: int
    """What backward needs of one micro-batch."""
    transient: int
    """What one moment takes beside them: the loss its logits and its gradient of the token table; or, less
    the activations that are gone by then, the end of the backward pass three such tables."""

    @property
    def total(self) -> int:
        return sum(astuple(self))


def training_memory(
    config: ModelConfig,
    *,
    tokens: int,
    mask_rate: float,
    precision: Literal["bf16", "fp32"] = "bf16",
    checkpointing: bool = False,
    device: Literal["cuda", "cpu"] = "cuda",
    shards: int = 1,
) -> TrainingMemory:
    """Return the memory that a device needs for micro-batches of ``tokens``.

    shards  devices that weights, gradients and moments are spread over (FSDP); 1: all are here (DDP)
    """
    number, h = parameters(config).masked_lm, config.hidden_size
    linear = 2 if precision == "bf16" else 4
    table = 4 * h * config.vocab_size
    matrices = config.num_layers * layer_matrices(config) + h * h
    copies = linear * matrices if precision == "bf16" else 0
    if shards > 1:  # in fp32: one layer at a time is gathered, the next one is on its way, and what is no layer stays
        copies += 4 * (2 * layer_matrices(config) + number - config.num_layers * layer_matrices(config))
    per_layer = activation_bytes(config, precision=precision, device=device)
    layers = (config.num_layers * 4 * h + per_layer) if checkpointing else config.num_layers * per_layer
    ends = 8 * h + 4 * h  # ids and embedding norm, final norm
    head = mask_rate * h * (4 + 3 * linear + 4)
    activations = int(tokens * (layers + ends + head))
    rows = int(min(LOSS_ROWS[device], tokens * mask_rate))
    # a chunk's logits, on a GPU twice more in fp32; the loss's gradient of the table; in bf16 its copy
    loss = (linear + (8 if device == "cuda" else 0)) * rows * config.vocab_size + table
    loss += table // 2 if precision == "bf16" else 0
    # the loss's and the embedding's gradient of the table, and their sum; the optimiser's two are less
    later = 3 * table - activations
    return TrainingMemory(
        weights=4 * number // shards,
        gradients=4 * number // shards,
        moments=8 * number // shards,
        copies=copies,
        activations=activations,
        transient=max(loss, later),
    )
