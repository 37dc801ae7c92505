"""Times of a step, by hand for simple cases."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from mmbert.errors import ConfigError
from mmbert.estimate.dry_run import DryRun, dry_run
from mmbert.estimate.hardware import DEVICES, GB, TERA, Device, Machine, Utilisation
from mmbert.estimate.speed import (
    OTHERS,
    OWN,
    StepTime,
    better_micro_batch,
    checkpoint_bytes,
    copy_seconds,
    exchange_bytes,
    step_time,
)
from mmbert.estimate.traffic import OPTIMISER, PACKING
from mmbert.model.config import ModelConfig
from mmbert.model.count import layer_matrices, parameters
from mmbert.recipe import Recipe
from mmbert.recipe_names import RECIPES

BASE = ModelConfig.preset("base")
ALL = Utilisation(matrices=1.0, attention=1.0, memory=1.0, links=1.0)
ROUND = Device("round numbers", "cuda", 100 * TERA, 10 * TERA, 80 * GB, 1000 * GB, 100 * GB, 10 * GB, 10 * GB, ALL)


@cache
def plan(*overrides: str, machine: Machine | None = None, length: float | None = None) -> DryRun:
    recipe = Recipe.load(RECIPES / "mmbert-base.yaml", overrides)
    return dry_run(recipe, folder=RECIPES, machine=machine, length=length)


def step(*overrides: str, machine: Machine, length: float | None = None) -> StepTime:
    return plan(*overrides, machine=machine, length=length).phases[0].step


def test_each_part_is_what_it_counts_over_what_it_runs_on() -> None:
    one = Machine(ROUND, devices=1)
    made = step("runtime.compile=false", machine=one)
    batch = 4_718_592
    assert made.matrices == pytest.approx(batch * 6 * 22 * layer_matrices(BASE) / 100e12)
    # 8 global layers over 1,024 keys, 14 local ones over a tile of 128 and the window; backward 2.5 times forward
    attention = batch * 3.5 * 4 * 768 * (8 * 1024 + 14 * 256) / 100e12
    assert made.attention == pytest.approx(attention)
    assert made.optimiser == pytest.approx(OPTIMISER * 307_786_240 / 1e12)
    assert made.exchange == 0
    assert made.checkpoint == pytest.approx(batch / 10e9 * 12 * 307_786_240 / 10e9)
    assert made.loader == pytest.approx(batch * (OWN[0] + OWN[1] / 1024))
    assert made.device == pytest.approx(sum(made.parts.values()))
    # a token and layer, by hand. Forward: norms and casts 28 h, RoPE 68 h and angles, residual 20 h, dropout 5 h,
    # GeGLU 10 I; backward 36 h, 68 h, 36 h, 5 h, 26 I
    layer = 266 * 768 + 2 * 16 * 2 * 64 / 2 + 36 * 1152
    assert made.elementwise == pytest.approx(batch * 22 * layer / 1e12, rel=0.12)  # and casts and sums of weights


def test_head_is_of_labelled_tokens_only() -> None:
    one = Machine(ROUND, devices=1)
    whole, part = (step(f"phases.pretrain.mask_rate={rate}", machine=one).head for rate in (0.3, 0.1))
    assert whole == pytest.approx(3 * part)
    products = 4_718_592 * 0.3 * 6 * (768 * 768 + 768 * 256_000) / 100e12
    logits = 4_718_592 * 0.3 * 40 * 256_000 / 1e12
    assert whole == pytest.approx(products + logits, rel=0.005)  # and the few passes of the head itself


def test_long_documents_cost_more_only_where_attention_is_global() -> None:
    one = Machine(ROUND, devices=1)
    long, short = (step("phases.pretrain.context=49152", machine=one, length=n).attention for n in (8192, 4096))
    per_key = 4_718_592 * 3.5 * 4 * 768 / 100e12
    assert long - short == pytest.approx(8 * 4096 * per_key)
    # where it computes too little to be busy, it takes what reading and writing takes: 12 x 2 h bytes
    tiny = step(machine=one, length=8).attention
    assert tiny == pytest.approx(4_718_592 * 22 * 24 * 768 / 1e12)


def test_gradients_go_round_a_ring() -> None:
    number, ddp = 307_786_240, plan().recipe.runtime
    assert exchange_bytes(BASE, ddp, Machine(ROUND, devices=1), 12) == 0
    assert exchange_bytes(BASE, ddp, Machine(ROUND, devices=8), 12) == pytest.approx(2 * 7 / 8 * 4 * number)
    assert exchange_bytes(BASE, ddp, Machine(ROUND, devices=8, nodes=64), 1) == pytest.approx(
        2 * 511 / 512 * 4 * number
    )
    fsdp = ddp.model_copy(update={"parallel": "fsdp"})
    layers = 22 * layer_matrices(BASE)
    gathered, summed = 2 * 4 * layers + 4 * (number - layers), 4 * number
    assert exchange_bytes(BASE, fsdp, Machine(ROUND, devices=2), 3) == pytest.approx(3 / 2 * (gathered + summed))


def test_the_bus_is_the_narrowest_place() -> None:
    assert Machine(ROUND, devices=8).bus == 100e9
    assert Machine(ROUND, devices=8, nodes=2).bus == 80e9  # eight adapters of 10 GB/s
    assert Machine(ROUND, devices=8, nodes=2, network=50e9).bus == 100e9
    assert Machine(ROUND, devices=1, nodes=2).bus == 10e9
    assert Machine(DEVICES["l4"], devices=2, nodes=2, network=5e9).bus == 10e9
    assert Machine.named("h100", 8, 64).bus == 400e9


def test_devices_share_a_step_in_whole_micro_batches() -> None:
    one, eight, many = (step(machine=Machine(ROUND, devices=count)) for count in (1, 8, 96))
    assert one.matrices == pytest.approx(8 * eight.matrices) == pytest.approx(96 * many.matrices)
    # 96 micro-batches of 49,152: beyond 96 devices nothing is faster, and the plan says so
    cluster = plan(machine=Machine(DEVICES["h100"], 8, 64)).phases[0]
    assert cluster.step.matrices == step(machine=Machine(DEVICES["h100"], 8, 12)).matrices
    assert cluster.idle == 1 - 96 / 512
    spread = plan("phases.pretrain.micro_batch=3072", machine=Machine(DEVICES["h100"], 8, 64)).phases[0]
    assert spread.idle == 0
    assert spread.step.matrices == pytest.approx(cluster.step.matrices * 9216 / 49_152)
    # at the start of the batch warm-up a step has 8 micro-batches, one of which takes as long as one of 96
    assert cluster.times[0].matrices == cluster.times[-1].matrices


def test_the_micro_batch_that_is_advised() -> None:
    phases = plan().recipe.phases
    # 4,718,592 / 512 = 9,216, of which 3,072 divides the first batch, 393,216, too
    assert better_micro_batch(phases["pretrain"], 512) == 3072
    assert better_micro_batch(phases["pretrain"], 8) == 49_152
    assert better_micro_batch(phases["extend"], 512) == 36_864  # half of a device's 73,728
    assert better_micro_batch(phases["extend"], 8192) is None  # 4,608 tokens hold no context of 8,192
    assert better_micro_batch(phases["pretrain"], 7) is None


def test_every_rank_lays_out_the_whole_step() -> None:
    # what benchmarks/data.py measured: tokens a second of one core, context 1,024 and 8,192
    for context, own, others in ((1024, 13.2e6, 27.2e6), (8192, 24.1e6, 63.9e6)):
        assert 1 / (OWN[0] + OWN[1] / context) == pytest.approx(own, rel=0.03)
        assert 1 / (OTHERS[0] + OTHERS[1] / context) == pytest.approx(others, rel=0.03)
    cluster = plan("phases.pretrain.micro_batch=3072", machine=Machine(DEVICES["h100"], 8, 64)).phases[0].step
    assert cluster.loader == pytest.approx(9216 / 13.2e6 + (4_718_592 - 9216) / 27.2e6, rel=0.03)
    assert cluster.bottleneck == "loader"
    assert plan().phases[0].step.loader < plan().phases[0].step.device / 5


def test_what_binds() -> None:
    made = StepTime(
        matrices=3, attention=2, head=1, elementwise=1, optimiser=1, exchange=1, checkpoint=1, launches=4, loader=5
    )
    assert (made.device, made.seconds, made.bottleneck) == (10, 10, "matrices")
    assert (replace(made, loader=20).seconds, replace(made, loader=20).bottleneck) == (20, "loader")
    assert (replace(made, launches=11).seconds, replace(made, launches=11).bottleneck) == (11, "launches")
    beside = replace(made, beside=True)
    assert (beside.device, beside.seconds, beside.bottleneck) == (9, 9, "matrices")
    assert (replace(beside, exchange=12).seconds, replace(beside, exchange=12).bottleneck) == (12, "exchange")


def test_checkpointing_computes_layers_again() -> None:
    one = Machine(ROUND, devices=1)
    kept, again = step(machine=one), step("runtime.gradient_checkpointing=true", machine=one)
    assert again.matrices == pytest.approx(kept.matrices * 4 / 3)
    assert again.attention == pytest.approx(kept.attention * 4.5 / 3.5)
    assert again.head == kept.head


def test_sharding_divides_the_optimiser_and_the_checkpoint() -> None:
    eight = Machine(ROUND, devices=8)
    whole, part = step(machine=eight), step("runtime.parallel=fsdp", machine=eight)
    assert whole.optimiser == pytest.approx((OPTIMISER + PACKING) * 307_786_240 / 1e12)
    assert part.optimiser == pytest.approx(whole.optimiser / 8)
    assert checkpoint_bytes(BASE) == 12 * parameters(BASE).masked_lm
    assert copy_seconds(BASE, plan().recipe.runtime, eight) == pytest.approx(12 * 307_786_240 / 10e9)


def test_reach_scales_what_it_names() -> None:
    full, half = (step(machine=Machine(ROUND, 8, utilisation=ALL.changed(change))) for change in ([], ["matrices=0.5"]))
    assert half.matrices == 2 * full.matrices
    assert half.attention == full.attention
    with pytest.raises(ConfigError, match="did you mean matrices"):
        ALL.changed(["matrice=0.5"])
    with pytest.raises(ConfigError, match="must be in"):
        ALL.changed(["links=1.5"])
    with pytest.raises(ConfigError, match="not NAME=NUMBER"):
        ALL.changed(["links=fast"])


def test_machines_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="choose one of a100"):
        Machine.named("h300", 8)
    with pytest.raises(ConfigError, match="at least 1"):
        Machine.named("h100", 0)
    with pytest.raises(ConfigError, match="no node of L4 has a published network: give --network"):
        Machine.named("l4", 1, 2)
    with pytest.raises(ConfigError, match="no link"):
        Machine.named("cpu", 2)


@pytest.mark.parametrize("name", DEVICES)
def test_published_figures_are_of_one_order(name: str) -> None:
    device = DEVICES[name]
    assert device.bf16 > device.fp32 > 1e9
    # products need tens to hundreds of operations a byte to be busy: a slip of a unit would fall out of this
    assert 5 < device.bf16 / device.bandwidth < 500
    assert device.memory is None or 1e10 < device.memory < 1e12


def test_days_are_steps_times_seconds() -> None:
    first = plan().phases[0]
    assert first.days * 86_400 == pytest.approx(
        sum(stage.steps * time.seconds for stage, time in zip(first.stages, first.times, strict=True))
    )
    assert first.tokens_per_second == pytest.approx(4_718_592 / first.step.seconds)
    assert first.mfu == pytest.approx(first.flops / first.seconds / (8 * 989.5e12))
    assert not plan("phases.pretrain.micro_batch=393216").phases[0].fits
    assert first.fits


def test_one_step_alone() -> None:
    recipe = plan().recipe
    alone = step_time(BASE, recipe.phases["pretrain"], recipe.runtime, Machine(), 4_718_592)
    assert alone == plan().phases[0].step
