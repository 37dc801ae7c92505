"""Time that can be trusted on a machine with neighbours: each sample knows what other processes took meanwhile."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SHARE = 0.06
"""Of a core that we need: what others may take of it before a sample is set aside."""

LEAST = 2
"""Clean samples below which all are taken, and the figure is marked."""


@dataclass(frozen=True)
class Sample:
    """One timed call: seconds on the wall, seconds of processor, and cores that other processes kept busy."""

    wall: float
    processor: float
    foreign: float

    def clean(self, threads: int) -> bool:
        """Whether others kept to the cores that ``threads`` threads leave free."""
        return self.foreign <= len(os.sched_getaffinity(0)) - threads + SHARE * threads


def take(function: Callable[[], object]) -> Sample:
    """Call it once, for at least some tenths of a second: the kernel counts in hundredths."""
    busy, own, started = _busy(), time.process_time(), time.perf_counter()
    function()
    wall, own, busy = time.perf_counter() - started, time.process_time() - own, _busy() - busy
    return Sample(wall, own, max(0.0, busy - own) / wall)


def _busy() -> float:
    """Seconds that the cores this process may use have worked, for whomever."""
    cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    ticks = 0
    for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines():
        name, *counts = line.split()
        if name in cores:
            user, nice, system, _, _, interrupts, soft, steal = map(int, counts[:8])
            ticks += user + nice + system + interrupts + soft + steal
    return ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Figure:
    """Median seconds of some samples, how many of them count, and how many there were."""

    seconds: float
    counted: int
    taken: int
    trusted: bool

    @property
    def note(self) -> str:
        """``5/6``; with a tilde where too few were clean and all were taken."""
        return f"{self.counted}/{self.taken}" if self.trusted else f"~{self.counted}/{self.taken}"


def median(samples: list[Sample], threads: int, clock: str) -> Figure:
    """clock  wall: of the clean samples; cpu: seconds of processor of all, for one thread that shares its core"""
    if clock == "cpu":
        return Figure(statistics.median(s.processor for s in samples), len(samples), len(samples), True)
    clean = [sample for sample in samples if sample.clean(threads)]
    trusted = len(clean) >= min(LEAST, len(samples))
    counted = clean if trusted else samples
    return Figure(statistics.median(sample.wall for sample in counted), len(clean), len(samples), trusted)


def forget_peak() -> None:
    """Give freed memory back and let the peak of resident memory begin anew."""
    import ctypes
    import gc

    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def memory_mib(name: str) -> float:
    """``VmHWM`` (peak) or ``VmRSS`` of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
