"""Training steps, ours beside transformers' ModernBERT, taking turns on the same texts, each in a process of its own.

    python benchmarks/training.py [--shape nano] [--vocab-size 32000] [--context 1024] [--tokens 8192]

Ways to take one optimiser step on the same masked tokens:
  ours     packed, MaskedLM + StableAdamW as the training loop does it, in the loop's precision
  sparse   transformers, padded to the longest, sparse_prediction, bf16 autocast where the CPU has bf16: its best
  sorted   the same, the texts sorted by length and cut into batches of equal padded size, gradients accumulated
  default  transformers, padded to the longest, all logits, fp32: its defaults
Figures are tokens (never padding) per second: medians over rounds in which the ways take turns, since a machine with
neighbours gives meaningless absolute numbers. ``floor`` is the part of the time that the step's matrix products alone
would need, at the speed measured between the rounds for one product of the shape's own size in our precision.
``--clock cpu`` counts the processor's time instead of the clock's: on a shared machine, with one thread.
Memory is the peak of resident memory beyond the imports. Prints a Markdown table for RECORDS.md. Lengths are log-normal
around a quarter of the context, as in web text;
``--full`` makes every text as long as the context, so that there is no padding to save.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM

from mmbert import cpu
from mmbert.memory import keep_memory
from mmbert.model.config import ModelConfig
from mmbert.model.count import flops_per_token
from mmbert.model.heads import MaskedLM
from mmbert.model.weights import config_to_hf
from mmbert.packed import Packed
from mmbert.training.loss import loss_sum
from mmbert.training.optim import StableAdamW, parameter_groups
from mmbert.training.run_folder import choose_precision

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
IGNORED = -100
FIRST_ID = 300
"""Below are specials and bytes."""

Step = Callable[[], None]


def texts(tokens: int, context: int, vocab_size: int, *, full: bool) -> list[np.ndarray]:
    """Sequences of ``tokens`` tokens in all."""
    random = np.random.default_rng(0)
    found: list[np.ndarray] = []
    left = tokens
    while left:
        drawn = context if full else max(8, int(random.lognormal(np.log(context / 4), 0.8)))
        length = min(left, context, drawn)
        found.append(random.integers(FIRST_ID, vocab_size, length))
        left -= length
    return found


def ours(config: ModelConfig, sequences: list[np.ndarray], rate: float) -> Step:
    """One step as ``training/loop.py`` takes it."""
    model = MaskedLM(config).train()
    optimizer = StableAdamW(parameter_groups(model, 0.1), lr=1e-4)
    whole = Packed.from_lists(sequences)
    targets = np.flatnonzero(np.random.default_rng(1).random(whole.tokens) < rate)
    packed = Packed(whole.ids, whole.offsets, whole.longest, targets, whole.ids[targets]).to("cpu")
    precision = choose_precision(torch.device("cpu"), config.hidden_size)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_sum(model, packed)
        (loss / len(targets)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def theirs(config: ModelConfig, batches: list[list[np.ndarray]], rate: float, *, best: bool) -> Step:
    """One step of transformers' model with AdamW over padded batches."""
    values = config_to_hf(config) | {"sparse_prediction": best}
    model = ModernBertForMaskedLM(ModernBertConfig(**values)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    random = np.random.default_rng(1)
    padded = [_pad(batch, rate, random) for batch in batches]
    half = best and cpu.bf16_instructions() is not None  # emulated bf16 is ten times slower than fp32

    def step() -> None:
        for ids, mask, labels in padded:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
            (loss / len(padded)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _pad(sequences: list[np.ndarray], rate: float, random: np.random.Generator) -> tuple[torch.Tensor, ...]:
    ids = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, sequence in enumerate(sequences):
        known = torch.from_numpy(sequence)
        chosen = torch.from_numpy(random.random(len(sequence)) < rate)
        ids[row, : len(sequence)], mask[row, : len(sequence)] = known, 1
        labels[row, : len(sequence)] = known.where(chosen, torch.tensor(IGNORED))
    return ids, mask, labels


def in_batches(sequences: list[np.ndarray], padded_tokens: int) -> list[list[np.ndarray]]:
    """Texts sorted by length, each batch at most ``padded_tokens`` with its padding."""
    batches: list[list[np.ndarray]] = [[]]
    for sequence in sorted(sequences, key=len):
        if batches[-1] and len(sequence) * (len(batches[-1]) + 1) > padded_tokens:
            batches.append([])
        batches[-1].append(sequence)
    return batches


def make(name: str, options: argparse.Namespace) -> Step:
    """One of the ways, with weights of its own."""
    config = shape(options)
    sequences = texts(options.tokens, options.context, options.vocab_size, full=options.full)
    if name == "ours":
        return ours(config, sequences, options.mask_rate)
    batches = [sequences]
    if name == "sorted":
        batches = in_batches(sequences, max(options.tokens // 4, options.context))
    return theirs(config, batches, options.mask_rate, best=name != "default")


def shape(options: argparse.Namespace) -> ModelConfig:
    return ModelConfig.preset(options.shape, vocab_size=options.vocab_size, max_context=options.context)


def matrix_speed(config: ModelConfig, tokens: int, clock: Callable[[], float]) -> float:
    """FLOP/s of the MLP's first product at this shape, in the loop's precision."""
    precision = choose_precision(torch.device("cpu"), config.hidden_size)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x = torch.randn(min(tokens, 2048), config.hidden_size, dtype=dtype)
    w = torch.randn(2 * config.intermediate_size, config.hidden_size, dtype=dtype)
    started, times = clock(), 10
    for _ in range(times):
        torch.nn.functional.linear(x, w)
    return times * 2.0 * x.shape[0] * w.numel() / (clock() - started)


def peak_kib() -> int:
    """Of this process; ``getrusage`` would begin with its parent's."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="nano", choices=["nano", "small", "base"])
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--mask-rate", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--ways", nargs="+", default=["ours", "sparse", "sorted", "default"])
    parser.add_argument("--full", action="store_true", help="all texts as long as the context")
    parser.add_argument("--profile", action="store_true", help="instead: where the time of one step of ours goes")
    parser.add_argument("--step", help=argparse.SUPPRESS)  # what a way's own process is told
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.profile:
        profile(options)
    elif options.step:
        serve(options)
    else:
        report(options, *measure(options))


def profile(options: argparse.Namespace) -> None:
    """Print the operations of one step of ours, the slowest first."""
    keep_memory()
    step = make("ours", options)
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        step()
    columns = {"sort_by": "self_cpu_time_total", "row_limit": 12, "max_name_column_width": 60}
    print(found.key_averages().table(**columns))


def serve(options: argparse.Namespace) -> None:
    """One step of one way for every line of stdin; seconds and KiB of peak memory on stdout."""
    if options.step == "ours":
        keep_memory()
    before, clock = peak_kib(), CLOCKS[options.clock]
    step = make(options.step, options)
    for _ in sys.stdin:
        started = clock()
        step()
        print(clock() - started, peak_kib() - before, flush=True)


class Way:
    """A process that steps when asked."""

    def __init__(self, name: str) -> None:
        command = [sys.executable, __file__, *sys.argv[1:], "--step", name]
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seconds: list[float] = []
        self.memory = 0.0

    def step(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        told = self.process.stdout.readline()
        if not told:
            sys.exit(
                f"the process of {self.name} ended with {self.process.wait()}: too little memory for all ways at once?"
            )
        seconds, kib = told.split()
        self.seconds.append(float(seconds))
        self.memory = int(kib) / 2**20


def measure(options: argparse.Namespace) -> tuple[dict[str, Way], float]:
    """The ways after their turns, and the median speed of a matrix product between them."""
    ways = {name: Way(name) for name in options.ways}
    speeds: list[float] = []
    for turn in range(options.rounds + 1):
        for way in list(ways.values()) if turn % 2 else reversed(ways.values()):
            speeds.append(matrix_speed(shape(options), options.tokens, CLOCKS[options.clock]))
            way.step()
    for way in ways.values():
        way.seconds.pop(0)  # the first round warms up
        way.process.stdin.close()
        way.process.wait()
    return ways, statistics.median(speeds)


def report(options: argparse.Namespace, ways: dict[str, Way], speed: float) -> None:
    """Print the table."""
    sequences = texts(options.tokens, options.context, options.vocab_size, full=options.full)
    mean_length = sum(len(s) ** 2 for s in sequences) / options.tokens
    flops = flops_per_token(shape(options), mean_length, mask_rate=options.mask_rate).training * options.tokens
    padded = len(sequences) * max(map(len, sequences))
    print(
        f"{options.shape}, vocabulary {options.vocab_size:,}, context {options.context}, {len(sequences)} texts of "
        f"{options.tokens} tokens ({padded} padded to the longest), {options.mask_rate:.0%} masked; {options.threads} "
        f"thread(s), {options.clock} time, medians of {options.rounds} rounds; one product: {speed / 1e9:.0f} GFLOP/s\n"
    )
    print("| step | tokens/s | ours is faster by | of the matrix floor | peak memory |")
    print("| --- | ---: | ---: | ---: | ---: |")
    medians = {name: statistics.median(way.seconds) for name, way in ways.items()}
    for name, seconds in medians.items():
        ratio = f"{seconds / medians['ours']:.2f}x" if "ours" in medians else ""
        print(
            f"| {name} | {options.tokens / seconds:,.0f} | {ratio} | {flops / speed / seconds:.0%} | "
            f"{ways[name].memory:.2f} GiB |"
        )


if __name__ == "__main__":
    main()
