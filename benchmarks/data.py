"""How fast data gets ready: from shards to packed, masked batches, and from raw text to shards.

    python benchmarks/data.py [--shards DIR] [--seconds 10]        # the loader, no model
    python benchmarks/data.py --prepare [--text DIR]               # prepare: reading, cleaning, tokenising

Figures are per second of one core: the processor's time of this process, so that neighbours on the machine only blur
them. Files are read once before, so that they come from memory. The loader has two rows a context, since a rank lays
out every step alone, from lengths only, and makes the texts of its own micro-batches only:

  a rank's own   everything, for one rank that takes all micro-batches
  laying out     what every rank does for those of all others: draws, lengths, packing, counting labels

A rank of N that trains g tokens per second needs g / own + (N - 1) * g / layout < 1 second of a core.
Without ``--shards`` 300 streams of random ids are written, with lengths as in web text (log-normal, mean 740 tokens);
without ``--text`` the translations of installed packages are prepared (many very short texts: the hard case).
Prints Markdown tables for RECORDS.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmbert.data.manifest import Manifest, ShardInfo, StreamInfo
from mmbert.data.pack import Cursor
from mmbert.data.prepare import iterate_text, prepare_text, prepare_tokenizer
from mmbert.data.shard import ShardWriter, read_index
from mmbert.data.steps import Rank, Steps
from mmbert.data.tokenize import prepare_shards
from mmbert.recipe import Recipe

MASK_RATE = {1024: 0.30, 8192: 0.15}
"""As in the published phases."""
MODEL = {"hidden_size": 8, "intermediate_size": 8, "num_layers": 1, "num_heads": 1}


@dataclass(frozen=True)
class Ids:
    """A tokenizer's ids without its texts."""

    fingerprint: str
    vocab_size: int = 256_000
    pad_id: int = 0
    eos_id: int = 1
    bos_id: int = 2
    unk_id: int = 3
    mask_id: int = 4


class Clock:
    """Seconds of the processor that a block took."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add what the block takes."""
        began = time.process_time()
        yield
        self.seconds += time.process_time() - began


def write_shards(folder: Path, streams: int = 300, largest: int = 12_000_000) -> None:
    """Random ids; the sizes of the streams fall as those of languages do."""
    random = np.random.default_rng(0)
    infos = []
    for number in range(streams):
        place, tokens = folder / "web" / f"x{number:03d}_Latn", 0
        writer = ShardWriter(place, {}, max_tokens=2**24)
        while tokens < largest / (number + 1) ** 0.8:
            length = max(1, int(random.lognormal(6.0, 1.1)))
            writer.add(random.integers(5, 256_000, length).astype(np.uint32), length, length)
            tokens += length
        writer.close()
        shards = [
            ShardInfo(
                file=path.relative_to(folder).as_posix(),
                **{key: read_index(path).info[key] for key in ("tokens", "documents", "sha256")},
            )
            for path in sorted(place.glob("*.tokens"))
        ]
        infos.append(
            StreamInfo(
                source="web", language=place.name, tokens=tokens, documents=sum(shard.documents for shard in shards),
                characters=tokens, bytes=tokens, shards=tuple(shards),
            )
        )  # fmt: skip
    Manifest(tokenizer="random", streams=tuple(infos)).save(folder)


def measure(shards: Path, context: int, place: Rank, seconds: float) -> float:
    """Tokens of all ranks' micro-batches per second of one core."""
    phase = {
        "tokens": "1T", "data": {"temperature": 0.5, "max_epochs": None}, "context": context, "peak_lr": 1e-3,
        "mask_rate": MASK_RATE[context], "batch": 4_718_592, "micro_batch": 49_152,
    }  # fmt: skip
    recipe = Recipe.model_validate({"name": "speed", "tokenizer": "none", "model": MODEL, "phases": {"one": phase}})
    steps = Steps(recipe, "one", shards, Ids(Manifest.read(shards).tokenizer), place).after(Cursor())
    next(steps)
    tokens, clock = 0, Clock()
    while clock.seconds < seconds:
        with clock.running():
            tokens += next(steps).tokens
    return tokens / clock.seconds


def loader(shards: Path, seconds: float) -> None:
    """Print the loader's table."""
    for path in shards.rglob("*"):
        if path.is_file():
            path.read_bytes()
    manifest = Manifest.read(shards)
    documents = sum(stream.documents for stream in manifest.streams)
    print(
        f"{len(manifest.streams)} streams, {manifest.tokens:,} tokens, {manifest.tokens / documents:.0f} a document\n"
    )
    print("| context | a rank's own, tokens/s | laying out, tokens/s |\n| ---: | ---: | ---: |")
    for context in MASK_RATE:
        own = measure(shards, context, Rank(), seconds)
        layout = measure(shards, context, Rank(2**20, 2**20 + 1), seconds)
        print(f"| {context:,} | {own / 1e6:.1f}M | {layout / 1e6:.1f}M |", flush=True)


def prepare(text: Path | None, folder: Path) -> None:
    """Print the table of preparing."""
    source = {"kind": "catalogs"} if text is None else {"kind": "jsonl", "path": str(text)}
    phase = {
        "tokens": 1, "data": {"temperature": 1}, "context": 1024, "peak_lr": 1e-3, "mask_rate": 0.3, "batch": 1024,
        "micro_batch": 1024,
    }  # fmt: skip
    recipe = Recipe.model_validate(
        {
            "name": "speed", "sources": {"text": source}, "model": MODEL, "phases": {"one": phase},
            "tokenizer": {"vocab_size": 8192, "sample_characters": 2_000_000},
        }
    )  # fmt: skip
    reading, shards, encoding = Clock(), Clock(), Clock()
    with reading.running():
        prepare_text(recipe, folder)
    tokenizer = prepare_tokenizer(recipe, folder)
    with shards.running():
        manifest = prepare_shards(recipe, folder, tokenizer)
    texts = [text for _, _, text in iterate_text(folder)]
    with encoding.running():
        for begin in range(0, len(texts), 1024):
            tokenizer.encode_batch(texts[begin : begin + 1024])
    size = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{size:.1f} MB of text in {len(texts):,} documents, {manifest.tokens:,} tokens\n")
    print("| stage | MB/s of one core | part of the time |\n| --- | ---: | ---: |")
    whole = reading.seconds + shards.seconds
    stages = {
        "reading, cleaning, copies, storing": reading.seconds,
        "the tokenizer alone": encoding.seconds,
        "the rest of making shards": max(shards.seconds - encoding.seconds, 0.0),
        "all": whole,
    }
    for stage, seconds in stages.items():
        print(f"| {stage} | {size / max(seconds, 1e-9):.1f} | {seconds / whole:.0%} |")


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, help="a folder of shards; default: random ids")
    parser.add_argument("--seconds", type=float, default=10.0, help="of measuring each row")
    parser.add_argument("--prepare", action="store_true", help="measure prepare instead of the loader")
    parser.add_argument("--text", type=Path, help="JSON lines for --prepare")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="data-") as temporary:
        if options.prepare:
            prepare(options.text, Path(temporary))
            return
        shards = options.shards or Path(temporary)
        if options.shards is None:
            write_shards(shards)
        loader(shards, options.seconds)


if __name__ == "__main__":
    main()
