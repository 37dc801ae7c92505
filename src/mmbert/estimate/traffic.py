"""Bytes that a training step moves through a device's memory beside its matrix products.

Counted from the code, pass by pass: a pass reads each of its inputs once and writes its output once (`4h + 2h`: reads h
numbers of fp32, writes h of bf16). A test runs the model and adds up what torch's operations touch. Products are left
out: they are counted in operations, and read little for what they compute.

Letters: h hidden size, I intermediate size, V vocabulary; ``m`` bytes of a number in matrices (2 in bf16), ``q`` in
queries, keys and values (as m on CUDA, 4 on a CPU). The residual stream and all gradients of weights are fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mmbert.model.config import ModelConfig
from mmbert.model.count import layer_matrices

OPTIMISER = 124
"""Bytes a parameter and step: StableAdamW's 13 passes (``training/optim.py``) and the norm of the gradients."""
PACKING = 8
"""Bytes a parameter and step to lay gradients end to end for an all-reduce."""
LAYER_LAUNCHES = (30, 46)
"""Operations that start work on the device, in one layer forward and backward, bf16; a test counts them."""
OPTIMISER_LAUNCHES = 20
"""The same for one tensor of weights in the optimiser."""
TENSORS_A_LAYER = 6
"""Wqkv, Wo, Wi, Wo and two norms."""


@dataclass(frozen=True)
class Traffic:
    """Bytes that a model of one shape moves, in one precision, on one kind of device.

    Methods that return an array give bytes a token (or labelled row): [forward, backward].
    """

    config: ModelConfig
    precision: str = "bf16"
    kind: Literal["cuda", "cpu"] = "cuda"
    compiled: bool = False
    """Whether norm and GeGLU of the feed-forward half are one pass each (``runtime.compile``)."""

    @property
    def m(self) -> int:
        return 2 if self.precision == "bf16" else 4

    @property
    def q(self) -> int:
        return 4 if self.kind == "cpu" else self.m

    def layer(self) -> np.ndarray:
        """Return the bytes of one layer but for its matrix products and attention."""
        h, i, m, q = self.config.hidden_size, self.config.intermediate_size, self.m, self.q
        to_m = _cast(4, m) * h
        norm = np.array([8 * h + to_m, 12 * h + to_m])  # x -> norm(x) -> as the matrix takes it; (dy, x) -> dx
        norms = norm + (np.array([(4 + m) * h, (m + 8) * h]) if self.compiled else norm)
        # gelu, product with the gate; the product's two gradients, gelu's, and the two halves laid side by side
        gate = np.array([3, 5] if self.compiled else [5, 13]) * m * i
        # queries and keys: to fp32, turned, to the kernel's type; values: a copy. A GPU multiplies halves by angles, a
        # CPU exchanges the halves and multiplies whole rows by angles as wide
        turn = 36 * h if self.kind == "cpu" else 20 * h + 8 * self.config.head_dim
        there, back = _cast(m, 4) + _cast(4, q), _cast(q, 4) + 4 + m
        rope = 2 * (np.array([there, back]) * h + turn) + (m + q) * h
        # twice x + part; backward casts the gradient for the part, and adds the part's own to the stream's
        residual = 2 * np.array([(4 + m + 4) * h, to_m + 12 * h])
        passes = norms + gate + rope + residual
        if self.config.attention_out_dropout:  # CUDA: one kernel, a mask of bytes; else a mask of numbers: draw, scale
            passes = passes + np.array([2 * m + 1, 2 * m + 1] if self.kind == "cuda" else [6 * m, 3 * m]) * h
        if self.kind == "cpu":  # groups of documents are parted and joined, the answer is cast
            passes = passes + np.array([2, 6]) * q * h + _cast(q, m) * h
        return np.asarray(passes)

    def attention(self) -> np.ndarray:
        """Return what attention itself reads and writes in one layer: q, k, v, out, and their gradients."""
        return np.array([4, 8]) * self.q * self.config.hidden_size

    def ends(self) -> np.ndarray:
        """Return the bytes of the embedding and its norm, the final norm, and gathering the labelled rows."""
        return np.array([8 + 8 + 8, 12 + 12 + 12 + 4]) * self.config.hidden_size

    def labelled(self) -> np.ndarray:
        """Return the bytes of head and loss, a labelled token. The loss computes its gradients in its forward pass."""
        v, m = self.config.vocab_size, self.m
        casts = 2 * _cast(4, m) + _cast(m, 4)
        head = np.array([8 + casts + 2 * m + 8, 8 + 12 + casts + 3 * m]) * self.config.hidden_size
        # logits to fp32; + bias; softmax; the largest of both; the sum over rows; back in their place, where a CPU's
        # softmax of fp32 leaves them
        back = 0 if self.kind == "cpu" and m == 4 else 4 + m
        return np.asarray(head + np.array([(_cast(m, 4) + 8 + 8 + 8 + 4 + back) * v, 0]))

    def micro_batch(self, labels: float, chunk: int) -> float:
        """Return the bytes of passes as large as the weights, in a micro-batch with ``labels`` labelled tokens."""
        h, m = self.config.hidden_size, self.m
        table, chunks = h * self.config.vocab_size, -(-labels // chunk)
        # each matrix: a copy in m, its gradient cast to fp32, and added to the one that is there
        matrices = (2 * _cast(4, m) + 12) * (self.config.num_layers * layer_matrices(self.config) + h * h)
        # the loss: zeros, its copy of the table, the sum over chunks, times the gradient of the loss
        loss = (4 + _cast(4, m) + 8) * table + (chunks * (8 + m) * table if m != 4 else 0.0)
        # the embedding's gradient: zeros; added to the loss's, and to what is there
        return matrices + loss + (4 + 12 + 12) * table


def _cast(before: int, after: int) -> int:
    """Bytes of one number read in one type and written in another; none if they are the same."""
    return 0 if before == after else before + after
