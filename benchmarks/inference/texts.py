"""What is encoded: real text in many languages, cut to the lengths of the published protocol, and a model around it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from mmbert.data.sources.catalogs import load_catalogs
from mmbert.model.config import ModelConfig
from mmbert.model.encoder import Encoder
from mmbert.recipe import TokenizerTraining
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.tokenizer.train import train_tokenizer

LENGTHS = {
    "fixed-512": (512, 512, 0),
    "variable-512": (512, 256, 64),
    "fixed-8192": (8192, 8192, 0),
    "variable-8192": (8192, 4096, 1024),
}
"""Longest, mean and deviation of a normal distribution, clamped to 16 and the longest (as ModernBERT measures)."""

COUNTS = {"fixed-512": 8, "variable-512": 32, "fixed-8192": 1, "variable-8192": 4}
"""Texts of one pass."""

SEED = 42


@dataclass(frozen=True)
class Work:
    """Texts, their ids with <bos> and <eos> as all ways get them, and the longest text that is read."""

    name: str
    texts: list[str]
    sequences: list[np.ndarray]
    longest: int

    @property
    def tokens(self) -> int:
        """Real ones: no padding."""
        return sum(map(len, self.sequences))


@cache
def lines(seed: int = SEED) -> list[str]:
    """Messages of all languages in the catalogs that installed packages have, in random order."""
    found = [message.text for messages in load_catalogs().values() for message in messages]
    return [found[number] for number in np.random.default_rng(seed).permutation(len(found))]


def draw(name: str, tokenizer: Tokenizer, count: int | None = None, longest: int | None = None) -> Work:
    """Texts with the lengths of a row of ``LENGTHS``, or of ``longest`` tokens each."""
    top, mean, deviation = (longest, longest, 0) if longest else LENGTHS[name]
    number = count or COUNTS[name]
    lengths = np.random.default_rng(SEED).normal(mean, deviation, number).round().clip(16, top).astype(int)
    if name == "query":
        lengths = np.array([10])
    texts = cut(lengths.tolist(), tokenizer, exact=not deviation)
    ends = [np.array([index], np.uint32) for index in (tokenizer.bos_id, tokenizer.eos_id)]
    rows = tokenizer.encode_batch(texts, specials=True)
    return Work(name, texts, [np.concatenate([ends[0], row[: top - 2], ends[1]]) for row in rows], top)


def cut(lengths: list[int], tokenizer: Tokenizer, *, exact: bool) -> list[str]:
    """Texts of about so many tokens, ends included; ``exact``: somewhat more, for all to be cut at the longest."""
    wanted = [length - 2 + (length // 8 if exact and length > 16 else 0) for length in lengths]
    stream, texts, found = iter(lines()), list[str](), 0
    while found <= sum(wanted):
        part = [next(stream) for _ in range(2000)]
        found += sum(map(len, tokenizer.encode_batch(part)))
        texts += part
    text = "\n".join(texts)
    ((_, spans),) = tokenizer.encode_spans([text])
    ends = np.cumsum(wanted)
    return [text[spans[end - size, 0] : spans[end - 1, 1]] for end, size in zip(ends, wanted, strict=True)]


def query(tokenizer: Tokenizer) -> Work:
    """One text of ten tokens."""
    return draw("query", tokenizer, 1, 512)


def make_model(folder: Path, shape: str, vocab_size: int) -> None:
    """A folder with random weights of a published shape and a small tokenizer, as transformers reads it."""
    if (folder / "tokenizer.json").is_file():
        return
    tokenizer = train_tokenizer((("mul", line) for line in lines(1)[:60_000]), TokenizerTraining(vocab_size=8192))
    torch.manual_seed(SEED)
    Encoder(ModelConfig.preset(shape, vocab_size=vocab_size, max_context=8192)).save(folder)
    tokenizer.save(folder)
