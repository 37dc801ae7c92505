"""Memory that is free in this process: given back to the system, or kept for the next step."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Numbers of malloc.h."""


def give_back() -> None:
    """Give the free memory between blocks in use back to the system, where the C library can (glibc).

    glibc keeps what was freed by millions of small objects, or by temporary matrices of different sizes, for later:
    after loading a model that would stay in resident memory for as long as the process runs.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


def keep_memory() -> None:
    """Let the process keep what it frees, for the next step. On Linux with glibc; elsewhere nothing happens.

    glibc hands large blocks back when they are freed: each step then waits for the system to fill the same pages with
    zeros again, a tenth to a third of its time on a CPU. The peak of memory is the same.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@cache
def _trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
