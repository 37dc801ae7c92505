"""Numbers of weights, and operations and memory per token, by arithmetic alone (no torch).

Letters: h hidden size, I intermediate size, V vocabulary, N layers, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmbert.model.config import ModelConfig


@dataclass(frozen=True)
class Parameters:
    """Numbers of weights. For mmBERT base, in the order below: 306,939,648, 110,331,648 and 307,786,240."""

    encoder: int
    """Embedding, layers and norms."""
    without_embeddings: int
    """The encoder but for its V x h token embedding."""
    masked_lm: int
    """The encoder with head and decoder bias; the decoder's matrix is the embedding, unless it is untied."""


def parameters(config: ModelConfig) -> Parameters:
    """Return the numbers of weights of a shape."""
    h = config.hidden_size
    norms = (1 + (config.num_layers - 1) + config.num_layers + 1) * h  # embedding, attention (not layer 0), MLP, final
    inner = config.num_layers * layer_matrices(config) + norms
    encoder = inner + config.vocab_size * h
    decoder = config.vocab_size * (1 if config.tied else 1 + h)
    return Parameters(encoder, inner, encoder + h * h + h + decoder)


def layer_matrices(config: ModelConfig) -> int:
    """Return the weights of one layer's four matrices: Wqkv 3 h^2, Wo h^2, Wi 2 I h, Wo I h."""
    h = config.hidden_size
    return 4 * h * h + 3 * config.intermediate_size * h


@dataclass(frozen=True)
class Flops:
    """Floating-point operations per token of a forward pass; a multiply-add counts as two."""

    matrices: float
    """The four matrices of every layer."""
    attention: float
    """Scores and weighted sums over the visible tokens."""
    head: float
    """Head and decoder, for the tokens that are predicted."""

    @property
    def forward(self) -> float:
        """One pass."""
        return self.matrices + self.attention + self.head

    @property
    def training(self) -> float:
        """Forward and backward: three forwards."""
        return 3 * self.forward


def flops_per_token(config: ModelConfig, length: float, *, mask_rate: float = 0.0) -> Flops:
    """Return the operations of matrix products and exact attention for documents of ``length`` tokens.

    ``mask_rate`` is the share of tokens that reach head and decoder; 0 is the encoder alone. Where lengths vary, global
    attention grows with their mean square: pass sum(length^2) / sum(length).
    """
    h = config.hidden_size
    keys = sum(
        length if config.is_global(i) else seen_in_window(length, config.window) for i in range(config.num_layers)
    )
    head = mask_rate * 2.0 * (h * h + h * config.vocab_size)
    return Flops(2.0 * config.num_layers * layer_matrices(config), 4.0 * h * keys, head)


def seen_in_window(length: float, window: int) -> float:
    """Return how many tokens a token of a local layer sees on average: window + 1, minus what the ends cut off."""
    half = window // 2
    if length - 1 <= half:
        return length
    one_side = half * (half + 1) / 2 + (length - 1 - half) * half  # sum of min(i, half) over i < length
    return 1 + 2 * one_side / length


def activation_bytes(config: ModelConfig, *, precision: Literal["bf16", "fp32"], device: Literal["cuda", "cpu"]) -> int:
    """Return the bytes that one layer keeps per token for backward."""
    h, linear = config.hidden_size, 2 if precision == "bf16" else 4
    attention = 4 if device == "cpu" else linear
    norms = 2 * (4 * h + linear * h + 8)  # input in fp32, output as the next matrix takes it, mean and deviation
    heads = 4 * attention * h + 4 * config.num_heads + linear * h  # q, k, v, output, log-sum-exp; output as Wo takes it
    mlp = 4 * linear * config.intermediate_size  # both branches, gelu of the first, their product
    dropout = h if config.attention_out_dropout else 0
    return norms + heads + mlp + dropout
