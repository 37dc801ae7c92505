"""What a checkpoint costs the training loop: the wait for the copy in memory, beside the time until it is on disk.

    python benchmarks/checkpoint.py [--shape small] [--vocab-size 256000] [--folder DIR] [--rounds 3]

Saves as the loop does (``training/saver.py``), each time followed by ``Saver.wait``: the loop is held up by ``save``
only, unless it asks for the next one before the disk is done. Prints a Markdown table for RECORDS.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from mmbert.data.sources.catalogs import read_catalogs
from mmbert.model.config import ModelConfig
from mmbert.model.heads import MaskedLM
from mmbert.recipe import Recipe, TokenizerTraining
from mmbert.tokenizer.train import train_tokenizer
from mmbert.training.checkpoint import State, tensors_of
from mmbert.training.distributed import Mesh
from mmbert.training.optim import StableAdamW, parameter_groups
from mmbert.training.phase_context import PhaseContext
from mmbert.training.saver import Saver

SAMPLE = 200
"""Documents for a tokenizer to save; its size does not matter here."""


def job_in(folder: Path) -> PhaseContext:
    """The first phase of a published recipe, in a folder of its own."""
    documents = read_catalogs(("pycountry",))
    texts = [(found.language, found.text) for _, found in zip(range(SAMPLE), documents, strict=False)]
    tokenizer = train_tokenizer(texts, TokenizerTraining(vocab_size=512, sample_characters=100_000))
    return PhaseContext(Recipe.load("mmbert-small"), "pretrain", folder, folder, tokenizer, Mesh(), "bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="small", choices=["nano", "small", "base"])
    parser.add_argument("--vocab-size", type=int, default=256_000)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the system's temporary folder")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model = MaskedLM(ModelConfig.preset(options.shape, vocab_size=options.vocab_size))
    optimizer = StableAdamW(parameter_groups(model, 0.1), lr=1e-4)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(model, optimizer).values())
    held, whole = [], []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, Saver(ctx := job_in(Path(folder))) as saver:
        state = State(ctx.name)
        for number in range(options.rounds):
            state = replace(state, cursor=replace(state.cursor, step=number))
            began = time.perf_counter()
            saver.save(state, model, optimizer)
            held.append(time.perf_counter() - began)
            saver.wait()
            whole.append(time.perf_counter() - began)
    print(f"{options.shape}, vocabulary {options.vocab_size:,}: {size / 2**30:.2f} GiB, torch {torch.__version__}, ")
    print(f"medians of {options.rounds} saves\n")
    print("| | seconds |\n| --- | ---: |")
    print(f"| the loop waits | {statistics.median(held):.2f} |")
    print(f"| on disk, flushed, with checksums | {statistics.median(whole):.2f} |")


if __name__ == "__main__":
    main()
