"""Tokens per second of an encoder on lengths as ModernBERT's benchmark draws them (2412.13663, efficiency/).

Random token ids, four sets: 512 fixed; short of 16 to 512 around 256; 8,192 fixed; long of 16 to 8,192 around 4,096.
Counted are tokens that are there, no padding; sets longer than the model reads are left out. The original takes 4,096
texts a set; here ``limit`` of the task, in the batches of inference. A model that reads less than 512 tokens is
measured at its own longest.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from mmbert.evaluation.results import TaskScore
from mmbert.inference.batching import cut
from mmbert.inference.embedder import Embedder
from mmbert.inference.load import Loaded, load
from mmbert.packed import Packed

SETS = {
    "512 fixed": (512, None),
    "512 variable": (512, (256.0, 64.0)),
    "8192 fixed": (8192, None),
    "8192 variable": (8192, (4096.0, 1024.0)),
}
"""Name -> (longest, (mean, deviation) of a clamped normal, or all of one length)."""

BATCH = 16_384
"""Tokens of a forward pass."""

SHORTEST = 16
FIRST_ID, LAST_ID = 100, 16_000


def measure(folder: Path, texts: int, repeats: int = 3) -> dict[str, TaskScore]:
    """Return the fastest of ``repeats`` passes of each set, over ``texts`` random texts."""
    loaded = load(folder)
    found = {}
    fitting = {name: lengths for name, lengths in SETS.items() if lengths[0] <= loaded.max_tokens}
    for name, (longest, spread) in (fitting or {f"{loaded.max_tokens} fixed": (loaded.max_tokens, None)}).items():
        batches = _batches(loaded, draw_lengths(texts, longest, spread))
        tokens = sum(batch.tokens for batch in batches)
        _pass(loaded, batches[:1])  # compiles kernels and allocates
        # the fastest pass: whatever else runs on the machine only makes a pass slower
        seconds = min(_pass(loaded, batches) for _ in range(repeats))
        found[name] = TaskScore(rows=texts, scores={"tokens_per_second": tokens / seconds})
    return found


def draw_lengths(texts: int, longest: int, spread: tuple[float, float] | None, seed: int = 42) -> np.ndarray:
    """Return (texts,) tokens of each text."""
    if spread is None:
        return np.full(texts, longest)
    drawn = np.random.default_rng(seed).normal(*spread, size=texts)
    return np.asarray(np.clip(drawn.round().astype(int), SHORTEST, longest))


def _batches(loaded: Loaded, lengths: np.ndarray) -> list[Packed]:
    rng = np.random.default_rng(0)
    last = min(LAST_ID, loaded.config.vocab_size)
    rows = [rng.integers(min(FIRST_ID, last // 2), last, length) for length in lengths.tolist()]
    return [batch.packed for batch in cut(rows, rows, BATCH)]


def _pass(loaded: Loaded, batches: list[Packed]) -> float:
    """Seconds of all batches through the encoder."""
    embedder = Embedder(loaded)
    started = time.perf_counter()
    with torch.inference_mode():
        for batch in batches:
            embedder.states(batch.to(loaded.device))
        if loaded.device.type == "cuda":
            torch.cuda.synchronize()
    return time.perf_counter() - started
