"""GGUF files of a model in llama.cpp itself: are ids and vectors those of the folder, and how fast are both?

    python benchmarks/gguf_files.py MODEL TEXT [--languages 150] [--texts 6] [--rounds 3]

MODEL is an embedding model's folder, TEXT a folder with <language>.jsonl[.gz], of which some texts of each language are
taken, cut to 400 characters. Exports MODEL as f32, f16 and q8_0, and computes every text by llama.cpp
(llama-cpp-python, one text at a time) and by ``Embedder`` (fp32 and int8), from token ids. One thread, seconds of
processor, systems take turns, medians. Cosines are against ``Embedder`` in fp32. Prints Markdown for RECORDS.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
import torch

import mmbert
from mmbert.io.rows import read_rows

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "exporting"))  # its bindings of llama.cpp's functions
from llama_file import LlamaFile

DTYPES = ("f32", "f16", "q8_0")
CHARACTERS = 400
LONGEST = 1024
"""Tokens that ``LlamaFile`` takes; longer texts are left out."""


def main() -> None:
    """Export, compare, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--languages", type=int, default=150)
    parser.add_argument("--texts", type=int, default=6, help="of each language")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    texts = read_texts(options.text, options.languages, options.texts)
    with tempfile.TemporaryDirectory(prefix="gguf-") as temporary:
        mmbert.export(options.model, temporary, format="gguf", dtypes=list(DTYPES))
        compare(options.model, Path(temporary), texts, options.rounds)


def read_texts(folder: Path, languages: int, count: int) -> list[str]:
    """Return some texts of every so many-th language."""
    files = sorted(folder.glob("*.jsonl*"))
    if not files:
        sys.exit(f"{folder} has no <language>.jsonl files")
    step = max(1, len(files) // languages)
    chosen = [islice(read_rows(file), count) for file in files[::step][:languages]]
    return [str(row["text"])[:CHARACTERS] for rows in chosen for _, row in rows]


def compare(model: Path, files: Path, texts: list[str], rounds: int) -> None:
    """Print the table."""
    ours = {name: mmbert.Embedder.load(model, precision=name, device="cpu") for name in ("fp32", "int8")}
    tokenizer = ours["fp32"].loaded.tokenizer
    encoded = [(text, tokenizer.encode(text, specials=True)) for text in texts]
    texts, ids = map(list, zip(*((text, ids) for text, ids in encoded if len(ids) <= LONGEST), strict=True))
    tokens = sum(map(len, ids))
    theirs = {dtype: LlamaFile(files / f"model-{dtype}.gguf") for dtype in DTYPES}
    same = sum(theirs["f32"].ids(text) == wanted for text, wanted in zip(texts, ids, strict=True))
    print(
        f"{len(texts):,} texts, {tokens:,} tokens; ids equal in {same:,}; one thread, processor time, {rounds} rounds; "
        f"llama-cpp-python {version('llama-cpp-python')}, torch {torch.__version__}\n"
    )
    systems: dict[str, Callable[[], np.ndarray]] = {
        **{f"ours, {name}": partial(each, texts, progress=False) for name, each in ours.items()},
        **{f"llama.cpp, {dtype}": partial(unit, each, ids) for dtype, each in theirs.items()},
    }
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    vectors: dict[str, np.ndarray] = {}
    for number in range(rounds):
        for name in systems if number % 2 else reversed(systems):
            start = time.process_time()
            vectors[name] = systems[name]()
            seconds[name].append(time.process_time() - start)
    print("| system | file, MB | smallest cosine to fp32 | mean | tokens/s | relative to llama.cpp f32 |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    speeds = {name: tokens / statistics.median(taken) for name, taken in seconds.items()}
    for name, speed in speeds.items():
        path = files / f"model-{name.rpartition(' ')[2]}.gguf"
        size = f"{path.stat().st_size / 1e6:.1f}" if path.is_file() else ""
        cosines = (vectors[name] * vectors["ours, fp32"]).sum(1)
        ratio = speed / speeds["llama.cpp, f32"]
        print(f"| {name} | {size} | {cosines.min():.7f} | {cosines.mean():.7f} | {speed:,.0f} | {ratio:.2f}x |")


def unit(file: LlamaFile, ids: list[list[int]]) -> np.ndarray:
    """Return the vectors of all sequences, of unit length, one at a time as llama-cpp-python computes them."""
    found = np.stack([file.outputs(one) for one in ids])
    vectors: np.ndarray = found / np.linalg.norm(found, axis=1, keepdims=True)
    return vectors


if __name__ == "__main__":
    main()
