"""Texts to vectors, ours beside everybody's, interleaved in one process, on the same real tokens.

    python benchmarks/inference/run.py [--shape small] [--lengths variable-512 ...] [--ways ours-bf16 hf-fp32 ...]
        [--latency] [--memory] [--growth] [--equal MODEL] [--threads 1] [--rounds 5] [--home DIR]

Ways are named in ways.py; by default all. Ways that say "from text" tokenise, the others begin with ids. Weights are
random and the same for ours, transformers, sentence-transformers and ONNX Runtime (speed does not depend on them).
Lengths are those of ModernBERT's efficiency script, texts are real: translations in installed packages. Each peer that
pads takes the batch that was fastest for the table's lengths.

In each round every way encodes all texts once, in turn, the order reversed every round; figures are medians of the
samples in which other processes left us the cores that we need (``clean``; a tilde where fewer than two were, and all
are taken). ``--clock cpu`` takes processor time instead, to look at one thread on a core that is shared.

--equal compares vectors of a trained model's folder first; --growth is the cost of a token by length; --memory the peak
of resident memory with weights and without libraries, each way in a process of its own; --latency one short query.
Prints Markdown for RECORDS.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from guard import Sample, forget_peak, median, memory_mib, take
from tables import equal_table, growth_table, latency_table, speed_table
from texts import COUNTS, LENGTHS, Work, draw, lines, make_model, query
from ways import SHORT, WAYS, Setting, tune

from mmbert.tokenizer.tokenizer import Tokenizer

GROWTH = (512, 1024, 2048, 4096, 8192)


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="inference-") as temporary:
        home = Path(options.home or temporary) / f"{options.shape}-{options.vocab_size}"
        options.home = str(home.parent)  # for the processes that measure memory
        make_model(home, options.shape, options.vocab_size)
        setting = Setting(home, home / "onnx", options.threads, options.vocab_size)
        if options.peak:
            peak(setting, options)
            return
        print(conditions(options))
        if options.equal:
            check_equal(options)
        if options.growth:
            grow(setting, options)
        elif not options.only_equal:
            race(setting, options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="small", choices=["small", "base"])
    parser.add_argument("--vocab-size", type=int, default=32_000, help="rows of every model's embedding")
    parser.add_argument("--lengths", nargs="+", default=["fixed-512", "variable-512"], choices=[*LENGTHS])
    parser.add_argument("--ways", nargs="+", default=[*WAYS], choices=[*WAYS], metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--texts", type=int, help=f"texts of a pass; default: {COUNTS}")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 8, 16, 32], help="tried for peers that pad")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--growth", action="store_true", help="ours alone, by length, instead of the tables")
    parser.add_argument("--equal", type=Path, metavar="MODEL", help="compare vectors of this trained model first")
    parser.add_argument("--only-equal", action="store_true", help="and nothing else")
    parser.add_argument("--home", help="a folder that keeps models and ONNX files; default: one that is removed")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    return parser.parse_args()


def conditions(options: argparse.Namespace) -> str:
    """Machine, versions and command."""
    names = ("torch", "transformers", "sentence-transformers", "onnxruntime")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    chip = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return (
        f"    python benchmarks/inference/run.py {' '.join(sys.argv[1:])}\n\n"
        f"{chip}, {os.cpu_count()} cores, {options.threads} thread(s), {options.clock} time; {versions}, "
        f"Python {platform.python_version()}; {options.shape} shape, random weights, {options.vocab_size:,} rows of "
        f"embedding; medians of {options.rounds} interleaved rounds\n"
    )


def rounds(calls: dict[str, Callable[[], object]], number: int) -> dict[str, list[Sample]]:
    """Samples of each call, taken in turn, the order reversed every round; one round before that warms up."""
    samples: dict[str, list[Sample]] = {name: [] for name in calls}
    for turn in range(number + 1):
        for name in list(calls) if turn % 2 else reversed(list(calls)):
            sample = take(calls[name])
            if turn:
                samples[name].append(sample)
    return samples


def race(setting: Setting, options: argparse.Namespace) -> None:
    """The tables of speed, one for each row of lengths, and that of latency."""
    tokenizer = Tokenizer.load(setting.folder)
    made: dict[str, Any] = {name: WAYS[name](setting) for name in options.ways}
    for lengths in options.lengths:
        work = draw(lengths, tokenizer, options.texts)
        handler_for = {name: way for name, way in made.items() if work.longest <= 512 or name not in SHORT}
        batches = {name: tune(way, work, options.batches) for name, way in handler_for.items()}
        calls: dict[str, Callable[[], object]] = {name: partial(way, work) for name, way in handler_for.items()}
        samples = rounds(calls, options.rounds)
        figures = {name: median(taken, options.threads, options.clock) for name, taken in samples.items()}
        memory = (
            {name: peak_of(name, lengths, batches[name], options) for name in handler_for} if options.memory else {}
        )
        print(speed_table(work, figures, batches, memory), flush=True)
    if options.latency:
        race_latency(query(tokenizer), made, options)


def race_latency(work: Work, made: dict[str, Any], options: argparse.Namespace) -> None:
    """A sample is as many queries as take some tenths of a second."""
    for way in made.values():
        way(work)
    times = {name: max(1, round(0.4 / take(partial(way, work)).wall)) for name, way in made.items()}
    calls: dict[str, Callable[[], object]] = {
        name: (lambda w=way, n=times[name]: [w(work) for _ in range(n)]) for name, way in made.items()
    }
    samples = rounds(calls, options.rounds)
    figures = {name: median(taken, options.threads, options.clock) for name, taken in samples.items()}
    print(latency_table(work, figures, times), flush=True)


def grow(setting: Setting, options: argparse.Namespace) -> None:
    """Ours alone: what a token costs in ever longer texts."""
    tokenizer = Tokenizer.load(setting.folder)
    ours = [name for name in options.ways if name.startswith("ours") and not name.endswith("text")]
    works = {length: draw("fixed-512", tokenizer, max(1, 4096 // length), length) for length in GROWTH}
    made = {name: WAYS[name](setting) for name in ours}
    calls: dict[str, Callable[[], object]] = {
        f"{name} {length}": partial(way, work) for length, work in works.items() for name, way in made.items()
    }
    samples = rounds(calls, options.rounds)
    figures = {name: median(taken, options.threads, options.clock) for name, taken in samples.items()}
    print(growth_table(options.shape, works, ours, figures), flush=True)


def check_equal(options: argparse.Namespace) -> None:
    """Vectors of every way that has the trained model, beside those of transformers in fp32."""
    with tempfile.TemporaryDirectory(prefix="onnx-") as home:
        setting = Setting(options.equal, Path(home), options.threads, options.vocab_size)
        work = draw("variable-512", Tokenizer.load(options.equal), 64)
        wanted = WAYS["hf-fp32"](setting)(work)
        names = [name for name in options.ways if name not in SHORT]
        print(equal_table(options.equal.name, work, wanted, {name: WAYS[name](setting)(work) for name in names}))


def peak_of(name: str, lengths: str, batch: int | str, options: argparse.Namespace) -> float:
    """MiB of a process that makes one way and runs it twice."""
    command = [
        sys.executable, __file__, "--peak", name, "--shape", options.shape, "--vocab-size", str(options.vocab_size),
        "--lengths", lengths, "--threads", str(options.threads), "--home", options.home,
        *(["--texts", str(options.texts)] if options.texts else []),
        *(["--batches", str(batch)] if isinstance(batch, int) else []),
    ]  # fmt: skip
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak(setting: Setting, options: argparse.Namespace) -> None:
    """What :func:`peak_of` runs: prints MiB of weights and of what two passes need; not what loading needed."""
    work = draw(options.lengths[0], Tokenizer.load(setting.folder), options.texts)
    lines.cache_clear()
    forget_peak()
    before = memory_mib("VmRSS")
    way: Any = WAYS[options.peak](setting)
    if not options.peak.startswith("ours"):
        way.batch = options.batches[0]
    forget_peak()
    way(work)
    way(work)
    print(memory_mib("VmHWM") - before)


if __name__ == "__main__":
    main()
