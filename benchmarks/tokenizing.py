"""How many tokens per second one core tokenises.

    RAYON_NUM_THREADS=1 python benchmarks/tokenizing.py TOKENIZER TEXT ... [--texts 4096] [--length 200]

Processor time, median of three rounds. TOKENIZER: a folder; TEXT: files or globs of text or JSON lines, a part of each.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from glob import glob
from itertools import islice
from pathlib import Path

from mmbert.io.rows import read_rows
from mmbert.tokenizer.tokenizer import Tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--texts", type=int, default=4096)
    parser.add_argument("--length", type=int, default=200, help="tokens of a text, with its first and last one")
    options = parser.parse_args()
    if os.environ.get("RAYON_NUM_THREADS") != "1":
        parser.error("set RAYON_NUM_THREADS=1: the library tokenises with all cores otherwise")
    tokenizer, size = Tokenizer.load(options.tokenizer), options.length - 2
    texts: list[str] = []
    files = sorted(path for pattern in options.files for path in glob(pattern))
    for path in files:
        text = "\n".join(str(row["text"]) for _, row in islice(read_rows(Path(path)), 200))
        ((_, spans),) = tokenizer.encode_spans([text])
        ends = range(size, len(spans) + 1, size)
        texts += [text[spans[end - size, 0] : spans[end - 1, 1]] for end in ends][: -(-options.texts // len(files))]
    rates = []
    for _ in range(3):
        began = time.process_time()
        tokens = sum(map(len, tokenizer.encode_batch(texts)))
        rates.append(tokens / (time.process_time() - began))
    size = sum(len(text.encode()) for text in texts) / tokens
    print(
        f"{len(texts):,} texts of {len(files)} files, {tokens / len(texts):.0f} tokens each, {size:.2f} bytes a token:"
    )
    print(f"{statistics.median(rates):,.0f} tokens per second of one core ({min(rates):,.0f} to {max(rates):,.0f})")


if __name__ == "__main__":
    main()
