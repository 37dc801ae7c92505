"""``mmbert`` commands in several processes, as ``torchrun`` starts them, or in one that is to be treated badly.

The processes come from a fork server that has imported torch once: a command starts in a blink, and is a process like
any other, with its own exit code, messages and signals.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

LIMIT = 120.0
"""Seconds until processes that do not get anywhere fail the test."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "mmbert.training.pretrain",
        "mmbert.cli.main",
        "torch._dynamo",
        "torch.distributed.fsdp",
        "torch.utils.tensorboard",
    ]
)


class Ranks:
    """``mmbert *words`` in ``world`` processes; what they say goes to files in ``folder``."""

    def __init__(self, words: Sequence[str], folder: Path, world: int = 1, *, largest_file: int | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        folder.mkdir(parents=True, exist_ok=True)
        self.said = [folder / f"{rank}.txt" for rank in range(world)]
        self.processes = [
            _context.Process(target=_run, args=(list(words), rank, world, port, self.said[rank], largest_file))
            for rank in range(world)
        ]
        for process in self.processes:
            process.start()

    def wait(self) -> list[int | None]:
        """Exit codes, when all have ended."""
        end = time.monotonic() + LIMIT
        for process in self.processes:
            process.join(max(0.1, end - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
        return codes

    def signal(self, rank: int, what: signal.Signals, when: Callable[[], bool], delay: float = 0.0) -> None:
        """Send a signal to one rank, ``delay`` seconds after ``when`` holds."""
        end = time.monotonic() + LIMIT
        while not when():
            assert all(process.is_alive() for process in self.processes), self.words()
            assert time.monotonic() < end, "nothing happened"
            time.sleep(0.001)
        time.sleep(delay)
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, what)

    def words(self) -> list[str]:
        """What each rank said."""
        return [path.read_text(encoding="utf-8") for path in self.said]


def _run(words: list[str], rank: int, world: int, port: int, said: Path, largest_file: int | None) -> None:
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in place.items()}, MASTER_ADDR="127.0.0.1", MMBERT_QUIET="1")
    if largest_file is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does: an OSError instead
    sys.argv = ["mmbert", *words]
    from mmbert.cli.main import main

    main()
