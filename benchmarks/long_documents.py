"""Time and memory of encoding one document of up to 32,768 tokens, with RoPE scaled by YaRN.

    python benchmarks/long_documents.py [--shape small] [--precision auto] [--lengths 8192 16384 32768]

Random weights of a published shape with a vocabulary of 32,000, one thread. Every length is a process of its own:
seconds of processor of one pass, and how much the pass added to the largest resident memory. The local layers and
everything but the scores of the global layers are linear in the length; the scores are never in memory at once.
Prints Markdown for RECORDS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from mmbert.inference.precision import apply_precision
from mmbert.model.config import ModelConfig
from mmbert.model.encoder import Encoder
from mmbert.packed import Packed
from mmbert.rope_scaling import RopeScaling

YARN = RopeScaling(rope_type="yarn", factor=4, original_max_position_embeddings=8192)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="small", choices=["small", "base"])
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 16384, 32768])
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)  # a child process: one length
    options = parser.parse_args()
    if options.only:
        print(json.dumps(encode(options)))
        return
    print(f"    python benchmarks/long_documents.py {' '.join(sys.argv[1:])}\n")
    print("| tokens | precision | seconds | tokens/s | MB added by the pass | bytes a token |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for length in options.lengths:
        command = [sys.executable, __file__, *sys.argv[1:], "--only", str(length)]
        done = subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        seconds, added, used = json.loads(done.stdout)
        print(f"| {length:,} | {used} | {seconds:.1f} | {length / seconds:,.0f} | {added / 1e6:,.0f} | "
              f"{added / length:,.0f} |", flush=True)  # fmt: skip


def encode(options: argparse.Namespace) -> tuple[float, float, str]:
    """Return seconds of processor, bytes added to the peak, and the precision used."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = ModelConfig.preset(options.shape, vocab_size=32_000, max_context=32_768, rope_scaling=YARN)
    encoder = Encoder(config).eval().requires_grad_(False)
    used = apply_precision(encoder, torch.device("cpu"), options.precision)
    short, long = (Packed.from_lists([torch.randint(5, 32_000, (n,)).tolist()]).to() for n in (64, options.only))
    with torch.inference_mode():
        encoder(short)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins again at what is resident now
        before = peak()
        begun = time.process_time()
        encoder(long)
        seconds = time.process_time() - begun
    return seconds, peak() - before, used


def peak() -> float:
    """Return the largest resident memory in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
