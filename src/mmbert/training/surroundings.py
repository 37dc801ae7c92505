"""What the loop changes around itself, and puts back: SIGTERM, torch's random numbers, the garbage collector."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets instead of ending the process. Elsewhere than in the main thread it stays as it is."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def own_random_numbers(device: torch.device) -> Iterator[None]:
    """Leave the caller's random numbers as they were: dropout seeds torch's global generator."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


@contextmanager
def garbage_by_hand() -> Iterator[None]:
    """Collect garbage when the loop says so; graphs and batches are freed by counting anyway."""
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()
