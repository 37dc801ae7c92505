"""The processes that train together: one, or those that ``torchrun`` started. The only reader of their environment.

with connect("auto") as mesh:           # Mesh(rank=0, world=1, device=cpu) without torchrun
    mesh.sum_gradients(model.parameters())
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from mmbert.errors import ConfigError, TrainingError

BUCKET = 1 << 25
"""Numbers summed over the ranks in one call: 128 MiB in fp32."""


@dataclass(frozen=True)
class Mesh:
    """This process among ``world``; with one process every operation is free."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009  (immutable)

    @property
    def main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def check(self, parallel: str) -> None:
        """Raises ConfigError for a way of sharing the work (``runtime.parallel``) that is not available."""
        if self.world > 1 and parallel != "ddp":
            raise ConfigError(f"runtime.parallel {parallel} is not available for {self.world} processes: use ddp")

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Sum over all ranks, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            dist.barrier()

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Give every rank the sum of all ranks' gradients; a missing one counts as zero."""
        if self.world == 1:
            return
        bucket: list[torch.nn.Parameter] = []
        size = 0
        for parameter in parameters:
            bucket.append(parameter)
            size += parameter.numel()
            if size >= BUCKET:
                self._sum_bucket(bucket)
                bucket, size = [], 0
        if bucket:
            self._sum_bucket(bucket)

    def _sum_bucket(self, parameters: list[torch.nn.Parameter]) -> None:
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = self.all_reduce_sum(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        parts: tuple[Tensor, ...] = torch.split(flat, [p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)


def is_main() -> bool:
    """Whether this process is the first of those that ``torchrun`` started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def connect(device: str) -> Iterator[Mesh]:
    """Join the processes of ``torchrun`` on ``device`` (``auto``, ``cpu`` or ``cuda``), and leave them at the end.

    Raises ConfigError if there is no such device, TrainingError if the other processes cannot be reached.
    """
    rank, world, local = (int(os.environ.get(name, default)) for name, default in _TORCHRUN)
    here = _device(device, local)
    joined = world > 1 and not dist.is_initialized()
    if joined:
        try:
            dist.init_process_group("nccl" if here.type == "cuda" else "gloo")
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise TrainingError(f"cannot join {world} processes: {reason}; start them with torchrun") from error
    try:
        yield Mesh(rank, world, here)
    finally:
        if joined:
            dist.destroy_process_group()


_TORCHRUN = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


def _device(wanted: str, local: int) -> torch.device:
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("runtime.device is cuda, and torch sees no CUDA device: use auto or cpu")
    count = torch.cuda.device_count()
    if local >= count:
        raise ConfigError(f"process {local} of this machine has no CUDA device of its own: start {count} processes")
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device
