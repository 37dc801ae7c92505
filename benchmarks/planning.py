"""What `mmbert pretrain --dry-run` counts on, measured here; and its prediction beside a measured step.

    python benchmarks/planning.py [--rounds 8]

On one core: products, a copy, attention (the table of devices), the start of an operation (estimate/speed.py), and
training steps of several shapes beside what the arithmetic says for them: once with the figures of the table, once with
those measured in this very run. CPU seconds of the process, the best of some rounds: neighbours on the machine count
little. Prints Markdown for docs/scaling.md. The loader's rates come from benchmarks/data.py.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from mmbert.estimate.hardware import DEVICES, Device, Machine, Utilisation
from mmbert.estimate.speed import step_time
from mmbert.estimate.traffic import LAYER_LAUNCHES, OPTIMISER_LAUNCHES, TENSORS_A_LAYER
from mmbert.model.config import ModelConfig
from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed
from mmbert.recipe import Phase, Runtime
from mmbert.training.loss import loss_sum
from mmbert.training.optim import StableAdamW, parameter_groups

RATE = 1 / 3
"""Part of the tokens that is labelled."""


def best(work: Callable[[], object], rounds: int) -> float:
    """CPU seconds of the fastest round; one more warms up."""
    work()
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return min(seconds)


def device_here(rounds: int) -> Device:
    """The table's CPU with what is measured now."""
    rates = {}
    for dtype in (torch.bfloat16, torch.float32):
        x, w = torch.randn(4096, 768, dtype=dtype), torch.randn(2304, 768, dtype=dtype)
        rates[dtype] = 2 * 4096 * 768 * 2304 / best(partial(F.linear, x, w), 3 * rounds)
    source = torch.randn(1 << 25)
    target = torch.empty_like(source)
    copied = 8 * source.numel() / best(lambda: target.copy_(source), rounds)
    q = torch.randn(16, 6, 256, 64)
    attended = 4 * q.numel() * 256 / best(lambda: F.scaled_dot_product_attention(q, q, q), 3 * rounds)
    utilisation = Utilisation(1.0, min(1.0, attended / rates[torch.float32]), 1.0, 1.0)
    return replace(
        DEVICES["cpu"], bf16=rates[torch.bfloat16], fp32=rates[torch.float32], bandwidth=copied, utilisation=utilisation
    )


def batch(config: ModelConfig, tokens: int, length: int) -> Packed:
    random = np.random.default_rng(0)
    whole = Packed.from_lists([random.integers(5, config.vocab_size, length)] * (tokens // length))
    targets = np.arange(0, whole.tokens, round(1 / RATE))
    return Packed(whole.ids, whole.offsets, whole.longest, targets, whole.ids[targets]).to()


def step_of(config: ModelConfig, packed: Packed, precision: str) -> Callable[[], None]:
    model = MaskedLM(config).train()
    optimizer = StableAdamW(parameter_groups(model, 0.1), lr=1e-4)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_sum(model, packed)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def steps(here: Device, rounds: int) -> None:
    """Measured and predicted steps."""
    cases: list[tuple[str, int, int, int, Literal["bf16", "fp32"]]] = [
        ("nano", 8192, 4096, 512, "bf16"),
        ("nano", 8192, 4096, 128, "bf16"),
        ("nano", 8192, 4096, 512, "fp32"),
        ("small", 32_000, 1024, 512, "bf16"),
        ("small", 32_000, 1024, 1024, "fp32"),
    ]
    print("| shape, tokens x length, precision | measured, s | table | ratio | this hour | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, vocab_size, tokens, length, precision in cases:
        config = ModelConfig.preset(name, vocab_size=vocab_size)
        seconds = best(step_of(config, batch(config, tokens, length), precision), rounds)
        phase = Phase.model_validate(
            {"tokens": 1 << 40, "data": {"temperature": 1}, "context": length, "mask_rate": RATE, "batch": tokens,
             "micro_batch": tokens, "peak_lr": 1e-3}
        )  # fmt: skip
        runtime = Runtime(device="cpu", precision=precision, checkpoint_every=1 << 50)
        told = [step_time(config, phase, runtime, Machine(d, 1), tokens).seconds for d in (DEVICES["cpu"], here)]
        columns = " | ".join(f"{second:.2f} | {seconds / second:.2f}" for second in told)
        print(f"| {name}, {tokens:,} x {length:,}, {precision} | {seconds:.2f} | {columns} |")


def launches(rounds: int) -> None:
    """The start of an operation: models of 12 and 2 layers on 16 tokens."""
    seconds, moves = {}, {}
    for layers in (2, 12):
        config = ModelConfig(
            vocab_size=600, hidden_size=32, intermediate_size=32, num_layers=layers, num_heads=4, global_every=1
        )
        model, packed = MaskedLM(config).train(), batch(config, 16, 8)

        def passes(model: MaskedLM = model, packed: Packed = packed) -> None:
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_sum(model, packed)
            loss.backward()  # type: ignore[no-untyped-call]

        seconds[layers] = best(passes, 10 * rounds)
        moves[layers] = best(StableAdamW(parameter_groups(model, 0.1), lr=1e-4).step, 10 * rounds)
    model_op = (seconds[12] - seconds[2]) / 10 / sum(LAYER_LAUNCHES)
    move_op = (moves[12] - moves[2]) / 10 / TENSORS_A_LAYER / OPTIMISER_LAUNCHES
    print(f"\nstart of an operation: {1e6 * model_op:.1f} us in the model, {1e6 * move_op:.1f} us in the optimiser")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    here = device_here(options.rounds)
    print(
        f"here: bf16 {here.bf16 / 1e9:.0f} and fp32 {here.fp32 / 1e9:.0f} GFLOP/s, "
        f"copy {here.bandwidth / 1e9:.1f} GB/s, attention {here.fp32 * here.utilisation.attention / 1e9:.0f} GFLOP/s\n"
    )
    steps(here, options.rounds)
    launches(options.rounds)


if __name__ == "__main__":
    main()
