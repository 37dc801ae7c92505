"""The kernels of every target that this machine can build and run."""

from __future__ import annotations

from functools import cache

from mmbert.inference.native import kernel
from mmbert.inference.native.kernel import Kernels
from mmbert.native import library
from mmbert.native.targets import TARGETS, Target


@cache
def built() -> dict[str, Kernels | str]:
    """Return kernels by the name of their target, or why there are none."""
    return {target.name: _built(target) for target in TARGETS}


def _built(target: Target) -> Kernels | str:
    if missing := target.missing():
        return f"the processor has no {missing}"
    found = library.load(target)
    return found if isinstance(found, str) else kernel._kernels(found)
