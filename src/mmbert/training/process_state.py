"""State of the process that the loop changes and restores: SIGTERM, torch's random numbers, the garbage collector.

One change stays: when the C library returns memory to the system.
"""

from __future__ import annotations

import ctypes
import gc
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Numbers of malloc.h."""


@contextmanager
def sigterm() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM sets instead of ending the process; outside the main thread nothing changes."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # The handler only sets a flag: the loop stops between two micro-batches, where all ranks can stop together.
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def own_random_numbers(device: torch.device) -> Iterator[None]:
    """Leave the caller's random numbers as they were: dropout seeds torch's global generator."""
    # Without a list fork_rng would save the states of all devices, and start CUDA on a machine that trains on the CPU.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


@contextmanager
def garbage_by_hand() -> Iterator[None]:
    """Collect garbage when the loop says so; graphs and batches are freed by counting anyway."""
    was_on = gc.isenabled()
    gc.collect()
    # Moves all objects that exist into a generation that is never searched: collections look at new ones only.
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()


def keep_memory() -> None:
    """Let the process keep what it frees, for the next step. On Linux with glibc; elsewhere nothing happens.

    glibc maps every block of more than 32 MB anew and hands it back when it is freed: each step then waits for the
    system to fill the same pages with zeros again, a tenth of its time on a CPU. The peak of memory is the same.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
