"""How long a training step takes, from what it computes and moves.

A device does one thing after another: its time is the sum of

    matrices    products of the layers          FLOPs / (peak x reach.matrices)
    attention   global and local layers         the larger of FLOPs / (peak x reach.attention) and bytes / bandwidth
    head        head and decoder of labelled tokens, and the passes over their logits
    elements    norms, RoPE, GeGLU, residual, dropout, casts      bytes / (bandwidth x reach.memory)
    optimiser   bytes / (bandwidth x reach.memory)
    exchange    gradients between devices       2 (N - 1) / N x bytes / (bus x reach.links), after the last backward
    checkpoint  the loop's part of saving: its copy to the host

Beside it the host starts every operation (``launches``) and packs the next step in a thread (``loader``), and where
weights are sharded their exchange runs beside the products: the step takes as long as the slowest of them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import gcd
from typing import Literal

from mmbert.estimate.hardware import Machine
from mmbert.estimate.memory import LOSS_ROWS
from mmbert.estimate.traffic import Traffic
from mmbert.model.config import ModelConfig
from mmbert.model.count import flops_per_token, layer_matrices, parameters
from mmbert.recipe import Phase, Runtime

BACKWARD = 2.5
"""Attention's backward pass is five products where its forward is two: the scores are made again."""

LAUNCH = 16e-6
"""Seconds of one core to start one operation of the model from Python: modules, autocast, autograd, dispatcher.

Measured like the next one on a core of the CPU in the table of devices, in a busy hour: a quiet core is faster, a GPU's
driver comes on top (``python benchmarks/planning.py``)."""

OPTIMISER_LAUNCH = 3e-6
"""The same in the optimiser, which needs no autograd."""

OWN = (37e-9, 40e-6)
"""Seconds a token, and a block of one context, to make a rank's own micro-batches: drawn, packed, filled, masked.

From 13.2M tokens a second of a core at context 1,024 and 24.1M at 8,192 (``python benchmarks/data.py``)."""

OTHERS = (13e-9, 25e-6)
"""The same for micro-batches of all other ranks, which every rank lays out too: 27.2M and 63.9M tokens a second."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimiser step."""

    matrices: float
    attention: float
    head: float
    elementwise: float
    optimiser: float
    exchange: float
    checkpoint: float
    launches: float
    """On the host, while the device works."""
    loader: float
    """In the loader's thread, while the device works."""
    beside: bool = False
    """Whether ``exchange`` runs beside the device's other parts (FSDP), or after them (DDP)."""

    @property
    def parts(self) -> dict[str, float]:
        """All but what the host does, by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)[:-3]}

    @property
    def device(self) -> float:
        """What the device does one after another."""
        return sum(self.parts.values()) - (self.exchange if self.beside else 0.0)

    @property
    def seconds(self) -> float:
        """Of the step."""
        return max(self.device, self.launches, self.loader, self.exchange)

    @property
    def bottleneck(self) -> str:
        """What to fix first: what the device waits for, else the largest part of what it does."""
        waits = {"launches": self.launches, "loader": self.loader, "exchange": self.exchange}
        slowest = max(waits, key=waits.__getitem__)
        return slowest if waits[slowest] > self.device else max(self.parts, key=self.parts.__getitem__)


def step_time(
    config: ModelConfig, phase: Phase, runtime: Runtime, machine: Machine, batch: int, *, length: float | None = None
) -> StepTime:
    """The time of a step of ``batch`` tokens. ``length``: of documents; None: they fill the context.

    A step has ``batch / micro_batch`` micro-batches, and the devices wait for the one that has most of them.
    """
    length = min(length or phase.context, phase.context)
    precision: Literal["bf16", "fp32"] = "fp32" if runtime.precision == "fp32" else "bf16"
    traffic = Traffic(config, precision, machine.device.kind, compiled=runtime.compile)
    rounds = -(-batch // phase.micro_batch // machine.world)
    tokens = rounds * phase.micro_batch
    labels = phase.micro_batch * phase.mask_rate
    again = 1 if runtime.gradient_checkpointing else 0
    flops = flops_per_token(config, length, mask_rate=phase.mask_rate)
    utilisation, device = machine.parts, machine.device
    products = machine.peak(precision) * utilisation.matrices
    memory = device.bandwidth * utilisation.memory
    passes = sum((1 + again) * each.forward + each.backward for each in traffic.layer().values()) * config.num_layers
    labelled, ends = traffic.labelled(), traffic.ends()
    logits = (labelled.forward + labelled.backward) * labels
    whole = traffic.micro_batch(labels, LOSS_ROWS[device.kind])
    return StepTime(
        matrices=tokens * (3 + again) * flops.matrices / products,
        attention=tokens * _attention(config, length, machine, traffic, again),
        head=tokens * 3 * flops.head / products + rounds * logits / memory,
        elementwise=(tokens * (passes + ends.forward + ends.backward) + rounds * whole) / memory,
        optimiser=traffic.step(exchanged=machine.world > 1) / shards(runtime, machine) / memory,
        exchange=exchange_bytes(config, runtime, machine, rounds) / (machine.bus * utilisation.links),
        checkpoint=batch / runtime.checkpoint_every * copy_seconds(config, runtime, machine),
        launches=rounds * LAUNCH * traffic.launches(checkpointing=bool(again))
        + OPTIMISER_LAUNCH * traffic.optimiser_launches(),
        loader=_loader(phase, batch, min(tokens, batch)),
        beside=runtime.parallel == "fsdp",
    )


def _attention(config: ModelConfig, length: float, machine: Machine, traffic: Traffic, again: int) -> float:
    """Seconds a token, all layers. Local layers compute whole tiles of keys, of which a window shows some."""
    device, utilisation = machine.device, machine.parts
    # on a CPU attention runs in fp32 whatever the products of matrices are in (model/attention.py)
    peak = (device.fp32 if device.kind == "cpu" else machine.peak(traffic.precision)) * utilisation.attention
    moved = traffic.attention()
    least = ((1 + again) * moved.forward + moved.backward) / (device.bandwidth * utilisation.memory)
    seconds = 0.0
    for layer in range(config.num_layers):
        keys = length if config.is_global(layer) else min(length, device.tile + config.window)
        seconds += max((1 + again + BACKWARD) * 4 * config.hidden_size * keys / peak, least)
    return seconds


def _loader(phase: Phase, batch: int, own: int) -> float:
    """Seconds of one core for a step, of which ``own`` tokens are this rank's."""
    costs = ((own, OWN), (batch - own, OTHERS))
    return sum(tokens * (token + block / phase.context) for tokens, (token, block) in costs)


