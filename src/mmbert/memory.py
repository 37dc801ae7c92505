"""Memory that is free in this process, given back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Give the free memory between blocks in use back to the system, where the C library can (glibc).

    glibc keeps what was freed by millions of small objects, or by temporary matrices of different sizes, for later:
    after loading a model that would stay in resident memory for as long as the process runs.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
