"""Rounded residuals: how far a score may be off, and the recall that is left on vectors with a large common mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from little_models import unit_rows

from mmbert.arrays import unit
from mmbert.errors import DataError
from mmbert.search import lance
from mmbert.search.exact import ExactStore
from mmbert.search.lance import LanceStore
from mmbert.search.residuals import Residuals, row_type
from mmbert.search.vector_store import KINDS

WIDTH = 32


def encoder_like(count: int, seed: int = 0, *, mean: int = 0, strength: float = 4.0) -> np.ndarray:
    """Rows as an encoder makes them: a large common mean, few strong directions, clusters, unit length."""
    shape = np.random.default_rng(100)
    strong = np.sqrt(1 / np.arange(1, WIDTH + 1, dtype=np.float32))
    clusters = shape.normal(size=(40, WIDTH)).astype(np.float32) * strong
    draw = np.random.default_rng(seed)
    rows = clusters[draw.integers(0, 40, count)] + 0.3 * strong * draw.normal(size=(count, WIDTH)).astype(np.float32)
    return unit(rows + strength * np.sqrt(WIDTH) * unit_rows(8, WIDTH, seed=7)[mean])


def recall(found: list[np.ndarray], queries: np.ndarray, rows: np.ndarray) -> float:
    """The part of the ten nearest that was found; a row as near as the tenth counts."""
    scores = queries @ rows.T
    tenth = np.sort(scores, axis=1)[:, -10]
    return float(np.mean([(scores[n, places] >= tenth[n] - 1e-6).mean() for n, places in enumerate(found)]))


def exact(path: Path, output: str) -> ExactStore:
    return ExactStore(path / "vectors-0000" / "rows.bin", WIDTH, output)


def ask(store: ExactStore | LanceStore, queries: np.ndarray, rows: int) -> list[np.ndarray]:
    return [places for places, _ in store.search(queries, 10, rows, None)]


@given(
    st.integers(0, 10_000), st.integers(1, 70), st.sampled_from(["int8", "float16"]),
    st.sampled_from([1e-6, 1.0, 1e6]), st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_scores_are_products_with_the_stored_rows(seed: int, count: int, output: str, scale: float, far: bool) -> None:
    draw = np.random.default_rng(seed)
    first = (scale * draw.normal(size=(count, WIDTH))).astype(np.float32)
    first[0], first[-1] = 0, first[count // 2]  # a row of zeros, and two equal ones
    residuals = Residuals.fit(first)
    later = (100 if far else 1) * first + np.float32(scale * far)
    rows = residuals.encode(later, output)
    stored = residuals.decode(rows)
    assert np.isfinite(stored).all()
    step = rows["step"][:, None] * residuals.spread
    bound = step / 2 if output == "int8" else np.abs(rows["code"].astype(np.float32)) * step / 1024 + step * 1e-7
    # The rounding, and once more along the centroid, which takes the error of that component out.
    limit = bound + np.linalg.norm(bound, axis=1, keepdims=True) + 1e-5 * np.abs(later).max()
    assert (np.abs(stored - later) <= limit).all()
    direction = residuals.directions[rows["centroid"]]
    assert np.allclose((stored * direction).sum(1), (later * direction).sum(1), rtol=1e-4, atol=1e-4 * scale)
    queries = draw.normal(size=(3, WIDTH)).astype(np.float32)
    assert np.allclose(residuals.scores(queries, rows), queries @ stored.T, rtol=1e-4, atol=1e-4 * np.abs(later).max())


@pytest.mark.parametrize(("output", "bound", "error"), [("int8", 0.98, 2e-3), ("float16", 0.995, 1e-5)])
def test_recall_with_a_large_mean(tmp_path: Path, output: str, bound: float, error: float) -> None:
    rows, queries = encoder_like(6000), encoder_like(40, seed=1)
    assert np.linalg.norm(rows.mean(0)) > 0.9
    store = exact(tmp_path, output)
    for start in range(0, len(rows), 1000):
        store.append(rows[start : start + 1000], start)
    found = store.search(queries, 10, len(rows), None)
    assert recall([places for places, _ in found], queries, rows) > bound
    stored = store.vectors(np.arange(len(rows)))
    for (places, scores), query in zip(found, queries, strict=True):
        assert np.allclose(scores, stored[places] @ query, atol=1e-6)
        assert abs(scores - rows[places] @ query).max() < error
    bytes_a_row = (tmp_path / "vectors-0000" / "rows.bin").stat().st_size / len(rows)
    assert bytes_a_row == np.dtype(output).itemsize * WIDTH + 10


@given(st.integers(1, 7), st.floats(1, 8), st.sampled_from([256, 700]))
@settings(max_examples=8, deadline=None)
def test_rows_that_come_later_from_elsewhere_keep_their_recall(mean: int, strength: float, size: int) -> None:
    first, later = encoder_like(1500), encoder_like(1400, seed=2, mean=mean, strength=strength)
    residuals = Residuals.fit(first)
    stored = [residuals.encode(first, "int8")]
    for start in range(0, len(later), size):
        residuals = residuals.extended(later[start : start + size])
        stored.append(residuals.encode(later[start : start + size], "int8"))
    rows, whole = np.concatenate(stored), np.concatenate([first, later])
    for queries in (encoder_like(30, seed=3), encoder_like(30, seed=4, mean=mean, strength=strength)):
        best = np.argsort(-residuals.scores(queries, rows), axis=1)[:, :10]
        assert recall(list(best), queries, whole) > 0.97


def test_more_of_the_same_needs_hardly_more_centroids() -> None:
    residuals = Residuals.fit(encoder_like(2000))
    same, other = (len(residuals.extended(encoder_like(2000, seed=5, mean=mean)).directions) for mean in (0, 3))
    assert same < 1.2 * len(residuals.directions) < 1.5 * len(residuals.directions) < other


def test_rows_one_by_one(tmp_path: Path) -> None:
    rows = encoder_like(150)
    store = exact(tmp_path, "int8")
    for place in range(len(rows)):
        store.append(rows[place : place + 1], place)
    assert abs(store.vectors(np.arange(150)) - rows).max() < 5e-3
    other = exact(tmp_path, "int8")  # another process, which has not seen the centroids grow
    assert recall(ask(other, rows[:20], 150), rows[:20], rows) > 0.9


@pytest.mark.parametrize("output", ["float32", "float16", "int8"])
@pytest.mark.parametrize("name", ["exact", "lance"])
def test_copies_are_not_rounded_again(tmp_path: Path, output: str, name: str) -> None:
    if (name, output) == ("lance", "int8"):
        pytest.skip("LanceDB's rows are floats")

    def make(generation: int) -> ExactStore | LanceStore:
        place = tmp_path / f"vectors-{generation:04d}"
        return LanceStore(place, WIDTH, output, "ivf_flat") if name == "lance" else ExactStore(
            place / "rows.bin", WIDTH, output
        )  # fmt: skip

    rows, store = encoder_like(400), make(0)
    store.append(rows, 0)
    wanted, kept = store.vectors(np.arange(400)), np.arange(400)
    for generation in range(1, 4):
        copied, alive = make(generation), np.arange(10, len(kept))
        copied.copy(store, alive[:100], 0)
        copied.copy(store, alive[100:], 100)
        store, kept = copied, kept[alive]
    assert abs(store.vectors(np.arange(len(kept))) - wanted[kept]).max() <= (3e-7 if name == "lance" else 0)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("output", ["float32", "float16"])
def test_lance_with_a_large_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, output: str) -> None:
    monkeypatch.setattr(lance, "INDEXED_FROM", 100)
    monkeypatch.setattr(lance, "_FEW", 0)
    rows, queries = encoder_like(3000), encoder_like(20, seed=1)
    later = encoder_like(300, seed=2, mean=3)
    store = LanceStore(tmp_path, WIDTH, output, kind)
    store.append(rows[:1500], 0)
    store.append(rows[1500:], 1500)
    store.build_index(3000)
    store.append(later, 3000)
    whole = np.concatenate([rows, later])
    for asked in (queries, encoder_like(20, seed=4, mean=3)):
        found = store.search(asked, 10, len(whole), None)
        assert recall([places for places, _ in found], asked, whole) > (0.97 if output == "float32" else 0.95)
        for (places, scores), query in zip(found, asked, strict=True):
            assert abs(scores - whole[places] @ query).max() < (2e-6 if output == "float32" else 2e-4)
    allowed = np.random.default_rng(0).random(len(whole)) < 0.5
    found = [places for places, _ in store.search(queries, 10, len(whole), allowed)]
    assert all(allowed[places].all() for places in found)
    inverse = np.cumsum(allowed) - 1
    assert recall([inverse[places] for places in found], queries, whole[allowed]) > 0.95


def test_what_is_damaged_is_named(tmp_path: Path) -> None:
    rows, store = encoder_like(300), exact(tmp_path, "int8")
    store.append(rows, 0)
    path = tmp_path / "vectors-0000" / "centroids.npz"
    residuals = Residuals.load(path, WIDTH, "fix")
    Residuals(residuals.directions[:1], residuals.spread).save(path)
    with pytest.raises(DataError, match="lacks centroids of the rows"):
        exact(tmp_path, "int8").search(rows[:1], 1, 300, None)
    with pytest.raises(DataError, match="do not fit rows of 8 numbers"):
        Residuals.load(path, 8, "fix")
    path.unlink()
    with pytest.raises(DataError, match=r"centroids.npz is not there: build the index again"):
        exact(tmp_path, "int8").search(rows[:1], 1, 300, None)
    assert row_type("int8", WIDTH).itemsize == WIDTH + 10
