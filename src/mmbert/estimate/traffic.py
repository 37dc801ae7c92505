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

from mmbert.model.config import ModelConfig
from mmbert.model.count import layer_matrices, parameters

Kind = Literal["cuda", "cpu"]

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
class Passes:
    """Bytes a token, or a row."""

    forward: float = 0.0
    backward: float = 0.0

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.forward + other.forward, self.backward + other.backward)


@dataclass(frozen=True)
class Traffic:
    """Of one shape, in one precision, on one kind of device."""

    config: ModelConfig
    precision: str = "bf16"
    kind: Kind = "cuda"
    compiled: bool = False
    """Whether norm and GeGLU of the feed-forward half are one pass each (``runtime.compile``)."""

    @property
    def number(self) -> int:
        """m."""
        return 2 if self.precision == "bf16" else 4

    @property
    def head_number(self) -> int:
        """q."""
        return 4 if self.kind == "cpu" else self.number

    def layer(self) -> dict[str, Passes]:
        """By part, bytes a token of one layer."""
        h, i, m, q = self.config.hidden_size, self.config.intermediate_size, self.number, self.head_number
        to_m = _cast(4, m) * h
        norm = Passes(8 * h + to_m, 12 * h + to_m)  # x -> norm(x) -> as the matrix takes it; (dy, x) -> dx
        fused_norm = Passes((4 + m) * h, (m + 8) * h)
        # gelu, product with the gate; the product's two gradients, gelu's, and the two halves laid side by side
        gate = Passes(3 * m * i, 5 * m * i) if self.compiled else Passes(5 * m * i, 13 * m * i)
        # queries and keys: to fp32, turned, to the kernel's type; values: a copy. A GPU multiplies halves by angles, a
        # CPU exchanges the halves and multiplies whole rows by angles as wide
        turn = 36 * h if self.kind == "cpu" else 20 * h + 8 * self.config.head_dim
        rope = Passes(
            2 * (_cast(m, 4) * h + turn + _cast(4, q) * h) + (m + q) * h,
            2 * (_cast(q, 4) * h + turn + (4 + m) * h) + (q + m) * h,
        )
        # x + part; backward casts the gradient for the part, and adds the part's own to the stream's
        add = Passes((4 + m + 4) * h, to_m + 12 * h)
        parts = {
            "norms": norm + (fused_norm if self.compiled else norm),
            "rope": rope,
            "geglu": gate,
            "residual": add + add,
            "dropout": self._dropout(),
        }
        if self.kind == "cpu":  # groups of documents are parted and joined, the answer is cast
            cast = _cast(q, m) * h
            parts["groups"] = Passes(2 * q * h + cast, 6 * q * h + cast)
        return parts

    def _dropout(self) -> Passes:
        if not self.config.attention_out_dropout:
            return Passes()
        h, m = self.config.hidden_size, self.number
        if self.kind == "cuda":  # one kernel, a mask of bytes
            return Passes((2 * m + 1) * h, (2 * m + 1) * h)
        return Passes(6 * m * h, 3 * m * h)  # a mask of numbers is drawn, scaled, multiplied

    def attention(self) -> Passes:
        """What attention itself reads and writes, bytes a token of one layer: q, k, v, out, and their gradients."""
        q = self.head_number * self.config.hidden_size
        return Passes(4 * q, 8 * q)

    def ends(self) -> Passes:
        """Embedding and its norm, final norm, and gathering the labelled rows; bytes a token."""
        h = self.config.hidden_size
        return Passes((8 + 8 + 8) * h, (12 + 12 + 12 + 4) * h)

    def labelled(self, *, loss: bool = True) -> Passes:
        """Head and loss, bytes a labelled token. The loss makes its gradients in its forward pass."""
        h, v, m = self.config.hidden_size, self.config.vocab_size, self.number
        head = Passes(
            (8 + 2 * _cast(4, m) + 2 * m + _cast(m, 4) + 8) * h, (8 + 12 + 2 * _cast(4, m) + _cast(m, 4) + 3 * m) * h
        )
        # logits to fp32; + bias; softmax; the largest of both; the sum over rows; back in their place
        logits = (_cast(m, 4) + 8 + 8 + 8 + 4 + 4 + m) * v
        return head + Passes(logits if loss else 0.0)

    def micro_batch(self, labels: float, chunk: int) -> float:
        """Bytes a micro-batch of ``labels`` labelled tokens, whatever its length: what is as large as the weights."""
        h, v, m = self.config.hidden_size, self.config.vocab_size, self.number
        table, chunks = h * v, -(-labels // chunk)
        # each matrix: a copy in m, its gradient cast to fp32, and added to the one that is there
        matrices = (2 * _cast(4, m) + 12) * (self.config.num_layers * layer_matrices(self.config) + h * h)
        # the loss: zeros, its copy of the table, the sum over chunks, times the gradient of the loss
        loss = (4 + _cast(4, m) + 8) * table + (chunks * (8 + m) * table if m != 4 else 0.0)
        # the embedding's gradient: zeros; added to the loss's, and to what is there
        return matrices + loss + (4 + 12 + 12) * table

    def step(self, *, exchanged: bool) -> float:
        """Bytes an optimiser step."""
        return (OPTIMISER + (PACKING if exchanged else 0)) * float(parameters(self.config).masked_lm)

    def launches(self, *, checkpointing: bool) -> float:
        """Operations of a micro-batch that the host has to start."""
        forward, backward = LAYER_LAUNCHES
        return self.config.num_layers * float(forward * (2 if checkpointing else 1) + backward)

    def optimiser_launches(self) -> float:
        """Operations of an optimiser step that the host has to start."""
        return OPTIMISER_LAUNCHES * (TENSORS_A_LAYER * self.config.num_layers + 6)


def _cast(before: int, after: int) -> int:
    """Bytes of one number read in one type and written in another; none if they are the same."""
    return 0 if before == after else before + after
