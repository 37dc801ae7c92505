"""Attention on a CPU: the native kernel beside torch's, interleaved in one process, and what it does to a whole model.

    python benchmarks/attention.py [--heads 6] [--head-dim 64] [--threads 1] [--rounds 9] [--clock wall]
        [--work variable 512 8192 query] [--models]

Work: eight documents of variable length (normal(256, 64), 16 to 512), four of 512, one of 8192, one of 12; global, and
local with the published window. Ways, all from the bf16 product of Wqkv to what goes into Wo, RoPE included:
  native  attention.c
  torch   what layers do without it: fp32, RoPE in place, groups and bands (model/attention.py)
  bf16    the same in bf16
GFLOP/s count what is asked for (4 D per query, head and key that it sees), not what is computed. ``--models``: tokens/s
of the small shape in bf16 and int8, 22 layers of random weights, with and without the kernel. Medians of rounds in
which the ways take turns, in an order that is reversed every round. ``--clock cpu`` takes processor time, for one
thread on a core that is shared. Prints Markdown.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mmbert.inference.native import kernel
from mmbert.inference.onednn_layers import rotate_pairs
from mmbert.inference.precision import apply_precision
from mmbert.model.attention import AttentionPlan, attend, plan_attention
from mmbert.model.config import ModelConfig
from mmbert.model.encoder import Encoder
from mmbert.model.rope import Angles, angles
from mmbert.native import library
from mmbert.native.attention import HEAD_DIMS
from mmbert.packed import Packed

WINDOW = 128

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

WORK = {
    "variable": sorted(np.random.default_rng(42).normal(256, 64, 8).clip(16, 512).astype(int).tolist()),
    "512": [512] * 4,
    "8192": [8192],
    "query": [12],
}


def by_torch(qkv: Tensor, cos_sin: Angles, plan: AttentionPlan, dtype: torch.dtype, *, local: bool) -> Tensor:
    whole = qkv.to(torch.float32)
    rotate_pairs(whole, cos_sin)
    q, k, v = whole.to(dtype).unbind(1)
    return attend(q, k, v, plan, local=local).to(torch.bfloat16)


def seen(length: int, *, local: bool) -> int:
    """Pairs of a query and a key that it sees."""
    where = torch.arange(length)
    half = WINDOW // 2 if local else length
    return int(((where + half).clamp(max=length - 1) - (where - half).clamp(min=0) + 1).sum())


def medians(ways: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of each way."""
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in list(ways.items())[:: 1 if turn % 2 else -1]:
            began = clock()
            way()
            if turn:  # the first round warms up
                samples[name].append(clock() - began)
    return {name: statistics.median(taken) for name, taken in samples.items()}


def compare_attention(options: argparse.Namespace) -> None:
    kernels = kernel.ready(options.head_dim)
    assert kernels  # main has asked
    print("| documents | layer | native GFLOP/s | torch | torch, bf16 | native is faster by | native is off by |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for name in options.work:
        lengths = WORK[name]
        packed = Packed.from_lists([np.zeros(length, np.int64) for length in lengths]).to()
        for local in (False, True):
            qkv = torch.randn(sum(lengths), 3, options.heads, options.head_dim).bfloat16()
            plans = {dtype: plan_attention(packed, WINDOW, dtype) for dtype in (torch.float32, torch.bfloat16)}
            plan = plans[torch.float32]
            cos_sin = angles(plan.positions, options.head_dim, 160_000.0)
            ways: dict[str, Callable[[], Tensor]] = {
                "native": partial(kernels.attend, qkv.to(kernels.dtype(qkv.dtype)), cos_sin, plan, local=local),
                "torch": partial(by_torch, qkv, cos_sin, plan, torch.float32, local=local),
            }
            if not local:  # masks are fp32
                ways["bf16"] = partial(by_torch, qkv, cos_sin, plan, torch.bfloat16, local=local)
            found, wanted = ways["native"]().float(), ways["torch"]().float()
            times = medians(ways, 3 if sum(lengths) == 8192 else options.rounds, CLOCKS[options.clock])
            work = 4e-9 * options.heads * options.head_dim * sum(seen(length, local=local) for length in lengths)
            speeds = [f"{work / times[way]:.0f}" if way in times else "" for way in ("native", "torch", "bf16")]
            off = float((found - wanted).norm() / wanted.norm())
            print(
                f"| {name} | {'local' if local else 'global'} | {' | '.join(speeds)} |"
                f" {times['torch'] / times['native']:.2f}x | {off:.1e} |"
            )


def compare_models(options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 384, "intermediate_size": 1152, "num_layers": 22, "num_heads": 6}
    plain = Encoder(ModelConfig(vocab_size=32_000, **shape)).eval().requires_grad_(False)
    models = {}
    for precision in ("bf16", "int8"):
        for on in (True, False):
            library.use(on)
            models[precision, on] = copy.deepcopy(plain)
            apply_precision(models[precision, on], torch.device("cpu"), precision)
    print("\n| small | bf16 tokens/s | without the kernel | | int8 | without | |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in options.work:
        lengths = WORK[name]
        rng = np.random.default_rng(0)
        packed = Packed.from_lists([rng.integers(300, 32_000, length) for length in lengths]).to()
        ways = {f"{precision} {on}": partial(model, packed) for (precision, on), model in models.items()}
        times = medians(ways, 2 if sum(lengths) == 8192 else options.rounds, CLOCKS[options.clock])
        cells = []
        for precision in ("bf16", "int8"):
            mine, torchs = times[f"{precision} True"], times[f"{precision} False"]
            cells += [f"{sum(lengths) / mine:,.0f}", f"{sum(lengths) / torchs:,.0f}", f"{torchs / mine:.2f}x"]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--head-dim", type=int, default=64, choices=HEAD_DIMS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--models", action="store_true", help="whole models too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not kernel.ready(options.head_dim):
        parser.error(f"attention here is {kernel.describe()}")
    print(
        f"{options.heads} heads of {options.head_dim}, {options.threads} thread(s), torch {torch.__version__}, "
        f"{kernel.describe()}; medians of {options.rounds} rounds, {options.clock} time\n"
    )
    with torch.inference_mode():
        compare_attention(options)
        if options.models:
            compare_models(options)


if __name__ == "__main__":
    main()
