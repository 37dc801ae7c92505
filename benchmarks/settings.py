"""What the settings of an Embedder change, on your model, your texts and this machine: time, error, what is found.

    python benchmarks/settings.py runs/nano/final texts.jsonl --texts 300

Times are of the process (all its threads), ways taking turns, medians; each table begins with what the others are
compared with. "found" is the share of the ten nearest texts by float32 in fp32 that are among the ten nearest.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterator
from itertools import islice
from statistics import median
from typing import Any

import numpy as np

from mmbert import Embedder
from mmbert.cli.input import open_lines
from mmbert.inference.vectors import Output

OUTPUTS: tuple[Output, ...] = ("float32", "float16", "int8", "binary")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("file", help="lines of text, or JSON lines with a text; - is standard input")
    parser.add_argument("--texts", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16", "int8"])
    given = parser.parse_args()
    logging.getLogger("mmbert").setLevel(logging.ERROR)  # of texts that are cut: said once is enough, not by each way
    texts = list(islice((text for line in open_lines(given.file) if (text := line.text()).strip()), given.texts))
    exact = Embedder.load(given.model, precision="fp32")
    tokens = [len(ids) + 2 for ids in exact.loaded.tokenizer.encode_batch(texts)]
    middle, longest = int(median(tokens)), max(tokens)
    print(f"{len(texts):,} texts of {middle} tokens (median), the longest {longest:,}; {exact.loaded.device}\n")
    vectors = exact(texts, progress=False)
    precisions(given.model, given.precisions, texts, vectors, given.rounds)
    companies(exact, texts, given.rounds)
    long_text(exact, texts, given.rounds)
    sizes(exact, texts, vectors)


def precisions(model: str, names: list[str], texts: list[str], vectors: np.ndarray, rounds: int) -> None:
    embedders = {name: Embedder.load(model, precision=name) for name in names}
    ways = {name: lambda embed=embed: embed(texts, progress=False) for name, embed in embedders.items()}
    print("| precision | faster | smallest cosine to fp32 | found |\n| --- | ---: | ---: | ---: |")
    for name, share, found in taken_in_turns(ways, rounds):
        cosine = (found * vectors).sum(axis=1).min()
        print(f"| `{name}` | {share:.2f}x | {cosine:.5f} | {kept(vectors, found):.1%} |")


def companies(embed: Embedder, texts: list[str], rounds: int) -> None:
    """How many texts are handed over at once: so many are sorted by length together."""

    def by(size: int) -> Any:
        return [embed(texts[start : start + size], progress=False) for start in range(0, len(texts), size)]

    ways = {f"{size:,} a call": lambda size=size: by(size) for size in (1, 32, len(texts))}
    print("\n| texts | faster |\n| --- | ---: |")
    for name, share, _ in taken_in_turns(ways, rounds):
        print(f"| {name} | {share:.2f}x |")


def long_text(embed: Embedder, texts: list[str], rounds: int) -> None:
    """All texts as one document, four times as long as the model reads."""
    document = "\n".join(texts)
    ids, spans = embed.loaded.tokenizer.encode_spans([document])[0]
    document = document[: int(spans[min(len(ids), 4 * embed.max_tokens) - 1, 1])]
    ways: dict[str, Callable[[], Any]] = {
        "cut at what is read": lambda: [embed(document)],
        "windows": lambda: embed(document, chunking="windows"),
        "windows of 256 tokens": lambda: embed.passages(document, chunking="windows", size=256),
        "late": lambda: embed(document, chunking="late"),
    }
    print("\n| one text of four times the model's length | time | vectors |\n| --- | ---: | ---: |")
    for name, share, found in taken_in_turns(ways, rounds):
        print(f"| {name} | {1 / share:.1f} | {len(found):,} |")


def sizes(embed: Embedder, texts: list[str], vectors: np.ndarray) -> None:
    """Smaller vectors: by type of number, and by dimensions (only models trained for it keep what they find)."""
    embed.calibrate(texts)
    print("\n| vectors | bytes | found |\n| --- | ---: | ---: |")
    for output in OUTPUTS:
        found = embed(texts, output=output, progress=False)
        bits = np.unpackbits(found.view(np.uint8) ^ 128, axis=1) * 2.0 - 1 if output == "binary" else found
        print(f"| `{output}` | {found[0].nbytes} | {kept(vectors, _unit(bits.astype(np.float32))):.1%} |")
    for dimensions in (embed.dimensions // 2, embed.dimensions // 4):
        found = embed(texts, dimensions=dimensions, progress=False)
        print(f"| the first {dimensions} dimensions | {found[0].nbytes} | {kept(vectors, found):.1%} |")


def taken_in_turns(ways: dict[str, Callable[[], Any]], rounds: int) -> Iterator[tuple[str, float, Any]]:
    """(name, how many times as fast as the first, what came of it)."""
    found = {name: way() for name, way in ways.items()}  # once for nothing: caches, compiled loops
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.process_time()
            way()
            times[name].append(time.process_time() - begun)
    first = median(next(iter(times.values())))
    for name in ways:
        yield name, first / median(times[name]), found[name]


def kept(exact: np.ndarray, found: np.ndarray, nearest: int = 10) -> float:
    """Of the nearest texts of each text by exact vectors, the share that are nearest by others."""

    def top(vectors: np.ndarray) -> np.ndarray:
        scores = vectors @ vectors.T
        np.fill_diagonal(scores, -np.inf)
        return np.argpartition(-scores, nearest, axis=1)[:, :nearest]

    pairs = zip(top(exact), top(found), strict=True)
    return float(np.mean([len(set(one) & set(other)) / nearest for one, other in pairs]))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


if __name__ == "__main__":
    main()
