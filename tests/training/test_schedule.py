"""The learning rate: published end points, and what every schedule must keep."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbert.recipe import Decay, Phase, PhaseData
from mmbert.training.schedule import learning_rate

B = 10**9


def make_phase(tokens: int, peak: float = 8e-4, warmup: int = 0, decay: Decay | None = None) -> Phase:
    return Phase(
        tokens=tokens, data=PhaseData(temperature=0.5), context=1024, mask_rate=0.3, batch=4_718_592,
        micro_batch=49_152, peak_lr=peak, warmup=warmup, decay=decay,
    )  # fmt: skip


def test_published_end_points() -> None:
    base = make_phase(100 * B, decay=Decay(shape="one_minus_sqrt", floor=0.02))
    assert learning_rate(base, 0) == 8e-4
    assert learning_rate(base, 25 * B) == pytest.approx(8e-4 * (0.02 + 0.98 * 0.5))
    assert learning_rate(base, 100 * B) == pytest.approx(1.6e-5)
    small = make_phase(100 * B, peak=4e-4, decay=Decay(shape="linear", floor=0.04))
    assert learning_rate(small, 25 * B) == pytest.approx(4e-4 * (1 - 0.25 * 0.96))
    assert learning_rate(small, 100 * B) == pytest.approx(1.6e-5)


def test_warm_up_starts_near_zero_and_ends_at_the_peak() -> None:
    phase = make_phase(2300 * B, warmup=3 * B)
    assert 0 < learning_rate(phase, 0) < 1e-12
    assert learning_rate(phase, 3 * B // 2) == pytest.approx(4e-4)
    assert learning_rate(phase, 3 * B) == learning_rate(phase, 2300 * B) == 8e-4


def test_decay_takes_only_its_own_tokens() -> None:
    phase = make_phase(1000, warmup=100, decay=Decay(tokens=200, floor=0.1))
    assert learning_rate(phase, 800) == 8e-4
    assert learning_rate(phase, 801) < 8e-4
    assert learning_rate(phase, 5000) == pytest.approx(8e-5)


shapes = st.sampled_from(["one_minus_sqrt", "linear"])


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**12), shapes, st.floats(0, 1), st.data())
def test_rises_stays_falls(warmup: int, stable: int, fall: int, shape: str, floor: float, data: st.DataObject) -> None:
    tokens = warmup + stable + fall
    decay = Decay(shape=shape, tokens=fall, floor=floor)  # type: ignore[arg-type]
    phase = make_phase(tokens, warmup=warmup, decay=decay if fall else None)
    early, late = sorted(data.draw(st.tuples(st.integers(0, tokens), st.integers(0, tokens))))
    first, second = learning_rate(phase, early), learning_rate(phase, late)
    slack = 1e-9 * phase.peak_lr
    assert 0 <= first <= phase.peak_lr + slack
    if late <= warmup:
        assert first <= second + slack
    elif early >= warmup + stable:
        assert floor * phase.peak_lr - slack <= second <= first + slack
    elif warmup <= early and late <= warmup + stable:
        assert first == second == phase.peak_lr


def test_imports_no_torch() -> None:
    code = "import sys, mmbert.training.schedule; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
