"""State of the process that the loop changes and restores: SIGTERM, torch's random numbers, the garbage collector."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
