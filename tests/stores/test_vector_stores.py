"""Vectors in stores: the same rows after the same command, and nothing of others touched. Real servers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from little_vectors import WIDTH, table_of, unit_rows, write_run

from mmbert.errors import ConfigError, DataError, MMBertError
from mmbert.io.vector_files import VectorBatch, VectorFiles
from mmbert.stores import lance, pgvector
from mmbert.stores.push import Stored, store_vectors
from mmbert.stores.qdrant import point_id
from mmbert.stores.store import layout_of
from mmbert.stores.target import read_target

ROWS = 50


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", unit_rows(ROWS))


def psql(url: str, query: str, *values: Any) -> list[Any]:
    import psycopg

    host = url.partition("?host=")[2]
    with psycopg.connect(host=host, user="mmbert", dbname="postgres", autocommit=True) as connection:
        cursor = connection.execute(query, values)
        return cursor.fetchall() if cursor.description else []


def test_postgres(run: Path, postgres: str, tmp_path: Path) -> None:
    to = postgres.replace("TABLE", "passages")
    assert store_vectors(run, to, batch_size=7) == Stored(ROWS, ROWS, "passages in postgresql:///postgres")
    (row,) = psql(postgres, "SELECT text, lang, year, draft, tags FROM passages WHERE id = 'a3'")
    assert row == ("text 3 'quoted' \t é", "eng", 2003, True, ["x3"])
    vectors = unit_rows(ROWS)
    query = "[" + ",".join(map(str, vectors[9].tolist())) + "]"
    found = psql(postgres, "SELECT id, vector::text FROM passages ORDER BY vector <=> %s::vector LIMIT 3", query)
    nearest = np.argsort(-(vectors @ vectors[9]))[:3]
    assert [name for name, _ in found] == [f"a{row}" for row in nearest]
    stored = np.array(found[0][1].strip("[]").split(","), np.float32)
    assert np.array_equal(stored, vectors[9])  # every bit
    (index,) = psql(postgres, "SELECT indexdef FROM pg_indexes WHERE indexname = 'passages_vector'")
    assert "hnsw (vector vector_cosine_ops)" in index[0]

    assert store_vectors(run, to) == Stored(ROWS, ROWS, "passages in postgresql:///postgres")
    changed = write_run(tmp_path / "changed", unit_rows(ROWS + 1, seed=1))
    assert store_vectors(changed, to).rows == ROWS + 1
    (row,) = psql(postgres, "SELECT vector::text FROM passages WHERE id = 'a9'")
    assert np.array_equal(np.array(row[0].strip("[]").split(","), np.float32), unit_rows(ROWS + 1, seed=1)[9])


def test_postgres_goes_on_when_its_connection_is_lost(
    run: Path, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, lost = pgvector.PgvectorStore._write, []

    def cut(self: Any, batch: Any) -> None:
        if batch.ids[0] == "a20" and not lost:
            lost.append(batch)
            psql(postgres, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'mmbert'")
        write(self, batch)

    monkeypatch.setattr(pgvector.PgvectorStore, "_write", cut)
    assert store_vectors(run, postgres.replace("TABLE", "cut"), batch_size=10, columns=[]).rows == ROWS
    assert lost


def test_postgres_types(tmp_path: Path, postgres: str) -> None:
    half = write_run(tmp_path / "half", unit_rows(ROWS).astype(np.float16), output="float16", normalize=False)
    with pytest.raises(ConfigError, match=r"nothing says how the vectors of .*half compare: give --metric"):
        store_vectors(half, postgres.replace("TABLE", "half"))
    store_vectors(half, postgres.replace("TABLE", "half"), metric="dot", columns=["year"])
    (row,) = psql(postgres, "SELECT vector::text FROM half WHERE id = 'a1'")
    assert np.array_equal(np.array(row[0].strip("[]").split(","), np.float16), unit_rows(ROWS)[1].astype(np.float16))
    (index,) = psql(postgres, "SELECT indexdef FROM pg_indexes WHERE indexname = 'half_vector'")
    assert "halfvec_ip_ops" in index[0]
    bits = np.packbits(unit_rows(ROWS) > 0, axis=1)
    store_vectors(write_run(tmp_path / "bits", bits, output="ubinary"), postgres.replace("TABLE", "bits"))
    (row,) = psql(postgres, "SELECT vector::text FROM bits WHERE id = 'a1'")
    assert row[0] == "".join("1" if value > 0 else "0" for value in unit_rows(ROWS)[1])


def test_postgres_leaves_alone_what_is_not_its_own(run: Path, postgres: str, tmp_path: Path) -> None:
    psql(postgres, "CREATE TABLE mine (id text PRIMARY KEY, note text)")
    with pytest.raises(ConfigError, match=r"mine in postgresql:///postgres is there and was not made by mmbert store"):
        store_vectors(run, postgres.replace("TABLE", "mine"))
    assert psql(postgres, "SELECT count(*) FROM mine") == [(0,)]
    store_vectors(run, postgres.replace("TABLE", "own"))
    other = write_run(tmp_path / "wide", unit_rows(4, width=8))
    with pytest.raises(ConfigError, match=r"own in .* has dimensions 16, these vectors 8: choose another table"):
        store_vectors(other, postgres.replace("TABLE", "own"))
    with pytest.raises(ConfigError, match=r"own in .* has metric cosine, these vectors dot"):
        store_vectors(run, postgres.replace("TABLE", "own"), metric="dot")
    model = write_run(tmp_path / "model", unit_rows(4), model_hash="f" * 16)
    with pytest.raises(
        ConfigError, match=r"own in .* has vectors of model_hash '0123456789abcdef', these are of 'ffff"
    ):
        store_vectors(model, postgres.replace("TABLE", "own"))
    with pytest.raises(ConfigError, match=r"own in .* has columns text .text., .*, these vectors none"):
        store_vectors(run, postgres.replace("TABLE", "own"), columns=[])


def test_postgres_refusals_are_one_line_without_the_password(run: Path, postgres: str) -> None:
    url = postgres.replace("mmbert@/postgres/TABLE", "mmbert:sesame@/nowhere/passages")
    with pytest.raises(
        MMBertError, match=r'cannot write to passages in postgresql:///nowhere: .*"nowhere" does not'
    ) as caught:
        store_vectors(run, url)
    assert "sesame" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_qdrant(run: Path, tmp_path: Path) -> None:
    client = pytest.importorskip("qdrant_client")
    place = tmp_path / "qdrant"
    to = f"qdrant:{place}/passages"
    assert store_vectors(run, to, batch_size=7) == Stored(ROWS, ROWS, f"passages in {place}")
    assert store_vectors(run, to).rows == ROWS
    opened = client.QdrantClient(path=str(place))
    vectors = unit_rows(ROWS)
    found = opened.query_points("passages", query=vectors[9].tolist(), limit=3, with_payload=True).points
    assert [point.payload["id"] for point in found] == [f"a{row}" for row in np.argsort(-(vectors @ vectors[9]))[:3]]
    assert found[0].id == point_id("a9")
    assert found[0].payload == {
        "id": "a9", "text": "text 9 'quoted' \t é", "lang": "eng", "year": 2009, "draft": True, "tags": ["x9"]
    }  # fmt: skip
    opened.create_collection("mine", vectors_config=client.models.VectorParams(size=WIDTH, distance="Cosine"))
    opened.close()
    with pytest.raises(ConfigError, match=r"mine in .* is there and was not made by mmbert store"):
        store_vectors(run, f"qdrant:{place}/mine")
    with pytest.raises(ConfigError, match=r"passages in .* has metric cosine, these vectors dot"):
        store_vectors(run, to, metric="dot")
    bits = write_run(tmp_path / "bits", np.packbits(unit_rows(9) > 0, axis=1), output="ubinary")
    with pytest.raises(ConfigError, match=r"Qdrant stores no vectors of bits"):
        store_vectors(bits, f"qdrant:{place}/bits")


def lance_rows(place: str, name: str, vector: np.ndarray, **options: Any) -> list[dict[str, Any]]:
    import lancedb

    table = lancedb.connect(place, **options).open_table(name)
    found: list[dict[str, Any]] = table.search(vector).distance_type("cosine").limit(3).to_list()
    return found


def check_lance(run: Path, to: str, place: str, **options: Any) -> None:
    assert store_vectors(run, to, batch_size=7).rows == ROWS
    assert store_vectors(run, to, batch_size=20) == Stored(ROWS, ROWS, f"passages in {place}")
    vectors = unit_rows(ROWS)
    found = lance_rows(place, "passages", vectors[9], **options)
    assert [row["id"] for row in found] == [f"a{row}" for row in np.argsort(-(vectors @ vectors[9]))[:3]]
    assert np.array_equal(np.array(found[0]["vector"], np.float32), vectors[9])
    assert (found[0]["year"], found[0]["tags"]) == (2009, '["x9"]')
    with pytest.raises(ConfigError, match=r"passages in .* has metric cosine, these vectors dot"):
        store_vectors(run, to, metric="dot")


def test_lance(run: Path, tmp_path: Path) -> None:
    check_lance(run, f"{tmp_path}/passages.lance", str(tmp_path))
    import lancedb

    lancedb.connect(tmp_path).create_table("mine", [{"id": "a1", "vector": [1.0, 2.0]}])
    with pytest.raises(ConfigError, match=r"mine in .* is there and was not made by mmbert store"):
        store_vectors(run, f"{tmp_path}/mine.lance")


def test_lance_builds_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lancedb

    monkeypatch.setattr(lance, "INDEXED_FROM", 300)
    vectors = unit_rows(400)
    store_vectors(write_run(tmp_path / "run", vectors), f"{tmp_path}/passages.lance", columns=[])
    table = lancedb.connect(tmp_path).open_table("passages")
    assert [index.index_type for index in table.list_indices()] == ["IvfSq"]
    found = table.search(vectors[9]).distance_type("cosine").refine_factor(10).limit(3).to_list()
    assert [row["id"] for row in found] == [f"a{row}" for row in np.argsort(-(vectors @ vectors[9]))[:3]]
    bits = write_run(tmp_path / "bits", np.packbits(unit_rows(400, width=64) > 0, axis=1), output="ubinary")
    store_vectors(bits, f"{tmp_path}/bits.lance", columns=[])
    table = lancedb.connect(tmp_path).open_table("bits")
    assert [index.index_type for index in table.list_indices()] == ["IvfFlat"]
    query = np.packbits(unit_rows(400, width=64)[7] > 0)
    assert table.search(query).distance_type("hamming").limit(1).to_list()[0]["id"] == "a7"


def test_lance_on_s3(run: Path, s3: str) -> None:
    check_lance(run, f"{s3}/deep/passages.lance", f"{s3}/deep", storage_options={"allow_http": "true"})


def opened(run: Path, to: str) -> tuple[lance.LanceTable, list[VectorBatch]]:
    """A table that a command has begun to write, and the batches of its run."""
    found = VectorFiles.open(run)
    table = lance.LanceTable(read_target(to), layout_of(found, None, found.columns))
    table.open()
    return table, list(found.batches(10))


def test_a_folder_has_one_writer(run: Path, tmp_path: Path) -> None:
    to = f"{tmp_path}/passages.lance"
    table, _ = opened(run, to)
    # A lock is passed by calls of the same thread.
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(MMBertError, match=r"passages\.lance is being written by process \d+ .*: wait until it is done"),
    ):
        pool.submit(store_vectors, run, to).result()
    table.close()
    assert store_vectors(run, to).rows == ROWS


def test_two_writers_on_s3(run: Path, s3: str, tmp_path: Path) -> None:
    """What the second has stored is replaced by the first, which found an empty table, not stored twice."""
    to = f"{s3}/passages.lance"
    table, batches = opened(run, to)
    table.write(batches[0])
    assert store_vectors(write_run(tmp_path / "more", unit_rows(ROWS + 9)), to).rows == ROWS + 9
    for batch in batches[1:]:
        table.write(batch)
    table.finish()
    assert table.count() == ROWS + 9
    ids = lance.connect(s3).open_table("passages").to_arrow()["id"].to_pylist()
    assert len(set(ids)) == ROWS + 9


def test_a_table_that_appears_in_the_same_moment(run: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def has_table(database: Any, name: str) -> bool:
        asked.append(name)
        if len(asked) > 1:
            return there(database, name)
        store_vectors(run, f"{s3}/passages.lance")
        return False

    there = lance.has_table
    monkeypatch.setattr(lance, "has_table", has_table)
    assert store_vectors(run, f"{s3}/passages.lance").rows == ROWS


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: (run / "run.json").write_text('{"complete": false}'), "run is not complete"),
        (lambda run: (run / "run.json").write_text('{"command": "tag"}'), "is a run of mmbert tag"),
        (lambda run: (run / "run.json").write_text('{"output": "int8"}'), "has numbers of float32, but its run says"),
        (lambda run: (run / "part-1.parquet").write_bytes(b"PAR1"), "part-1.parquet is corrupt or no Parquet"),
        (lambda run: rewrite(run, unit_rows(5, width=8), range(5)), "has width 8, .* has 16: they are not of one run"),
        (lambda run: rewrite(run, unit_rows(5), [1, 2, 3, 2, 5]), "row 29: the id 'a2' is also that of row 27"),
        (lambda run: rewrite(run, unit_rows(5) / 0, range(5)), "row 26 .id 'a0'. holds NaN or infinite"),
        (lambda run: rewrite(run, np.ones((5, 16), np.int8), range(5)), "has numbers of int8, but its run says"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_bad_runs(run: Path, tmp_path: Path, change: Callable[[Path], Any], said: str) -> None:
    change(run)
    with pytest.raises(DataError, match=said) as caught:
        store_vectors(run, f"{tmp_path}/passages.lance", batch_size=25, metric="cosine")
    assert "\n" not in str(caught.value)


def rewrite(run: Path, vectors: np.ndarray, rows: Any) -> None:
    pq.write_table(table_of(vectors, list(rows)), run / "part-1.parquet")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("passages", "passages names no store: expected postgresql://"),
        ("mysql://ann:sesame@host/db/t", r"mysql://\*\*\*@host/db/t names no store"),
        ("postgresql://ann:sesame@host/t", r"postgresql://\*\*\*@host/t names no store"),
        ("postgresql://host/db/a b", "'a b' is no name of a table"),
        ("qdrant+http://host:x/t", "names no store"),
        ("elasticsearch+http:///t", "names no store"),
    ],
)
def test_bad_targets(run: Path, url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        store_vectors(run, url)
    assert "sesame" not in str(caught.value)
