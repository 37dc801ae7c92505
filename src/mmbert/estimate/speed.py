"""How long a training step takes, from what it computes and moves.

A device does one thing after another: its time is the sum of

    matrices     products of the layers         FLOPs / (peak x utilisation.matrices)
    attention    global and local layers        FLOPs / (peak x utilisation.attention), or bytes / bandwidth if larger
    head         head and decoder of labelled tokens, and the passes over their logits
    elementwise  norms, RoPE, GeGLU, residual, dropout, casts     bytes / (bandwidth x utilisation.memory)
    optimiser    bytes / (bandwidth x utilisation.memory)
    exchange     gradients between devices      2 (N - 1) / N x bytes / (bus x utilisation.links), after backward
    checkpoint   the loop's part of saving: its copy to the host

Beside it the host starts every operation (``launches``) and packs the next step in a thread (``loader``), and where
weights are sharded their exchange runs beside the products: the step takes as long as the slowest of them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import gcd
from typing import Literal

from mmbert.estimate.hardware import Machine
from mmbert.estimate.memory import LOSS_ROWS
from mmbert.estimate.traffic import LAYER_LAUNCHES, OPTIMISER, OPTIMISER_LAUNCHES, PACKING, TENSORS_A_LAYER, Traffic
from mmbert.model.config import ModelConfig
from mmbert.model.count import flops_per_token, layer_matrices, parameters
from mmbert.recipe import Phase, Runtime

BACKWARD = 2.5
"""Attention's backward pass is five products where its forward is two: the scores are computed again."""
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
        return max(self.device, self.launches, self.loader, self.exchange)

    @property
    def bottleneck(self) -> str:
        """What to improve first: what the device waits for, else the largest part of what it does."""
        waits = {"launches": self.launches, "loader": self.loader, "exchange": self.exchange}
        slowest = max(waits, key=waits.__getitem__)
        return slowest if waits[slowest] > self.device else max(self.parts, key=self.parts.__getitem__)


def step_time(
    config: ModelConfig, phase: Phase, runtime: Runtime, machine: Machine, batch: int, *, length: float | None = None
) -> StepTime:
    """Return the time of a step of ``batch`` tokens. ``length``: of documents; None: they fill the context.

    A step has ``batch / micro_batch`` micro-batches, and the devices wait for the one that has most of them.
    """
    length = min(length or phase.context, phase.context)
    precision: Literal["bf16", "fp32"] = "fp32" if runtime.precision == "fp32" else "bf16"
    utilisation, device, layers = machine.parts, machine.device, config.num_layers
    traffic = Traffic(config, precision, device.kind, compiled=runtime.compile)
    rounds = -(-batch // phase.micro_batch // machine.world)
    tokens = rounds * phase.micro_batch
    labels = phase.micro_batch * phase.mask_rate
    again = int(runtime.gradient_checkpointing)  # layers are computed forward once more
    flops = flops_per_token(config, length, mask_rate=phase.mask_rate)
    products = machine.peak(precision) * utilisation.matrices
    memory = device.bandwidth * utilisation.memory
    forward, backward = traffic.layer()
    passes = layers * ((1 + again) * forward + backward) + traffic.ends().sum()
    optimised = (OPTIMISER + (PACKING if machine.world > 1 else 0)) * parameters(config).masked_lm
    own = min(tokens, batch)
    return StepTime(
        matrices=tokens * (3 + again) * flops.matrices / products,
        attention=tokens * attention_seconds(config, length, machine, traffic, forwards=1 + again, backward=True),
        head=tokens * 3 * flops.head / products + rounds * labels * float(traffic.labelled().sum()) / memory,
        elementwise=float(tokens * passes + rounds * traffic.micro_batch(labels, LOSS_ROWS[device.kind])) / memory,
        optimiser=optimised / shards(runtime, machine) / memory,
        exchange=exchange_bytes(config, runtime, machine, rounds) / (machine.bus * utilisation.links),
        checkpoint=batch / runtime.checkpoint_every * copy_seconds(config, runtime, machine),
        launches=rounds * LAUNCH * layers * ((1 + again) * LAYER_LAUNCHES[0] + LAYER_LAUNCHES[1])
        + OPTIMISER_LAUNCH * OPTIMISER_LAUNCHES * (TENSORS_A_LAYER * layers + 6),
        loader=sum(
            part * (token + block / phase.context) for part, (token, block) in ((own, OWN), (batch - own, OTHERS))
        ),
        beside=runtime.parallel == "fsdp",
    )


def attention_seconds(
    config: ModelConfig, length: float, machine: Machine, traffic: Traffic, *, forwards: int = 1, backward: bool = False
) -> float:
    """Return seconds a token, all layers. Local layers compute whole tiles of keys, of which a window shows some."""
    device, utilisation = machine.device, machine.parts
    # on a CPU attention runs in fp32 whatever the products of matrices are in (model/attention.py)
    peak = (device.fp32 if device.kind == "cpu" else machine.peak(traffic.precision)) * utilisation.attention
    there, back = traffic.attention()
    least = float(forwards * there + backward * back) / (device.bandwidth * utilisation.memory)
    seconds = 0.0
    for layer in range(config.num_layers):
        keys = length if config.is_global(layer) else min(length, device.tile + config.window)
        seconds += max((forwards + backward * BACKWARD) * 4 * config.hidden_size * keys / peak, least)
    return seconds


def shards(runtime: Runtime, machine: Machine) -> int:
    """Return the number of devices that weights, gradients and moments are spread over."""
    return machine.world if runtime.parallel == "fsdp" else 1


def exchange_bytes(config: ModelConfig, runtime: Runtime, machine: Machine, rounds: int) -> float:
    """Return the bytes that a device passes on in a step of ``rounds`` micro-batches.

    ddp   the gradients once a step, fp32, in a ring: to be added up, and their sum to be spread
    fsdp  in each micro-batch, fp32: layers are gathered for forward and again for backward, all else once, and the
          gradients are added up where they belong
    """
    number = parameters(config).masked_lm
    other = (machine.world - 1) / machine.world
    if runtime.parallel == "ddp":
        return 2 * other * 4 * number
    return rounds * other * 4 * (config.num_layers * layer_matrices(config) + 2 * number)


def checkpoint_bytes(config: ModelConfig) -> int:
    """Return the size of a checkpoint on disk: weights and two moments, fp32."""
    return 12 * parameters(config).masked_lm


def copy_seconds(config: ModelConfig, runtime: Runtime, machine: Machine) -> float:
    """Return what a checkpoint costs the loop: its copy to the host's memory. Files are written in a thread.

    Where weights are whole the first rank copies all, and the others wait for it.
    """
    way = machine.device.host or machine.device.bandwidth / 2
    return checkpoint_bytes(config) / shards(runtime, machine) / (way * machine.parts.links)


def better_micro_batch(phase: Phase, world: int) -> int | None:
    """Return the largest micro-batch, no larger than now, of which every device gets equally many; None if none is.

    It has to divide the batch's share of a device and the first batch of the warm-up, and to hold one full context.
    """
    if phase.batch % world:
        return None
    share = gcd(phase.batch // world, phase.batch_start or phase.batch)
    least = -(-share // phase.micro_batch)
    sizes = (share // parts for parts in range(least, share // phase.context + 1) if share % parts == 0)
    return next(sizes, None)
