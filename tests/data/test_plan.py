"""The order of data: exact shares, epochs that are permutations, random access, and the batch warm-up."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.data.mixture import Mixture, StreamShare, mixture
from mmbert.data.permute import permute
from mmbert.data.plan import Plan, _floor_sum, batch_at, batch_stages, count_steps
from mmbert.recipe import Phase

_ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def phase(**values: object) -> Phase:
    return Phase.model_validate(
        {"tokens": "100M", "data": {"temperature": 0.3, "max_epochs": None}, "context": 1024, "mask_rate": 0.3,
         "batch": 4_718_592, "micro_batch": 49_152, "peak_lr": 8e-4, **values}
    )  # fmt: skip


def many_languages(seed: int = 0) -> tuple[Mixture, list[int]]:
    """1,833 languages of 10 ** 3 to 10 ** 11 tokens, and their blocks."""
    exponents = np.random.default_rng(seed).uniform(3, 11, 1833)
    names = [a + b + c for a in _ALPHABET for b in _ALPHABET for c in "aeo"][:1833]
    sizes = {("text", name): int(10**exponent) for name, exponent in zip(names, exponents, strict=True)}
    mixed = mixture(phase(), sizes)
    return mixed, [-(-(stream.tokens or 0) // 1024) for stream in mixed.streams]


def few(shares: list[float], blocks: list[int], seed: int = 0, name: str = "phase", window: int = 64) -> Plan:
    streams = [
        StreamShare("text", f"l{number}", 1000 * count, share, None, False)
        for number, (share, count) in enumerate(zip(shares, blocks, strict=True))
    ]
    return Plan(Mixture(tuple(streams), 1), blocks, seed, name, window)


def test_every_window_holds_every_share_to_one_block() -> None:
    mixed, blocks = many_languages()
    plan = Plan(mixed, blocks, 7, "decay_all")
    exact = plan.window * plan.draw_shares()
    total = np.zeros(1833, dtype=np.int64)
    for window in range(2000):
        counts = np.bincount(plan.draws(plan.window * window, plan.window).streams, minlength=1833)
        assert counts.sum() == plan.window
        assert (counts >= np.floor(exact - 1e-6)).all()
        assert (counts <= np.ceil(exact + 1e-6)).all()
        total += counts
        # And the roundings cancel: after 128,000 draws at random the largest would be off by about 60.
        assert np.abs(total - (window + 1) * exact).max() < 4
    assert (total[2000 * exact > 4] > 0).all()


def test_shares_converge_over_a_long_run() -> None:
    mixed, blocks = many_languages(1)
    plan = Plan(mixed, blocks, 0, "pretrain")
    windows = 35_000_000  # of 64 blocks of 1,024 tokens: 2.3 trillion tokens
    below = np.concatenate([[0], plan._points_below(windows)])
    drawn = np.diff(below)
    assert drawn.sum() == windows * plan.window
    assert np.abs(drawn - windows * plan.window * plan.draw_shares()).max() < 40  # of 60,000 and more
    with pytest.raises(ValueError, match="a plan with windows of 64 draws ends"):
        plan.draw(2**35)


def test_shares_are_of_tokens_where_blocks_are_not_full() -> None:
    sizes = {("text", "fra"): 102_400, ("text", "xho"): 64}  # 100 full blocks, and one with 64 tokens
    mixed = mixture(phase(data={"temperature": 0, "max_epochs": None}), sizes)
    plan = Plan(mixed, [100, 1], 0, "phase")
    assert plan.draw_shares() == pytest.approx([1 / 17, 16 / 17])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(0, 2**40), st.sampled_from([1, 16, 2048]))
def test_every_epoch_is_a_permutation(blocks: list[int], seed: int, window: int) -> None:
    shares = np.arange(1, len(blocks) + 1) / sum(range(1, len(blocks) + 1))
    plan = few(shares.tolist(), blocks, seed, window=window)
    draws = plan.draws(0, 1500)
    for number, size in enumerate(blocks):
        mine = draws.streams == number
        taken, epochs = draws.blocks[mine], draws.epochs[mine]
        assert (np.diff(epochs) >= 0).all()
        for epoch in range(len(taken) // size):
            part = slice(epoch * size, (epoch + 1) * size)
            assert sorted(taken[part].tolist()) == list(range(size))
            assert (epochs[part] == epoch).all()


def test_epochs_differ_from_one_another() -> None:
    plan = few([1.0], [50])
    epochs = plan.draws(0, 500).blocks.reshape(10, 50)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 10
    assert (epochs[0] == epochs[1]).sum() < 10


def test_random_access_is_the_sequential_order() -> None:
    mixed, blocks = many_languages()
    plan, other = Plan(mixed, blocks, 3, "a"), Plan(mixed, blocks, 3, "a")
    start = 5_000_000_000
    draws = plan.draws(start, 5000)
    for step in (0, 1, 17, 1023, 1024, 4999):
        assert other.draw(start + step) == (draws.streams[step], draws.blocks[step])
    later = other.draws(start + 1500, 100)
    assert np.array_equal(later.blocks, draws.blocks[1500:1600])
    assert np.array_equal(later.epochs, draws.epochs[1500:1600])


def test_the_order_depends_on_seed_phase_and_name_only() -> None:
    shares, blocks = [0.3, 0.7], [40, 90]
    order = [few(shares, blocks, seed, name).draws(0, 300) for seed, name in [(0, "a"), (0, "a"), (1, "a"), (0, "b")]]
    assert np.array_equal(order[0].blocks, order[1].blocks)
    assert not np.array_equal(order[0].blocks, order[2].blocks)
    assert not np.array_equal(order[0].blocks, order[3].blocks)
    # A stream's own order does not move when another stream joins.
    alone, joined = few([1.0], [40]).draws(0, 40), few(shares, blocks).draws(0, 300)
    assert np.array_equal(alone.blocks, joined.blocks[joined.streams == 0][:40])


def test_golden_order() -> None:
    """The order of a recipe must never change: runs are resumed and compared by it."""
    draws = few([0.5, 0.3, 0.2], [11, 5, 2], seed=21, name="pretrain", window=8).draws(40, 12)
    assert draws.streams.tolist() == [0, 1, 0, 1, 1, 0, 2, 0, 1, 2, 0, 1]
    assert draws.blocks.tolist() == [7, 1, 4, 3, 4, 5, 0, 9, 2, 1, 0, 3]


def test_streams_are_mixed_within_a_window() -> None:
    streams = few([0.5, 0.5], [1000, 1000], window=1024).draws(0, 1024).streams
    assert 400 < np.count_nonzero(np.diff(streams)) < 620  # 512 for a fair coin


def test_permutations_are_bijective_and_uniform() -> None:
    for size in (1, 2, 3, 4, 5, 31, 32, 33, 1000, 4097):
        assert sorted(permute(np.arange(size), size, 99).tolist()) == list(range(size))
    for size, orders in ((3, 6), (4, 24)):
        numbers = np.tile(np.arange(size), 6000)
        images = permute(numbers, size, np.repeat(np.arange(6000) * 7919, size)).reshape(6000, size)
        counts = Counter(map(tuple, images.tolist()))
        assert len(counts) == orders
        assert sum((count - 6000 / orders) ** 2 * orders / 6000 for count in counts.values()) < 3 * orders
    huge = permute([0, 1, 2, 3], 2**50 + 1, 5)
    assert len(set(huge.tolist())) == 4
    assert (huge < 2**50 + 1).all()


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 60), st.integers(0, 90), st.integers(1, 70), st.lists(st.integers(0, 200), min_size=1, max_size=5)
)
def test_the_closed_sum_is_the_sum(n: int, a: int, m: int, b: list[int]) -> None:
    assert _floor_sum(n, a, m, np.array(b)).tolist() == [sum((a * i + each) // m for i in range(n)) for each in b]


def test_a_plan_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="power of two"):
        few([1.0], [3], window=1000)
    with pytest.raises(ValueError, match="at least one block"):
        few([0.5, 0.5], [3, 0])


# Tokens per step -> where it ends, in billions of tokens: the published runs (ModernBERT's scheduler, mmBERT's figures)
# begin with one micro-batch of 49,152 on each of 8 devices.
BASE = {393_216: 0.91, 786_432: 2.73, 1_179_648: 5.45, 1_572_864: 9.09, 1_966_080: 13.64, 2_359_296: 19.09,
        2_752_512: 25.45, 3_145_728: 32.73, 3_538_944: 40.91, 3_932_160: 50.00, 4_325_376: 60.00}  # fmt: skip
SMALL = {393_216: 1.52, 786_432: 4.55, 1_179_648: 9.09, 1_572_864: 15.15, 1_966_080: 22.73, 2_359_296: 31.82,
         2_752_512: 42.42, 3_145_728: 54.55, 3_538_944: 68.18, 3_932_160: 83.33, 4_325_376: 100.00}  # fmt: skip


@pytest.mark.parametrize(("warmup", "table", "steps"), [("60B", BASE, 2312), ("100B", SMALL, 3853)])
def test_batch_warmup_is_the_published_one(warmup: str, table: dict[int, float], steps: int) -> None:
    warming = phase(tokens="2.3T", batch_start=393_216, batch_warmup=warmup)
    found = batch_stages(warming)
    assert [stage.batch for stage in found] == [*table, 4_718_592]
    for stage, end in zip(found, table.values(), strict=False):
        assert abs(stage.steps - steps) <= 1
        assert stage.begin + stage.steps * stage.batch == pytest.approx(end * 1e9, abs=0.006e9)
    assert batch_at(warming, 0) == 384 * 1024
    assert batch_at(warming, 10**12) == 4608 * 1024


def test_stages_are_the_steps_taken_one_by_one() -> None:
    for values in (
        {"tokens": 90_000, "batch": 1024, "batch_start": 256, "batch_warmup": 20_000},
        {"tokens": 5_000, "batch": 1024, "batch_start": 256, "batch_warmup": 20_000},
        {"tokens": 70_000, "batch": 768, "batch_start": 512, "batch_warmup": 100},
        {"tokens": 70_001, "batch": 768},
    ):
        one = phase(**values, micro_batch=128, context=64)
        seen, batches = 0, []
        while seen < one.tokens:
            batches.append(batch_at(one, seen))
            seen += batches[-1]
        assert [stage.batch for stage in batch_stages(one) for _ in range(stage.steps)] == batches
        assert count_steps(one) == len(batches)
        assert all(batch % one.micro_batch == 0 for batch in batches)
