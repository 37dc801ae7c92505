"""The kernels of every target that this machine can build and run."""

from __future__ import annotations

from functools import cache

from mmbert.inference.native import kernel
from mmbert.inference.native.kernel import Kernels
from mmbert.inference.native.targets import TARGETS


@cache
def built() -> dict[str, Kernels | str]:
    """Return kernels by the name of their target, or why there are none."""
    lacking = {target: target.missing() for target in TARGETS}
    return {
        target.name: f"the processor has no {missing}" if missing else kernel._kernels(target)
        for target, missing in lacking.items()
    }
