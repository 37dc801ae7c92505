"""Memory that a process keeps, seen from outside, in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from mmbert.memory import keep_memory
if {keep}:
    keep_memory()
torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory their own way")
def test_memory_that_is_kept_is_not_asked_for_again() -> None:
    def faults(keep: bool) -> int:
        """Pages that the system had to fill for a hundred tensors of 64 MiB after a first one.

        Some are filled even where memory is kept: up to some eight times, glibc before 2.38 takes fresh memory for an
        aligned block that would just fit into a freed one.
        """
        code = FAULTS.format(keep=keep)
        return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)

    assert faults(keep=True) < faults(keep=False) / 5
