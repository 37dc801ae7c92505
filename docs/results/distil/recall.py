"""Recall of translations in a search index: texts of Tatoeba look for their English sides among those of all languages.

    python docs/results/distil/recall.py EVAL runs/student/final --distractors CORPUS --known KNOWN --teacher TEACHER

EVAL        folder with tatoeba/<language>/test.jsonl.gz
MODEL       a folder or hub name for ``SearchIndex``
CORPUS      folder of <language>.jsonl.gz, of which each gives as many lines, until there are ``--lines``
TEACHER     a model for sentence-transformers; its vectors are compared exactly, as a reference
KNOWN       a file with the languages of the teacher; the means are taken over these

The index holds all English sides, once each, and the distractors. Queries are the other sides of the first 100 pairs of
each language; recall@k is the share whose English side is among the first k hits. Vectors are computed once and added
to an index of each kind. Times are of one query at a time, from its text to its hits, on ``--timed`` queries, after
some that are not counted; the kinds take turns. "cpu" is processor time of all threads, which other jobs hardly
change. ``--save`` keeps the recall of each language and kind as JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, islice, zip_longest
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from mmbert import Embedder, SearchIndex
from mmbert.errors import MissingExtra
from mmbert.io.rows import read_rows

PAIRS = 100
WARM_UP = 20
EXACT = "exact float32"
LANCE = ("ivf_hnsw_sq", "ivf_sq", "ivf_pq", "ivf_rq", "ivf_flat")
KINDS: dict[str, dict[str, Any]] = {
    EXACT: {"store": "exact"},
    "exact float16": {"store": "exact", "output": "float16"},
    "exact int8": {"store": "exact", "output": "int8"},
    **{f"LanceDB {kind}": {"store": "lance", "kind": kind} for kind in LANCE},
}

Pair = tuple[str, str, str]
"""Language, text, English side."""


def read_pairs(folder: Path) -> list[Pair]:
    found = []
    for path in sorted(folder.glob("*/test.jsonl.gz")):
        found += [(path.parent.name, row["text"], row["english"]) for _, row in read_rows(path)]
    return found


def lines(path: Path) -> Iterator[str]:
    for _, row in read_rows(path):
        yield from (line for line in row["text"].splitlines() if 20 <= len(line) <= 200)


def distractors(folder: Path, count: int) -> list[str]:
    rounds = zip_longest(*map(lines, sorted(folder.glob("*.jsonl.gz"))))
    return list(islice((line for each in rounds for line in each if line is not None), count))


def recalls(found: Sequence[Sequence[str]], queries: Sequence[Pair]) -> dict[str, dict[str, float]]:
    """Language -> recall@1 and recall@10 in percent."""
    places: dict[str, list[int]] = {}
    for texts, (language, _, english) in zip(found, queries, strict=True):
        places.setdefault(language, []).append(texts.index(english) if english in texts else 10)
    return {
        code: {"1": 100 * float(np.mean([p < 1 for p in own])), "10": 100 * float(np.mean([p < 10 for p in own]))}
        for code, own in places.items()
    }


def teacher_recalls(name: str, texts: list[str], queries: Sequence[Pair]) -> dict[str, dict[str, float]]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(name, device="cpu")
    prompt = str(model.prompts.get("query") or "")  # the student learned these vectors

    def encode(batch: list[str]) -> np.ndarray:
        return model.encode(batch, prompt=prompt, normalize_embeddings=True, show_progress_bar=True)

    rows = encode(texts)
    best = [np.argsort(-(rows @ query), kind="stable")[:10] for query in encode([text for _, text, _ in queries])]
    return recalls([[texts[place] for place in places] for places in best], queries)


def build(root: Path, embedder: Embedder, texts: list[str], rows: np.ndarray) -> dict[str, SearchIndex]:
    made = {}
    for name, options in KINDS.items():
        try:
            index = SearchIndex.create(root / name.replace(" ", "-"), embedder, **options)
        except MissingExtra as error:
            sys.stderr.write(f"{name} is left out: {error}\n")
            continue
        records = ({"id": number, "text": text} for number, text in enumerate(texts))
        begun = time.process_time()
        index.add(records, vectors=rows, progress=False)
        sys.stderr.write(f"{name}: built in {time.process_time() - begun:.1f} s of processor time\n")
        made[name] = index
    return made


def timed(asks: dict[str, Callable[[str], object]], queries: Sequence[str]) -> dict[str, np.ndarray]:
    """Name -> milliseconds of each query (n, 2), of the clock and of the processor."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in asks}
    for number, query in enumerate(queries):
        for name, ask in asks.items():
            begun = time.perf_counter(), time.process_time()
            ask(query)
            if number >= WARM_UP:
                found[name].append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
    return {name: 1000 * np.array(times) for name, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("eval", type=Path)
    parser.add_argument("model")
    parser.add_argument("--distractors", type=Path)
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--known", type=Path)
    parser.add_argument("--teacher")
    parser.add_argument("--timed", type=int, default=300)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    pairs = read_pairs(options.eval / "tatoeba")
    other = distractors(options.distractors, options.lines) if options.distractors else []
    texts = list(dict.fromkeys([*(english for _, _, english in pairs), *other]))
    queries = [pair for _, own in groupby(pairs, key=itemgetter(0)) for pair in islice(own, PAIRS)]
    scores: dict[str, dict[str, dict[str, float]]] = {}
    embedder = Embedder.load(options.model, precision=options.precision)
    rows, asked = embedder(texts), embedder([text for _, text, _ in queries])
    with tempfile.TemporaryDirectory() as root:
        indexes = build(Path(root), embedder, texts, rows)
        for name, index in indexes.items():
            scores[name] = recalls([[hit.text for hit in hits] for hits in index(asked, top_k=10)], queries)
        sample = [text for _, text, _ in random.Random(0).sample(queries, min(len(queries), options.timed + WARM_UP))]
        times = timed({"the query's vector alone": embedder, **indexes}, sample)
        sizes = {name: index.describe()["bytes"] / 1e6 for name, index in indexes.items()}
        for index in indexes.values():
            index.close()
    if options.teacher:
        scores["teacher, exact"] = teacher_recalls(options.teacher, texts, queries)
    known = set(options.known.read_text().split()) if options.known else {code for code, _, _ in queries}
    report(scores, times, sizes, known, len(texts), len(queries))
    if options.save:
        options.save.write_text(json.dumps(scores, indent=1) + "\n")


def report(
    scores: dict[str, dict[str, dict[str, float]]],
    times: dict[str, np.ndarray],
    sizes: dict[str, float],
    known: set[str],
    texts: int,
    queries: int,
) -> None:
    """Print Markdown: a row of each kind, and a row of each language."""
    print(f"{texts:,} texts, {queries:,} queries\n")
    print("| index | recall@1 | recall@10 | ms, p50 | ms, p95 | cpu ms, p50 | MB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in ["the query's vector alone", *scores]:
        own = [score for code, score in scores.get(name, {}).items() if code in known]
        shares = [f"{np.mean([score[k] for score in own]):.1f}" if own else "" for k in ("1", "10")]
        clock = [
            f"{np.percentile(times[name][:, column], share):.1f}" if name in times else ""
            for column, share in ((0, 50), (0, 95), (1, 50))
        ]
        print(f"| {' | '.join([name, *shares, *clock, f'{sizes[name]:.0f}' if name in sizes else ''])} |")
    columns = [name for name in (EXACT, "teacher, exact") if name in scores]
    head = [f"{name}, recall@{k}" for name in columns for k in ("1", "10")]
    print(f"\n| language | {' | '.join(head)} |\n| --- |{' ---: |' * len(head)}")
    for code in scores[EXACT]:
        cells = [f"{scores[name][code][k]:.1f}" for name in columns for k in ("1", "10")]
        print(f"| {code}{'' if code in known else ' (not known to the teacher)'} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
