"""What ``mmbert doctor`` says about native kernels, by what the processor and the environment allow."""

from __future__ import annotations

import pytest
import torch

from mmbert import cpu
from mmbert.doctor import machine
from mmbert.inference.native import kernel
from mmbert.native import targets

CPU = torch.device("cpu")


@pytest.mark.parametrize("target", targets.TARGETS, ids=lambda target: target.name)
def test_the_target_and_what_to_expect(target: targets.Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMBERT_NATIVE", target.name)
    found = kernel.find()
    if isinstance(found, str):
        assert machine.attention(CPU) == f"torch: {found}"
        return
    assert machine.attention(CPU).startswith(f"native kernels ({target.name}")
    assert machine._matrices(CPU) == "int8, bf16, fp32: native layers (MMBERT_NATIVE=0: torch)"
    seven_bits = min(found.int8_largest) < 127
    expected = "twice as fast as fp32" if seven_bits else "three to four times as fast as fp32"
    assert (expected if target.measured else "their speed is unmeasured") in machine._int8(CPU)


def test_a_target_that_was_never_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """No speed is promised; the kernels are those of this machine, which is said to be another."""
    found = kernel.find()
    if isinstance(found, str):
        pytest.skip(found)
    neon = next(target for target in targets.TARGETS if target.name == "neon")
    monkeypatch.setattr(found, "target", neon)
    assert machine.attention(CPU).startswith("native kernels (neon")
    assert "unmeasured" in machine.attention(CPU)
    assert "unmeasured" in machine._int8(CPU)
    assert "fast" not in machine._int8(CPU)


def test_int8_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMBERT_NATIVE", "0")
    monkeypatch.setattr(cpu, "int8_instructions", lambda: None)
    assert machine._int8(CPU).startswith("refused")
    assert machine._matrices(CPU) == "int8, bf16, fp32: torch"
    assert machine.attention(CPU) == "torch: the native kernels are switched off"
