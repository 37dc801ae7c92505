"""Training steps, ours beside transformers' ModernBERT, interleaved in one process, on the same texts.

    python benchmarks/training.py [--shape nano|small] [--context 1024] [--tokens 8192] [--rounds 5]

Three ways to take one optimiser step on the same masked tokens:
  ours     packed, MaskedLM + StableAdamW as the training loop does it, in the loop's precision
  sparse   transformers, padded to the longest, sparse_prediction, bf16 autocast: its best settings
  default  transformers, padded to the longest, all logits, fp32: its defaults
Figures are tokens (never padding) per second: medians over rounds in which the ways take turns, since a machine with
neighbours gives meaningless absolute numbers. Prints a Markdown table for RECORDS.md. Lengths are log-normal around a
quarter of the context, as in web text.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM

from mmbert.model.config import ModelConfig
from mmbert.model.heads import MaskedLM
from mmbert.model.weights import config_to_hf
from mmbert.packed import Packed
from mmbert.training.folder import choose_precision
from mmbert.training.loss import loss_sum
from mmbert.training.optim import StableAdamW, parameter_groups

IGNORED = -100


def texts(tokens: int, context: int, vocab_size: int, seed: int = 0) -> list[np.ndarray]:
    """Sequences of ``tokens`` tokens in all."""
    random = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    left = tokens
    while left:
        length = min(left, context, max(8, int(random.lognormal(np.log(context / 4), 0.8))))
        found.append(random.integers(300, vocab_size, length))
        left -= length
    return found


def ours(config: ModelConfig, sequences: list[np.ndarray], rate: float) -> Callable[[], None]:
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


def theirs(config: ModelConfig, sequences: list[np.ndarray], rate: float, *, best: bool) -> Callable[[], None]:
    values = config_to_hf(config) | {"sparse_prediction": best}
    model = ModernBertForMaskedLM(ModernBertConfig(**values)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    longest = max(map(len, sequences))
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    random = np.random.default_rng(1)
    for row, sequence in enumerate(sequences):
        known = torch.from_numpy(sequence)
        chosen = torch.from_numpy(random.random(len(sequence)) < rate)
        ids[row, : len(sequence)], mask[row, : len(sequence)] = known, 1
        labels[row, : len(sequence)] = known.where(chosen, torch.tensor(IGNORED))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=best):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="nano", choices=["nano", "small", "base"])
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--mask-rate", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = ModelConfig.preset(options.shape, vocab_size=options.vocab_size, max_context=options.context)
    sequences = texts(options.tokens, options.context, options.vocab_size)
    ways = {
        "ours": ours(config, sequences, options.mask_rate),
        "transformers, sparse, bf16": theirs(config, sequences, options.mask_rate, best=True),
        "transformers, default": theirs(config, sequences, options.mask_rate, best=False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(options.rounds + 1):
        for name in list(ways) if turn % 2 else reversed(list(ways)):
            started = time.perf_counter()
            ways[name]()
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    padded = len(sequences) * max(map(len, sequences))
    print(
        f"{options.shape}, context {options.context}, {len(sequences)} texts, {options.tokens} tokens, {padded} padded"
    )
    print(f"{options.threads} thread(s), torch {torch.__version__}, medians of {options.rounds} interleaved rounds\n")
    print("| step | tokens/s | ours is faster by |\n| --- | ---: | ---: |")
    best = statistics.median(seconds["ours"])
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"| {name} | {options.tokens / median:,.0f} | {median / best:.2f}x |")


if __name__ == "__main__":
    main()
