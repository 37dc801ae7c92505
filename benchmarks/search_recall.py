"""Recall, time and size of the forms of an index's vectors, beside FAISS, usearch and hnswlib, on any vectors.

    OMP_NUM_THREADS=1 LANCE_CPU_THREADS=1 python benchmarks/search_recall.py VECTORS.npy [--queries 200] [--batch 1024]

VECTORS.npy holds vectors of unit length (n, d), such as ``benchmarks/search.py --vectors`` keeps; the last
``--queries`` of them are the queries, the others the rows, which are added in batches of ``--batch``. Peers that are
not installed (``faiss-cpu``, ``usearch``, ``hnswlib``) are left out. Times are from the vector of a query to the
numbers of ten rows, with no text looked up. The systems take turns query by query in one process; build s and cpu ms
are processor time of all threads, p50 is of the clock. recall@10 is against all float32 products; "ties" counts a row
as found whose true score is within 1e-6 of the tenth's, which is as far as float32 tells. Prints Markdown for
RECORDS.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmbert.search import lance
from mmbert.search.exact import ExactStore
from mmbert.search.lance import LanceStore
from mmbert.search.vector_store import KINDS, VectorStore

WARM_UP = 10
K = 10

Ask = Callable[[np.ndarray], np.ndarray]
Build = Callable[[np.ndarray, Path, int], tuple[Ask, int]]
"""Rows, an empty folder and the size of a batch -> how to ask for the nearest ids, and the bytes of the index."""


def stored(make: Callable[[Path, int], VectorStore]) -> Build:
    def build(rows: np.ndarray, place: Path, batch: int) -> tuple[Ask, int]:
        store = make(place, rows.shape[1])
        for start in range(0, len(rows), batch):
            store.append(rows[start : start + batch], start)
        if store.build_index(len(rows)):
            store.cleanup()
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        return lambda query: store.search(query[None], K, len(rows), None)[0][0], size

    return build


def faiss_flat(factory: str) -> Build:
    def build(rows: np.ndarray, place: Path, batch: int) -> tuple[Ask, int]:
        import faiss

        faiss.omp_set_num_threads(1)
        index = faiss.index_factory(rows.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        index.train(rows)
        index.add(rows)
        faiss.write_index(index, str(place / "faiss"))
        return lambda query: index.search(query[None], K)[1][0], (place / "faiss").stat().st_size

    return build


def usearch_int8(rows: np.ndarray, place: Path, batch: int) -> tuple[Ask, int]:
    from usearch.index import Index

    index = Index(ndim=rows.shape[1], metric="ip", dtype="i8")
    index.add(np.arange(len(rows)), rows, threads=1)
    index.save(str(place / "usearch"))
    ask = lambda query: index.search(query, K, threads=1).keys.astype(np.int64)  # noqa: E731
    return ask, (place / "usearch").stat().st_size


def hnswlib_float32(rows: np.ndarray, place: Path, batch: int) -> tuple[Ask, int]:
    import hnswlib

    index = hnswlib.Index(space="ip", dim=rows.shape[1])
    index.init_index(max_elements=len(rows), ef_construction=200, M=16)
    index.set_num_threads(1)
    index.add_items(rows)
    index.set_ef(100)
    index.save_index(str(place / "hnswlib"))
    return lambda query: index.knn_query(query, k=K)[0][0].astype(np.int64), (place / "hnswlib").stat().st_size


SYSTEMS: dict[str, Build] = {
    **{
        f"exact {output}": stored(
            lambda place, width, output=output: ExactStore(place / "v" / "rows.bin", width, output)
        )
        for output in ("float32", "float16", "int8")
    },
    **{
        f"LanceDB {kind}": stored(lambda place, width, kind=kind: LanceStore(place, width, "float32", kind))
        for kind in KINDS
    },
    "LanceDB ivf_hnsw_sq, float16": stored(lambda place, width: LanceStore(place, width, "float16", "ivf_hnsw_sq")),
    "FAISS Flat": faiss_flat("Flat"),
    "FAISS SQ8": faiss_flat("SQ8"),
    "usearch int8, HNSW": usearch_int8,
    "hnswlib float32, M 16, ef 100": hnswlib_float32,
}
PEERS = {"FAISS": "faiss", "usearch": "usearch", "hnswlib": "hnswlib"}


def installed(name: str) -> bool:
    peer = next((module for word, module in PEERS.items() if name.startswith(word)), None)
    return peer is None or importlib.util.find_spec(peer) is not None


def ask_in_turns(asks: dict[str, Ask], queries: np.ndarray) -> dict[str, dict[str, Any]]:
    """Times and found ids of each system; every query goes to all of them, each time beginning with another."""
    names = list(asks)
    found: dict[str, dict[str, Any]] = {name: {"wall": [], "cpu": [], "ids": []} for name in names}
    for number, query in enumerate(queries):
        for turn in range(len(names)):
            name = names[(number + turn) % len(names)]
            wall, cpu = time.perf_counter(), time.process_time()
            ids = asks[name](query)
            found[name]["cpu"].append(time.process_time() - cpu)
            found[name]["wall"].append(time.perf_counter() - wall)
            found[name]["ids"].append(ids)
    return found


def recalls(found: list[np.ndarray], scores: np.ndarray) -> tuple[float, float]:
    """Return recall@10 by the ids of the true ten, and with rows that score as the tenth."""
    wanted = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    tenth = np.take_along_axis(scores, wanted[:, -1:], axis=1) - 1e-6
    same = [len(set(ids.tolist()) & set(best.tolist())) / K for ids, best in zip(found, wanted, strict=True)]
    tied = [(scores[number, ids] >= tenth[number]).sum() / K for number, ids in enumerate(found)]
    return float(np.mean(same)), float(np.mean(tied))


def table(rows: np.ndarray, queries: np.ndarray, names: list[str], batch: int) -> Iterator[str]:
    lance.INDEXED_FROM = 0  # a small trial measures the index too
    work = Path(tempfile.mkdtemp(prefix="mmbert-recall-"))
    try:
        asks, made = {}, {}
        for number, name in enumerate(names):
            place = work / str(number)
            place.mkdir()
            cpu = time.process_time()
            asks[name], size = SYSTEMS[name](rows, place, batch)
            made[name] = time.process_time() - cpu, size
        found, scores = ask_in_turns(asks, queries), queries @ rows.T
        yield "| system | build s | MB | of float32 | p50 ms | cpu ms | recall@10 | ties |"
        yield "| --- | " + " | ".join(["---:"] * 7) + " |"
        for name in names:
            (seconds, size), got = made[name], found[name]
            wall, cpu = (1e3 * float(np.median(got[key][WARM_UP:])) for key in ("wall", "cpu"))
            same, tied = recalls(got["ids"], scores)
            yield (
                f"| {name} | {seconds:.1f} | {size / 1e6:.1f} | {size / rows.nbytes:.3f} | {wall:.1f} | {cpu:.1f} "
                f"| {same:.3f} | {tied:.3f} |"
            )
    finally:
        shutil.rmtree(work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vectors", type=Path)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--systems", nargs="*", default=list(SYSTEMS), choices=list(SYSTEMS), metavar="SYSTEM")
    options = parser.parse_args()
    if options.queries <= WARM_UP:
        parser.error(f"more than {WARM_UP} queries are needed")
    vectors = np.load(options.vectors, allow_pickle=False).astype(np.float32)
    rows, queries = vectors[: -options.queries], vectors[-options.queries :]
    names = [name for name in options.systems if installed(name)]
    mean = np.linalg.norm(rows.mean(axis=0))
    print(f"{len(rows):,} rows of {rows.shape[1]}, batches of {options.batch}, {len(queries)} queries; length of the "
          f"rows' mean {mean:.2f}\n")  # fmt: skip
    for line in table(rows, queries, names, options.batch):
        print(line, flush=True)


if __name__ == "__main__":
    main()
