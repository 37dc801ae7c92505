"""One of two processes dies or hangs, under ``torchrun`` and without it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from trial import LIMIT, Ended, Row, Trial, lines

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mmbert"]
WITHIN = 60.0
"""Seconds in which the others must have ended."""


def ranks(trial: Trial) -> list[Row]:
    """SIGKILL or SIGSTOP to the second process in the middle of a phase."""
    dead = [_by_hand(trial, parallel, signal.SIGKILL) for parallel in ("ddp", "fsdp")]
    return [*dead, _by_hand(trial, "ddp", signal.SIGSTOP, "runtime.timeout=5"), _torchrun(trial)]


def _options(trial: Trial, folder: Path, parallel: str) -> list[str]:
    options = ["pretrain", str(trial.home / "recipe.yaml"), f"runtime.parallel={parallel}"]
    return [*options, *trial.data(), "--out", str(folder)]


def _torchrun(trial: Trial) -> Row:
    folder, began = trial.home / "ranks", time.monotonic()
    process = trial.start([*TORCHRUN, *_options(trial, folder, "ddp")])
    _wait(process, folder)
    os.kill(_rank(process.pid, "1"), signal.SIGKILL)
    ended = trial.end(process, time.monotonic())
    again = trial.do("pretrain", folder, *trial.data())
    happened = f"torchrun ended after {ended.seconds:.1f} s with exit code {ended.code}; {_resumed(again)}"
    held = ended.code != 0 and ended.seconds < WITHIN and again.code == 0
    shutil.rmtree(folder)
    return Row("a rank dies", "`kill -9` to one of two under torchrun", happened, time.monotonic() - began, held)


def _by_hand(trial: Trial, parallel: str, harm: signal.Signals, *more: str) -> Row:
    """Nobody watches the processes: each has to notice by itself."""
    folder, began = trial.home / "ranks", time.monotonic()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    command = [sys.executable, "-m", "mmbert", *_options(trial, folder, parallel), *more]
    second = subprocess.Popen(
        command, env={**os.environ, **common, "RANK": "1", "OMP_NUM_THREADS": "1", "MMBERT_QUIET": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    first = trial.start(command, RANK="0", **common)
    _wait(first, folder)
    second.send_signal(harm)
    ended = trial.end(first, time.monotonic())
    second.kill()
    second.wait()
    again = trial.do("pretrain", folder, f"runtime.parallel={parallel}", *more, *trial.data())
    happened = (
        f"the other ended after {ended.seconds:.1f} s with exit code {ended.code}: {ended.error}; {_resumed(again)}"
    )
    held = ended.code == 2 and ended.seconds < WITHIN and again.code == 0
    shutil.rmtree(folder)
    done = " ".join([f"{harm.name} to one of two, {parallel}, nobody watching", *(f"`{option}`" for option in more)])
    return Row(
        "a rank dies" if harm == signal.SIGKILL else "a rank hangs", done, happened, time.monotonic() - began, held
    )


def _wait(process: subprocess.Popen[str], folder: Path) -> None:
    since = time.monotonic()
    while lines(folder, "pretrain") < 8:
        if process.poll() is not None or time.monotonic() - since > LIMIT:
            raise SystemExit(f"two processes do not train: {process.args}")
        time.sleep(0.005)


def _rank(parent: int, rank: str) -> int:
    """The process of a rank below torchrun."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            mine = f"\nPPid:\t{parent}\n" in (path / "status").read_text()
            if mine and f"RANK={rank}".encode() in (path / "environ").read_bytes().split(b"\0"):
                return int(path.name)
        except OSError:
            continue
    raise SystemExit(f"no process of rank {rank} below {parent}")


def _resumed(again: Ended) -> str:
    return "one process went on to the end" if again.code == 0 else f"it did not go on: {again.error}"
