"""The library of C files for this processor, built at the first use, or why there is none; and its off switch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import torch

from mmbert.native import targets
from mmbert.native.build import NoLibrary, load_library
from mmbert.native.targets import SOURCES, Target

_used = True


@dataclass(frozen=True, eq=False)
class Library:
    """A target's compiled functions.

    lanes  numbers of 32 bits in a register
    bf16   it computes with numbers of bf16
    tiles  it multiplies bf16 and int8 by AMX
    """

    target: Target
    functions: ctypes.CDLL
    lanes: int
    bf16: bool
    tiles: bool

    @property
    def group(self) -> int:
        """Return how many keys attention.c takes together."""
        return self.lanes * (2 if self.tiles else 1)


def use(on: bool) -> None:
    """Switch native kernels on or off: for models that are loaded afterwards, and for training from now on."""
    global _used
    _used = on


def find() -> Library | str:
    """Return the library for this processor, or why there is none. The first call builds it."""
    target = targets.choose() if _used else "the native kernels are switched off"
    return target if isinstance(target, str) else load(target)


@cache
def load(target: Target) -> Library | str:
    """Return the library of a target, or why there is none."""
    try:
        functions = load_library(SOURCES, target.all_flags())
    except NoLibrary as error:
        return str(error)
    for function in (functions.attend, functions.attend_backward, functions.run_layer, functions.softmax_gradient):
        function.restype = None
    lanes, bf16 = (ctypes.c_int32 * 2).in_dll(functions, "attention_traits")
    return Library(target, functions, lanes, bool(bf16), bool(functions.allow_tiles()))


def computes(dtype: torch.dtype, right: Callable[[Library], bool]) -> bool:
    """Return whether there is a library for numbers of this type, which ``right`` has found to agree with torch."""
    found = find()
    if isinstance(found, str) or not right(found):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and found.bf16)


def apart(check: Callable[[], bool]) -> bool:
    """Return what ``check`` says in a thread of its own, away from what the caller has set in its own thread.

    Kernels are compared with torch at their first use: within autocast, without gradients, or in a part of a model
    whose activations are computed again, where every tensor that is saved for backward counts.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(check).result()
