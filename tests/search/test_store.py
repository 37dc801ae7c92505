"""Both stores of vectors against comparing everything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from little_models import unit_rows

from mmbert.errors import DataError
from mmbert.search import lance
from mmbert.search.exact import ExactStore
from mmbert.search.lance import LanceStore
from mmbert.search.vector_store import VectorStore, largest

WIDTH = 16


def make(path: Path, name: str, output: str = "float32", kind: str = "ivf_flat") -> VectorStore:
    if name == "lance":
        return LanceStore(path / "lance", WIDTH, output, kind)
    return ExactStore(path / "place" / "rows.bin", WIDTH, output)


def brute(queries: np.ndarray, rows: np.ndarray, k: int, allowed: np.ndarray | None) -> list[np.ndarray]:
    scores = queries @ rows.T
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    return [np.argsort(-row, kind="stable")[: min(k, int(np.isfinite(row).sum()))] for row in scores]


@pytest.mark.parametrize("name", ["exact", "lance"])
@pytest.mark.parametrize(("output", "bound"), [("float32", 1e-6), ("float16", 1e-3), ("int8", 1e-2)])
def test_finds_what_comparing_everything_finds(tmp_path: Path, name: str, output: str, bound: float) -> None:
    if name == "lance" and output == "int8":
        pytest.skip("LanceDB's rows are floats")
    store, rows, queries = make(tmp_path, name, output), unit_rows(300), unit_rows(5, seed=1)
    store.append(rows[:200], 0)
    store.append(rows[200:], 200)
    random = np.random.default_rng(2)
    masks = [None, random.random(300) < 0.9, random.random(300) < 0.05, np.zeros(300, bool)]
    for allowed in masks:
        for k in (1, 10, 300, 1000):
            found = store.search(queries, k, 300, allowed)
            stored = store.vectors(np.arange(300))
            assert abs(stored - rows).max() < bound
            for (places, scores), wanted, query in zip(found, brute(queries, stored, k, allowed), queries, strict=True):
                assert len(places) == len(wanted)
                assert abs(scores - stored[places] @ query).max(initial=0) < 1e-5
                assert abs(scores - stored[wanted] @ query).max(initial=0) < 1e-5  # equal but for ties


@pytest.mark.parametrize("name", ["exact", "lance"])
def test_what_a_killed_writer_left_is_written_over(tmp_path: Path, name: str) -> None:
    store, rows = make(tmp_path, name), unit_rows(60)
    store.append(rows[:20], 0)
    store.append(rows[40:], 20)  # never counted
    ((places, _),) = store.search(rows[45:46], 5, 20, None)
    assert set(places) < set(range(20))
    store.append(rows[20:30], 20)
    again = make(tmp_path, name)
    assert abs(again.vectors(np.arange(30)) - rows[:30]).max() < 1e-7  # LanceDB's rows are stored around a centre
    ((places, scores),) = again.search(rows[25:26], 30, 30, None)
    assert places[0] == 25
    assert scores[0] == pytest.approx(1, abs=1e-6)
    assert sorted(places) == list(range(30))


@pytest.mark.parametrize("kind", ["ivf_flat", "ivf_sq", "ivf_hnsw_sq", "ivf_pq", "ivf_rq"])
def test_lance_with_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(lance, "INDEXED_FROM", 100)
    monkeypatch.setattr(lance, "_FEW", 0)
    store, rows, queries = make(tmp_path, "lance", kind=kind), unit_rows(600), unit_rows(20, seed=1)
    store.append(rows[:500], 0)
    store.build_index(500)
    assert isinstance(store, LanceStore)
    (index,) = store._table().list_indices()
    assert index.index_type.lower() == kind.replace("_", "")
    store.append(rows[500:], 500)  # rows that the index has not taken up are found as well
    store.build_index(600)
    store.cleanup()
    random = np.random.default_rng(3)
    for allowed in (None, random.random(600) < 0.5, random.random(600) < 0.02):
        found = store.search(queries, 10, 600, allowed)
        wanted = brute(queries, rows, 10, allowed)
        shared = [len(set(places) & set(best)) / 10 for (places, _), best in zip(found, wanted, strict=True)]
        assert np.mean(shared) > 0.9
        if allowed is not None:
            assert all(allowed[places].all() for places, _ in found)


@given(st.lists(st.sampled_from([-np.inf, 0.0, 0.5, 0.5, 1.0, 2.0]), max_size=12), st.integers(1, 15))
@settings(max_examples=100)
def test_largest(values: list[float], k: int) -> None:
    scores = np.array(values, np.float32)
    wanted = [place for place in np.argsort(-scores, kind="stable") if np.isfinite(scores[place])][:k]
    assert largest(scores, k).tolist() == wanted


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    store = make(tmp_path, "exact")
    with pytest.raises(DataError, match="16 numbers"):
        store.append(unit_rows(2, 8), 0)
    with pytest.raises(DataError, match="NaN"):
        store.append(unit_rows(2) * np.nan, 0)
    with pytest.raises(DataError, match="damaged"):
        store.append(unit_rows(2), 5)
    store.append(unit_rows(4), 0)
    (tmp_path / "place" / "rows.bin").write_bytes(b"short")
    with pytest.raises(DataError, match="is damaged, build the index again"):
        store.search(unit_rows(1), 1, 4, None)
