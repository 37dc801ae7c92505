"""How long a training step takes, from what it computes and moves.

A device does one thing after another: its time is the sum of

    matrices    products of the layers          FLOPs / (peak x reach.matrices)
    attention   global and local layers         the larger of FLOPs / (peak x reach.attention) and bytes / bandwidth
    head        head and decoder of labelled tokens, and the passes over their logits
    elements    norms, RoPE, GeGLU, residual, dropout, casts      bytes / (bandwidth x reach.memory)
    optimiser   bytes / (bandwidth x reach.memory)
    exchange    gradients between devices       2 (N - 1) / N x bytes / (bus x reach.links), while nothing else runs
    checkpoint  the loop's part of saving: its copy to the host

Beside it the host starts every operation (``launches``) and packs the next step in a thread (``loader``): the step takes
as long as the slowest of the three.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from mmbert.model.config import ModelConfig
from mmbert.model.count import flops_per_token, layer_matrices, parameters
from mmbert.planning.hardware import Machine
from mmbert.planning.memory import LOSS_ROWS
from mmbert.planning.traffic import Traffic
from mmbert.recipe import Phase, Runtime

BACKWARD = 2.5
"""Attention's backward pass is five products where its forward is two: the scores are made again."""

LAUNCH = 7e-6
"""Seconds of one core to start one operation from Python, autograd and dispatcher included, the driver's part not.
Measured on one core of the CPU in the table of devices: a step of ever fewer tokens, over its operations
(docs/scaling.md)."""

COMPOSE = 60e6
"""Tokens a second that a process lays out and counts labels in for all ranks (docs/scaling.md)."""

ASSEMBLE = 10e6
"""Tokens a second of its own micro-batches that a process fills and masks (docs/scaling.md)."""


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimiser step."""

    matrices: float
    attention: float
    head: float
    elements: float
    optimiser: float
    exchange: float
    checkpoint: float
    launches: float
    """On the host, while the device works."""
    loader: float
    """In the loader's thread, while the device works."""

    @property
    def parts(self) -> dict[str, float]:
        """What the device does, by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)[:-2]}

    @property
    def device(self) -> float:
        """All the device does."""
        return sum(self.parts.values())

    @property
    def seconds(self) -> float:
        """Of the step."""
        return max(self.device, self.launches, self.loader)

    @property
    def binds(self) -> str:
        """What to mend first: the loader or the host if the device waits for it, else the device's largest part."""
        if self.seconds > self.device:
            return "loader" if self.loader > self.launches else "launches"
        return max(self.parts, key=self.parts.__getitem__)


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
    reach, device = machine.parts, machine.device
    products = machine.peak(precision) * reach.matrices
    memory = device.bandwidth * reach.memory
    passes = sum((1 + again) * each.forward + each.backward for each in traffic.layer().values()) * config.num_layers
    labelled, ends = traffic.labelled(), traffic.ends()
    logits = (labelled.forward + labelled.backward) * labels
    whole = traffic.micro_batch(labels, LOSS_ROWS[device.kind])
    launched = rounds * traffic.launches(checkpointing=bool(again)) + traffic.optimiser_launches()
    return StepTime(
        matrices=tokens * (3 + again) * flops.matrices / products,
        attention=tokens * _attention(config, length, machine, traffic, again),
        head=tokens * 3 * flops.head / products + rounds * logits / memory,
        elements=(tokens * (passes + ends.forward + ends.backward) + rounds * whole) / memory,
        optimiser=traffic.step(exchanged=machine.world > 1) / shards(runtime, machine) / memory,
        exchange=exchange_bytes(config, runtime, machine, rounds) / (machine.bus * reach.links),
        checkpoint=batch / runtime.checkpoint_every * copy_seconds(config, runtime, machine),
        launches=LAUNCH * launched,
        loader=batch / COMPOSE + tokens / ASSEMBLE,
    )


def _attention(config: ModelConfig, length: float, machine: Machine, traffic: Traffic, again: int) -> float:
    """Seconds a token, all layers. Local layers compute whole tiles of keys, of which a window shows some."""
    device, reach = machine.device, machine.parts
    # on a CPU attention runs in fp32 whatever the products of matrices are in (model/attention.py)
    peak = (device.fp32 if device.kind == "cpu" else machine.peak(traffic.precision)) * reach.attention
    moved = traffic.attention()
    least = ((1 + again) * moved.forward + moved.backward) / (device.bandwidth * reach.memory)
    seconds = 0.0
    for layer in range(config.num_layers):
        keys = length if config.is_global(layer) else min(length, device.tile + config.window)
        seconds += max((1 + again + BACKWARD) * 4 * config.hidden_size * keys / peak, least)
    return seconds


def shards(runtime: Runtime, machine: Machine) -> int:
    """Devices that weights, gradients and moments are spread over."""
    return machine.world if runtime.parallel == "fsdp" else 1


def exchange_bytes(config: ModelConfig, runtime: Runtime, machine: Machine, rounds: int) -> float:
    """Bytes that a device passes on in a step of ``rounds`` micro-batches.

    ddp   the gradients once a step, fp32, in a ring: to be added up, and their sum to be spread
    fsdp  in each micro-batch the weights are gathered for forward and again for backward, and gradients are spread
    """
    number = parameters(config).masked_lm
    other = (machine.world - 1) / machine.world
    if runtime.parallel == "ddp":
        return 2 * other * 4 * number
    matrices = config.num_layers * layer_matrices(config)
    gathered = (2 if runtime.precision != "fp32" else 4) * matrices
    return rounds * other * (2 * gathered + 4 * (number - matrices) + 4 * number)


def checkpoint_bytes(config: ModelConfig) -> int:
    """On disk: weights and two moments, fp32."""
    return 12 * parameters(config).masked_lm


def copy_seconds(config: ModelConfig, runtime: Runtime, machine: Machine) -> float:
    """What a checkpoint costs the loop: its copy to the host's memory; files are written in a thread."""
    way = machine.device.host or machine.device.bandwidth / 2
    return checkpoint_bytes(config) / shards(runtime, machine) / (way * machine.parts.links)


def model_flops(config: ModelConfig, phase: Phase, length: float | None = None) -> float:
    """Operations a token that training needs, nothing computed twice: what an MFU is measured by."""
    return flops_per_token(config, min(length or phase.context, phase.context), mask_rate=phase.mask_rate).training
