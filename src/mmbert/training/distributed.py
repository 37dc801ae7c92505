"""The processes that train together: one, or those that ``torchrun`` started.

with connect("auto") as mesh:           # Mesh(rank=0, world=1, device=cpu) without torchrun
    mesh.sum_gradients(model.parameters())

There are two ways to share the work. ``ddp``: every rank holds all weights, and gradients are summed. ``fsdp``: every
rank holds a shard of each tensor (torch's FSDP2); a layer is gathered when it is needed and its gradient is scattered.
In both a gradient is the sum over ranks, never the mean: the loss is already divided by the labels of all ranks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mmbert.errors import ConfigError, MMBertError, TrainingError, first_line
from mmbert.files import environment, world_size

T = TypeVar("T")
Parallel = Literal["ddp", "fsdp"]

BUCKET = 1 << 25
"""Numbers summed over the ranks in one call: 128 MiB in fp32."""
PATIENCE = timedelta(hours=24)
"""How long ranks wait for work that only the first one does: reading all shards, an evaluation, a slow disk. A rank
that dies is noticed at once, by its closed connection."""


@dataclass(frozen=True)
class Mesh:
    """This process among ``world``; with one process every operation is free."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009  (immutable)
    parallel: Parallel = "ddp"
    host_group: dist.ProcessGroup | None = field(default=None, compare=False)
    """The same ranks over gloo, for work of the first one and for the thread that writes checkpoints."""

    @property
    def main(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        """Whether each rank holds a part of every tensor."""
        return self.parallel == "fsdp" and self.world > 1

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Sum over all ranks, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is true on some rank, over the host group: the accelerator's queue is not stopped."""
        if self.world == 1:
            return flag
        # A tensor of the CPU goes over gloo (see ``connect``), so the accelerator is not waited for.
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            # The host group waits for hours; the default group would end the run after ``timeout``.
            dist.barrier(self.host_group)

    def run_on_main(self, work: Callable[[], T]) -> T:
        """Do ``work`` on the main process and return its result on all, which wait. An error there ends all ranks."""
        if self.world == 1:
            return work()
        said: list[Any] = [None, None]
        failed: MMBertError | None = None
        if self.main:
            try:
                said[0] = work()
            except MMBertError as error:
                failed, said[1] = error, str(error)
        dist.broadcast_object_list(said, group=self.host_group)
        # the other ranks raise too: a rank that went on alone would wait for the others until the timeout
        if said[1] is not None:
            raise failed or TrainingError(f"process 0 stopped: {said[1]}")
        result: T = said[0]
        return result

    def shard(self, model: nn.Module, layers: Iterable[nn.Module], forward: str) -> None:
        """Leave each rank its part of every tensor of ``model``, in place; names stay. Nothing for ``ddp``.

        layers   gathered and freed one by one; what is outside of them is kept from a forward pass to its backward
        forward  the method of ``model`` that is called instead of ``forward``
        Weights are gathered in fp32, as autocast wants them, and gradients are summed in fp32.
        """
        if not self.sharded:
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        ranks = init_device_mesh(self.device.type, (self.world,))
        for part in layers:
            _sum_not_mean(fully_shard(part, mesh=ranks))
        _sum_not_mean(fully_shard(model, mesh=ranks, reshard_after_forward=False))
        register_fsdp_forward_method(model, forward)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every rank the sum of all ranks' gradients; a missing one counts as zero. Sharded ones are sums."""
        if self.world == 1 or self.sharded:
            return
        # Buckets bound the memory of the flat copy and spare a call for each of hundreds of small tensors.
        bucket: list[nn.Parameter] = []
        size = 0
        for parameter in parameters:
            bucket.append(parameter)
            size += parameter.numel()
            if size >= BUCKET:
                self._sum_bucket(bucket)
                bucket, size = [], 0
        if bucket:
            self._sum_bucket(bucket)

    def _sum_bucket(self, parameters: list[nn.Parameter]) -> None:
        # A parameter may lack a gradient on one rank only (a micro-batch without labels); all ranks must sum alike.
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        # Every rank sums the same tensors in the same order: another order would exchange unlike gradients, silently.
        flat = self.all_reduce_sum(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        # ``split`` gives views of one buffer, so no gradient is copied back
        parts: tuple[Tensor, ...] = torch.split(flat, [p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)


def pick_device(wanted: str, option: str) -> str:
    """Return ``cpu`` or ``cuda`` for ``auto`` or either. Raises ConfigError naming ``option`` if there is no CUDA."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{option} is cuda, and torch sees no CUDA device: use auto or cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def is_sharded(tensor: Any) -> bool:
    """Return whether it is a DTensor, without importing their package."""
    return hasattr(tensor, "device_mesh")


def part_of(tensor: Tensor) -> Tensor:
    """Return this rank's part of a sharded tensor, else the tensor."""
    part: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return part


def sum_over_parts(numbers: list[Tensor], sharded: Tensor) -> list[Tensor]:
    """Return scalars summed over the ranks that ``sharded`` is spread over; unchanged if it is whole."""
    if not is_sharded(sharded):
        return numbers
    total = torch.stack(numbers)
    dist.all_reduce(total, group=sharded.device_mesh.get_group())  # type: ignore[attr-defined]
    return list(total.unbind())


@contextmanager
def connect(device: str, parallel: Parallel = "ddp", timeout: float = 600.0) -> Iterator[Mesh]:
    """Join the processes of ``torchrun`` on ``device`` (``auto``, ``cpu`` or ``cuda``), and leave them at the end.

    parallel  how they share the work
    timeout   seconds until a process that does not answer counts as lost
    Raises ConfigError if there is no such device, TrainingError if the others cannot be reached, or later are lost.
    """
    rank, world, local = int(environment("RANK") or 0), world_size(), int(environment("LOCAL_RANK") or 0)
    here = _device(device, local)
    joined = world > 1 and not dist.is_initialized()
    try:
        if joined:
            # Both backends: what the host decides (stop? all there?) must not wait for the accelerator's queue.
            backend = "cpu:gloo,cuda:nccl" if here.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
        host_group = dist.new_group(backend="gloo", timeout=PATIENCE) if world > 1 else None
    except (RuntimeError, ValueError) as error:
        raise TrainingError(f"cannot join {world} processes: {_reason(error)}; start them with torchrun") from error
    try:
        yield Mesh(rank, world, here, parallel, host_group)
    except RuntimeError as error:
        if world == 1 or not is_lost(error):
            raise
        # Only errors of collectives are translated; a RuntimeError of one's own keeps its traceback.
        raise lost(rank, world, error) from error
    finally:
        if joined:
            dist.destroy_process_group()


def is_lost(error: BaseException) -> bool:
    """Return whether an error of a collective operation means that another process died or does not answer."""
    text = str(error)
    return isinstance(error, dist.DistError) or any(sign in text for sign in _SIGNS)


def lost(rank: int, world: int, error: BaseException) -> TrainingError:
    """Return such an error in one line."""
    return TrainingError(
        f"process {rank} lost another of the {world}: it died or hangs ({_reason(error)}); that process's "
        "log says why; the same command resumes from the last checkpoint"
    )


_SIGNS = ("gloo", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "Timed out waiting")
"""In messages of errors that are plain RuntimeErrors."""


def _reason(error: BaseException) -> str:
    """Return the first line of a message, without torch's source location at its beginning."""
    return re.sub(r"^\[[^]]*\] *", "", first_line(error))


def _sum_not_mean(module: Any) -> None:
    module.set_gradient_divide_factor(1.0)
    module.set_force_sum_reduction_for_comms(True)  # gloo knows no sum of scaled numbers


def _device(wanted: str, local: int) -> torch.device:
    if pick_device(wanted, "runtime.device") == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if local >= count:
        raise ConfigError(f"process {local} of this machine has no CUDA device of its own: start {count} processes")
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device
