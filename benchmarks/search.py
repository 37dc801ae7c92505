"""Search over many passages of real text: how long an index takes to build, how large it is, how fast and how right.

    python benchmarks/search.py MODEL TEXTS... [--passages 100000] [--queries 200] [--vectors vectors.npy]

TEXTS are files of lines or JSON lines (``.gz`` and ``.zst`` too) or folders of them. Their paragraphs of 40 characters
and more, each once, are shuffled; the first ``--passages`` are indexed, the following ``--queries`` are the queries.
With ``--vectors`` the vectors of both are kept in that file (and taken from it the next time).

Embedding is timed apart from everything else. Each kind of index is built in a process of its own and asked in
another, so that memory is its own: peak resident memory, beside that of the process before it began. Queries go one at
a time, from the vector to hits with their texts, ten warm-up queries before. p50 and p95 are of the clock; cpu is the
median processor time of a query, all threads: what other programs on the machine do not blur. recall@10 is against
comparing every float32 row. Prints Markdown for RECORDS.md. ``benchmarks/search_recall.py`` compares the forms of rows
with other libraries.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mmbert.cli.input import read_records
from mmbert.inference.embedder import Embedder
from mmbert.log import progress
from mmbert.search import lance
from mmbert.search.bm25 import Bm25
from mmbert.search.index import SearchIndex
from mmbert.search.index_handle import IndexHandle
from mmbert.search.query import Query, SearchOptions, rank
from mmbert.search.vector_store import KINDS

SHORTEST = 40
WARM_UP = 10
SYSTEMS: dict[str, dict[str, Any]] = {
    "exact float32": {"store": "exact"},
    "exact float16": {"store": "exact", "output": "float16"},
    "exact int8": {"store": "exact", "output": "int8"},
    **{f"lance {kind}": {"store": "lance", "kind": kind} for kind in KINDS},
    "lance float16 ivf_hnsw_sq": {"store": "lance", "kind": "ivf_hnsw_sq", "output": "float16"},
}
ASKED: dict[str, dict[str, Any]] = {
    "one row of ten": {"where": {"tenth": 3}},
    "nine rows of ten": {"where": {"tenth": {"not": 3}}},
    "hybrid, ranks": {"hybrid": True},
    "hybrid, scores": {"hybrid": 0.5},
}
"""Other questions, put to three of the systems."""


def read_passages(paths: list[str], wanted: int) -> list[str]:
    """Paragraphs of all files, shuffled."""
    found: dict[str, None] = {}
    for record in read_records(paths, "text", "id"):
        found.update(dict.fromkeys(p for line in record["text"].splitlines() if len(p := line.strip()) >= SHORTEST))
    passages = list(found)
    random.Random(0).shuffle(passages)
    if len(passages) < wanted:
        sys.exit(f"{len(passages):,} passages in {', '.join(paths)}: {wanted:,} are needed")
    return passages[:wanted]


def embed(model: str, texts: list[str], kept: Path | None) -> tuple[np.ndarray, str]:
    """Vectors of all texts, and a sentence on how long they took."""
    if kept is not None and kept.is_file():
        vectors = np.load(kept, allow_pickle=False)
        if len(vectors) != len(texts):
            sys.exit(f"{kept} has {len(vectors):,} vectors, there are {len(texts):,} texts: delete it")
        return vectors, f"Vectors were read from {kept.name}."
    embedder = Embedder.load(model)
    wall, cpu = time.perf_counter(), time.process_time()
    vectors = embedder(texts, prompt="document", progress=True)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if kept is not None:
        np.save(kept, vectors)
    rate = f"{len(texts) / wall:,.0f} passages per second"
    return vectors, f"Embedding took {wall:,.0f} s ({cpu:,.0f} s of processor time, {rate})."


def query_seconds(model: str, queries: list[str]) -> list[float]:
    """To embed one query at a time."""
    embedder = Embedder.load(model)
    seconds = []
    for query in queries:
        began = time.perf_counter()
        embedder(query, prompt="query")
        seconds.append(time.perf_counter() - began)
    return seconds[WARM_UP:]


def child(work: Path, task: str, **values: Any) -> dict[str, Any]:
    """A task in a process of its own."""
    command = [sys.executable, __file__, "--child", json.dumps({"task": task, "work": str(work), **values})]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak() -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def build(work: Path, place: str, model: str, options: dict[str, Any]) -> dict[str, Any]:
    texts = json.loads((work / "texts.json").read_text(encoding="utf-8"))
    vectors = np.load(work / "vectors.npy", mmap_mode="r")
    lance.INDEXED_FROM = 0  # a small trial measures the index too
    index = SearchIndex.create(work / place, model, **options)
    records = ({"id": n, "text": text, "metadata": {"tenth": n % 10}} for n, text in enumerate(texts))
    before, began = peak(), time.perf_counter()
    index.add(records, vectors=vectors[: len(texts)], batch_size=8192, progress=False)
    return {
        "seconds": time.perf_counter() - began,
        "bytes": index.describe()["bytes"],
        "before": before,
        "peak": peak(),
    }


def ask(work: Path, place: str, model: str, options: dict[str, Any]) -> dict[str, Any]:
    """Times of queries that are vectors already, and the ids that they found."""
    queries = json.loads((work / "queries.json").read_text(encoding="utf-8"))
    vectors = np.load(work / "queries.npy")
    handle, asked = IndexHandle(work / place), SearchOptions(top_k=10, **options)
    words = Bm25(handle.folder, Embedder.load(model).loaded.tokenizer) if asked.lexical else None
    before, wall, cpu, found = peak(), [], [], []
    first = 0.0
    for vector, text in zip(vectors, queries, strict=True):
        began, used = time.perf_counter(), time.process_time()
        (hits,) = rank(handle, [Query(vector, text)], asked, words)
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
        first = first or wall[0]
        found.append([hit.id for hit in hits])
    wall, cpu = wall[WARM_UP:], cpu[WARM_UP:]
    p50, p95 = np.percentile(wall, [50, 95])
    return {
        "first": first, "p50": p50, "p95": p95, "cpu": float(np.median(cpu)), "found": found, "before": before,
        "peak": peak(),
    }  # fmt: skip


def recall(found: list[list[int]], wanted: list[list[int]]) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, wanted, strict=True)]))


def system_rows(work: Path, model: str, systems: list[str], wanted: list[list[int]]) -> Iterator[str]:
    yield "| index | build s | disk MB | first query ms | p50 ms | p95 ms | cpu ms | recall@10 | MB built | asked |"
    yield "| --- | " + " | ".join(["---:"] * 9) + " |"
    for name in progress(systems, desc="indices"):
        place, options = name.replace(" ", "-"), SYSTEMS[name]
        made = child(work, "build", place=place, model=model, options=options)
        got = child(work, "ask", place=place, model=model, options={})
        numbers = [
            f"{made['seconds']:.1f}", f"{made['bytes'] / 1e6:.0f}", *(f"{1e3 * got[k]:.1f}" for k in ("first", "p50")),
            *(f"{1e3 * got[k]:.1f}" for k in ("p95", "cpu")), f"{recall(got['found'], wanted):.3f}",
            f"{made['peak']:.0f} ({made['before']:.0f} before)", f"{got['peak']:.0f} ({got['before']:.0f} before)",
        ]  # fmt: skip
        yield f"| {name} | {' | '.join(numbers)} |"


def question_rows(work: Path, model: str, systems: list[str]) -> Iterator[str]:
    yield "| index | asked | first query ms | p50 ms | p95 ms | cpu ms | MB to query |"
    yield "| --- | --- | " + " | ".join(["---:"] * 5) + " |"
    for name in (name for name in ("exact float32", "exact int8", "lance ivf_hnsw_sq") if name in systems):
        for asked, options in ASKED.items():
            got = child(work, "ask", place=name.replace(" ", "-"), model=model, options=options)
            numbers = [f"{1e3 * got[key]:.1f}" for key in ("first", "p50", "p95", "cpu")]
            yield f"| {name} | {asked} | {' | '.join(numbers)} | {got['peak']:.0f} ({got['before']:.0f} before) |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("texts", nargs="*")
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS), metavar="SYSTEM")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        values = json.loads(options.child)
        task, work = {"build": build, "ask": ask}[values.pop("task")], Path(values.pop("work"))
        print(json.dumps(task(work, **values)))
        return
    if not options.texts or options.queries <= WARM_UP:
        parser.error(f"a model, files of text and more than {WARM_UP} queries are needed")
    texts = read_passages(options.texts, options.passages + options.queries)
    vectors, told = embed(options.model, texts, options.vectors)
    work = Path(tempfile.mkdtemp(prefix="mmbert-search-"))
    try:
        rows, queries = vectors[: options.passages], vectors[options.passages :]
        (work / "texts.json").write_text(json.dumps(texts[: options.passages]), encoding="utf-8")
        (work / "queries.json").write_text(json.dumps(texts[options.passages :]), encoding="utf-8")
        np.save(work / "vectors.npy", rows)
        np.save(work / "queries.npy", queries)
        wanted = [np.argsort(-(rows @ query), kind="stable")[:10].tolist() for query in queries]
        p50, p95 = np.percentile(query_seconds(options.model, texts[options.passages :]), [50, 95])
        characters = sum(map(len, texts[: options.passages]))
        print(f"{len(rows):,} passages ({characters:,} characters), vectors of {rows.shape[1]}, {len(queries)} queries")
        print(f"{told} One query takes {1e3 * p50:.1f} ms (p95 {1e3 * p95:.1f}) to embed, not counted below.\n")
        tables = (
            system_rows(work, options.model, options.systems, wanted),
            [""],
            question_rows(work, options.model, options.systems),
        )
        for line in chain(*tables):
            print(line, flush=True)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