def shards(runtime: Runtime, machine: Machine) -> int:
    """Devices that weights, gradients and moments are spread over."""
    return machine.world if runtime.parallel == "fsdp" else 1


def exchange_bytes(config: ModelConfig, runtime: Runtime, machine: Machine, rounds: int) -> float:
    """Bytes that a device passes on in a step of ``rounds`` micro-batches.

    ddp   the gradients once a step, fp32, in a ring: to be added up, and their sum to be spread
    fsdp  in each micro-batch, fp32: layers are gathered for forward and again for backward, all else once, and the
          gradients are added up where they belong
    """
    number = parameters(config).masked_lm
    other = (machine.world - 1) / machine.world
    if runtime.parallel == "ddp":
        return 2 * other * 4 * number
    layers = config.num_layers * layer_matrices(config)
    return rounds * other * 4 * (layers + 2 * number)


def checkpoint_bytes(config: ModelConfig) -> int:
    """On disk: weights and two moments, fp32."""
    return 12 * parameters(config).masked_lm


def copy_seconds(config: ModelConfig, runtime: Runtime, machine: Machine) -> float:
    """What a checkpoint costs the loop: its copy to the host's memory. Files are written in a thread.

    Where weights are whole the first rank copies all, and the others wait for it.
    """
    way = machine.device.host or machine.device.bandwidth / 2
    return checkpoint_bytes(config) / shards(runtime, machine) / (way * machine.parts.links)


def better_micro_batch(phase: Phase, world: int) -> int | None:
    """The largest micro-batch, no larger than now, of which every device gets equally many; None if none is possible.

    It has to divide the batch's share of a device and the first batch of the warm-up, and to hold one full context.
    """
    if phase.batch % world:
        return None
    share = gcd(phase.batch // world, phase.batch_start or phase.batch)
    least = -(-share // phase.micro_batch)
    sizes = (share // parts for parts in range(least, share // phase.context + 1) if share % parts == 0)
    return next(sizes, None)


def model_flops(config: ModelConfig, phase: Phase, length: float | None = None) -> float:
    """Operations a token that training needs, nothing computed twice: what an MFU is measured by."""
    return flops_per_token(config, min(length or phase.context, phase.context), mask_rate=phase.mask_rate).training
