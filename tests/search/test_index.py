"""The index as its users meet it: what goes in is found, and nothing else; options, prompts, and what is refused."""

from __future__ import annotations

import gc
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from little_models import TEXTS, WIDTH, records, unit_rows

import mmbert
from mmbert.errors import ConfigError, DataError, MMBertError
from mmbert.files import read_checked_json, write_checked_json
from mmbert.inference.embedder import Embedder
from mmbert.locks import lock_folder
from mmbert.search import lance, writing
from mmbert.search.index import SearchIndex
from mmbert.search.records import Records

LANGUAGES = ["eng", "eng", "fra", "swh", "rus", "cmn", "tha", "eng", "eng", "fra"]
YEARS = [1948, 1949, 1948, None, 2000, 2001, None, 1950, 1951, 1948]


LONG = "In the spring they found the part that was called XK-4471-Q, and nobody knew what it was for."


def ids(hits: list[Any]) -> list[Any]:
    return [hit.id for hit in hits]


@pytest.fixture(scope="module", params=["exact", "lance"])
def full(request: pytest.FixtureRequest, embed: Embedder, tmp_path_factory: pytest.TempPathFactory) -> SearchIndex:
    place = tmp_path_factory.mktemp("index") / request.param
    index = SearchIndex.create(place, embed, store=request.param)
    index.add(records(lang=LANGUAGES, year=YEARS))
    return index


def test_public_name() -> None:
    assert mmbert.SearchIndex is SearchIndex


def test_closed_when_it_is_forgotten(tmp_path: Path) -> None:
    """Nobody has to close an index: Python 3.13 warns of connections that are left open."""
    Records.create(tmp_path, "exact")
    handle = Records(tmp_path)
    connection = handle._db
    del handle
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
    again = Records(tmp_path)
    again.close()
    again.close()


def test_hits_are_those_of_the_embedder(full: SearchIndex, embed: Embedder) -> None:
    queries = ["equal in dignity", "droit à la vie", "自由"]
    wanted = embed(queries, prompt="query") @ embed(TEXTS, prompt="document").T
    assert abs(wanted - embed(queries, prompt="") @ embed(TEXTS, prompt="").T).max() > 0.01  # prompts matter
    for hits, row in zip(full(queries, top_k=4), wanted, strict=True):
        assert ids(hits) == [f"r{place}" for place in np.argsort(-row)[:4]]
        assert [hit.score for hit in hits] == pytest.approx(sorted(row, reverse=True)[:4], abs=1e-5)
        for hit in hits:
            place = int(hit.id[1:])
            assert hit.text == TEXTS[place]
            assert (hit.start, hit.end) == (0, len(hit.text))
            assert hit.metadata == records(lang=LANGUAGES, year=YEARS)[place]["metadata"]
    assert ids(full(queries[0], top_k=4)) == ids(full(queries, top_k=4)[0])
    assert full(embed(queries, prompt="query"), top_k=4)[2][0].id == full(queries[2], top_k=1)[0].id
    assert len(full(queries[0], top_k=100)) == len(TEXTS)
    assert full([]) == []


FILTERS = [
    {"lang": "fra"}, {"lang": ["fra", "swh"]}, {"lang": {"not": "eng"}}, {"year": {">=": 1949, "<": 2001}},
    {"year": None}, {"lang": "eng", "year": {"<=": 1949}}, {"year": "1948"}, {},
]  # fmt: skip


@pytest.mark.parametrize(("where", "places"), [
    (FILTERS[0], [2, 9]), (FILTERS[1], [2, 3, 9]), (FILTERS[2], [2, 3, 4, 5, 6, 9]), (FILTERS[3], [1, 4, 7, 8]),
    (FILTERS[4], [3, 6]), (FILTERS[5], [0, 1]), (FILTERS[6], []), (FILTERS[7], list(range(10))),
])  # fmt: skip
@pytest.mark.parametrize("hybrid", [False, True, 0.5])
def test_filters(full: SearchIndex, where: dict[str, Any], places: list[int], hybrid: bool | float) -> None:
    found = full("everyone is free", where=where, hybrid=hybrid, top_k=20)
    assert sorted(ids(found)) == [f"r{place}" for place in places]
    every = ids(full("everyone is free", top_k=20))
    if not hybrid:
        assert ids(found) == [name for name in every if int(name[1:]) in places]


def test_hybrid_finds_a_rare_string(embed: Embedder, tmp_path: Path) -> None:
    texts = [f"{first} {second}" for first in TEXTS for second in TEXTS] + [LONG]
    index = SearchIndex.create(tmp_path / "index", embed)
    index.add(records(texts))
    rare = f"r{len(texts) - 1}"
    query = "XK-4471-Q"
    by_meaning, by_both = (ids(index(query, top_k=200, hybrid=hybrid)).index(rare) for hybrid in (False, True))
    assert by_both < min(20, by_meaning)  # random weights know nothing of it
    assert ids(index(query, top_k=1, hybrid=0.2)) == [rare]
    assert ids(index(query, top_k=5, hybrid=1.0)) == ids(index(query, top_k=5))
    index.delete(rare)
    for hybrid in (True, 0.2):
        assert rare not in ids(index(query, top_k=500, hybrid=hybrid))
    index.add([{"id": "again", "text": texts[-1]}])
    assert "again" in ids(index(query, top_k=20, hybrid=True))
    index.compact()
    assert "again" in ids(index(query, top_k=20, hybrid=True))
    assert len(list((tmp_path / "index").glob("words-*"))) == 1


def test_added_again_updated_deleted(embed: Embedder, tmp_path: Path) -> None:
    index = SearchIndex.create(tmp_path / "index", embed)
    assert index("anything") == []
    given = records(lang=LANGUAGES)
    assert index.add(given[:4]) == writing.Changed(added=4)
    assert index.add(iter(given)) == writing.Changed(added=6, same=4)
    with pytest.raises(DataError, match="exists already with another text: use update"):
        index.add([given[0], {**given[3], "text": "other"}])
    with pytest.raises(DataError, match="another metadata"):
        index.add([{**given[3], "metadata": {}}])
    rows = (tmp_path / "index" / "vectors-0000" / "rows.bin").stat().st_size
    changed = {**given[3], "metadata": {"lang": "swa", "new": [1, 2]}}
    assert index.update([given[0], changed]) == writing.Changed(updated=1, same=1)
    assert (tmp_path / "index" / "vectors-0000" / "rows.bin").stat().st_size == rows  # the text was not computed again
    assert ids(index("x", where={"new": 2})) == ["r3"]
    assert index("x", where={"lang": "swh"}) == []
    assert index.update([{"id": "r3", "text": "a text"}, {"id": "r3", "text": "the last one counts"}]).updated == 1
    assert [hit.text for hit in index("x", top_k=20) if hit.id == "r3"] == ["the last one counts"]
    assert index.delete(["r0", "r0", "none", 3]) == 1
    assert len(index) == 9
    assert "r0" not in index
    assert "r1" in index
    assert index.describe()["removed"] == 2
    before = [(hit.id, pytest.approx(hit.score)) for hit in index("freedom", top_k=20)]
    assert index.compact() == 2
    assert [(hit.id, hit.score) for hit in index("freedom", top_k=20)] == before
    assert index.describe()["removed"] == 0
    assert index.add([given[0]]).added == 1
    assert index.delete([f"r{n}" for n in range(10)]) == 10
    assert index("freedom", hybrid=True) == []
    assert index.compact() == 10
    assert index("freedom") == []


def test_ids_are_text_or_numbers(embed: Embedder, tmp_path: Path) -> None:
    index = SearchIndex.create(tmp_path / "index", embed)
    index.add([{"id": 1, "text": "one"}, {"id": "1", "text": "another"}, {"id": "é", "text": "third"}])
    assert set(ids(index("one"))) == {1, "1", "é"}
    assert index.delete(1) == 1
    assert 1 not in index
    assert "1" in index


@pytest.mark.parametrize("output", ["float32", "float16", "int8"])
def test_outputs(embed: Embedder, tmp_path: Path, output: Any) -> None:
    texts = [f"{text} {number}" for number in range(20) for text in TEXTS]
    index = SearchIndex.create(tmp_path / "index", embed, output=output, dimensions=8)
    index.add(records(texts), batch_size=150)
    whole = embed(texts, prompt="document", dimensions=8)
    wanted = embed("equal rights", prompt="query", dimensions=8) @ whole.T
    hits = index("equal rights", top_k=30)
    assert abs(np.array([wanted[int(hit.id[1:])] - hit.score for hit in hits])).max() < 0.02
    assert len(set(ids(hits)) & {f"r{n}" for n in np.argsort(-wanted)[:30]}) > 20
    size = (tmp_path / "index" / "vectors-0000" / "rows.bin").stat().st_size
    assert size == len(texts) * (8 * np.dtype(output).itemsize + (0 if output == "float32" else 10))
    index.delete("r0")
    stored = {hit.id: hit.score for hit in index("equal rights", top_k=500)}
    index.compact()
    assert {hit.id: hit.score for hit in index("equal rights", top_k=500)} == pytest.approx(stored, abs=1e-6)
    assert len(stored) == len(texts) - 1


@pytest.mark.parametrize("chunking", [("windows", None), ("late", "sentence")])
def test_passages(embed: Embedder, tmp_path: Path, chunking: tuple[Any, Any]) -> None:
    long = " ".join(TEXTS[:2] + TEXTS[7:9])
    index = SearchIndex.create(
        tmp_path / "index", embed, chunking=chunking[0], by=chunking[1], size=24 if chunking[0] == "windows" else None
    )
    index.add([{"id": "long", "text": long}, *records(TEXTS[2:6])])
    passages = embed.passages(
        long, chunking=chunking[0], by=chunking[1], size=24 if chunking[0] == "windows" else None, prompt="document"
    )
    assert len(passages) > 2
    assert index.describe()["passages"] > len(index) == 5
    hits = index("slavery", top_k=50, per_record=100)
    spans = {(hit.start, hit.end): hit.score for hit in hits if hit.id == "long"}
    assert sorted(spans) == sorted(passages.spans)
    scores = passages.vectors @ embed("slavery", prompt="query")
    assert [spans[span] for span in passages.spans] == pytest.approx(scores.tolist(), abs=1e-4)
    assert all(hit.text == long[hit.start : hit.end] for hit in hits if hit.id == "long")
    for hybrid in (False, True):
        once = index("slavery", top_k=5, hybrid=hybrid)
        assert sorted(ids(once)) == ["long", "r0", "r1", "r2", "r3"]
    best = max(spans, key=lambda span: spans[span])
    assert next((hit.start, hit.end) for hit in index("slavery") if hit.id == "long") == best


def test_many_rows_move_to_lancedb(embed: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "LARGEST_EXACT", 40)
    rows = unit_rows(60)
    index = SearchIndex.create(tmp_path / "index", embed)
    given = records([f"text {n}" for n in range(60)])
    index.add(given[:30], vectors=rows[:30])
    reader = SearchIndex.load(tmp_path / "index", model=embed)
    assert len(reader(rows[:1], top_k=50)[0]) == 30
    index.delete(["r3", "r4"])
    index.add(given[30:], vectors=rows[30:], batch_size=8)
    assert index.describe()["store"] == "lance"
    assert [place.name for place in (tmp_path / "index").glob("vectors-*")] == ["vectors-0001"]
    for found in (index, reader):  # who has it open notices
        hits = found(rows[50:51], top_k=60)[0]
        assert hits[0].id == "r50"
        assert len(hits) == 58
        scores = rows[50] @ rows.T
        wanted = [f"r{n}" for n in np.argsort(-scores) if n not in (3, 4)]
        assert ids(hits) == wanted


def test_readers_go_on_while_lancedb_is_tidied(
    embed: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lance, "INDEXED_FROM", 300)
    monkeypatch.setattr(lance, "_PARTS", 2)
    rows = unit_rows(700)
    index = SearchIndex.create(tmp_path / "index", embed, store="lance", kind="ivf_flat")
    reader = SearchIndex.load(tmp_path / "index", model=embed)
    given = records([f"text {n}" for n in range(700)])
    for count in (100, 400, 500, 600, 700):
        start = len(index)
        index.add(given[start:count], vectors=rows[start:count], batch_size=50)
        for found in (index, reader):
            assert found(rows[count - 1 : count], top_k=1)[0][0].id == f"r{count - 1}"
    files = tmp_path / "index" / "vectors-0000" / "rows.lance"
    assert (files / "_indices").is_dir()
    assert len(list((files / "_versions").iterdir())) <= 2  # what earlier readers had open is gone


def test_given_vectors(embed: Embedder, tmp_path: Path) -> None:
    index = SearchIndex.create(tmp_path / "index", embed)
    rows = 3 * unit_rows(4)
    with pytest.raises(ConfigError, match=r"vectors are \(4, 8\): this index takes \(n, 16\)"):
        index.add(records()[:4], vectors=rows[:, :8])
    with pytest.raises(DataError, match="4 vectors for more records"):
        index.add(records(), vectors=rows, batch_size=2)
    index.add(records()[:4], vectors=rows)
    assert index(rows[2:3], top_k=1)[0][0].score == pytest.approx(1)
    with pytest.raises(ConfigError, match="needs the text of a query"):
        index(rows, hybrid=True)


def test_the_model_is_checked(
    folder: Path, other: Path, embed: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "model"
    shutil.copytree(folder, here)
    monkeypatch.chdir(tmp_path)
    with SearchIndex.create("index", "model", device="cpu", precision="fp32") as index:
        index.add(records())
    monkeypatch.chdir("/")
    wanted = SearchIndex.load(tmp_path / "index", model=embed)("dignity")
    index = SearchIndex.load(tmp_path / "index", device="cpu", precision="fp32")
    assert [hit.id for hit in index("dignity")] == ids(wanted)
    made = index.manifest
    with pytest.raises(ConfigError) as caught:
        SearchIndex.load(tmp_path / "index", model=other)("dignity")
    for part in (str(here), str(other), made.model_hash, Embedder.load(other).loaded.model_hash):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="is another model"):
        SearchIndex.create(tmp_path / "index", other, resume=True)
    with pytest.raises(ConfigError, match="pooling"):
        SearchIndex.load(tmp_path / "index", model=Embedder(embed.loaded, pooling="first"))
    here.rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match="which is not there: say where its model is"):
        SearchIndex.load(tmp_path / "index")("dignity")
    moved = SearchIndex.load(tmp_path / "index", model=tmp_path / "moved", device="cpu", precision="fp32")
    assert ids(moved("dignity")) == ids(wanted)


def test_going_on_needs_the_same_options(embed: Embedder, tmp_path: Path) -> None:
    SearchIndex.create(tmp_path / "index", embed, document_prompt="Text: ").add(records())
    assert len(SearchIndex.create(tmp_path / "index", embed, document_prompt="Text: ", resume=True)) == len(TEXTS)
    with pytest.raises(ConfigError, match="begun with document_prompt 'Text: ', now it is 'D: '"):
        SearchIndex.create(tmp_path / "index", embed, resume=True)
    with pytest.raises(ConfigError, match="exists already"):
        SearchIndex.create(tmp_path / "index", embed)


def test_an_index_of_fewer_layers_reads_queries_with_as_many(folder: Path, embed: Embedder, tmp_path: Path) -> None:
    place = tmp_path / "index"
    options: dict[str, Any] = {"num_layers": 1, "dimensions": 4, "device": "cpu", "precision": "fp32"}
    SearchIndex.create(place, folder, **options).add(records())
    found = SearchIndex.load(place, device="cpu", precision="fp32")
    assert found("free")[0].score == pytest.approx(
        float(np.max(Embedder.load(folder, num_layers=1, dimensions=4, precision="fp32")(TEXTS, prompt="document")
                     @ Embedder.load(folder, num_layers=1, dimensions=4, precision="fp32")("free", prompt="query"))),
        abs=1e-5,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="was made with num_layers 1, now it is 2: load the model with num_layers=1"):
        SearchIndex.load(place, model=embed)("free")
    with pytest.raises(ConfigError, match="load the Embedder with it"):
        SearchIndex.create(tmp_path / "other", embed, num_layers=1)


def test_one_writer_at_a_time(embed: Embedder, tmp_path: Path) -> None:
    index = SearchIndex.create(tmp_path / "index", embed)
    index.add(records()[:3])
    with lock_folder(tmp_path / "index"), ThreadPoolExecutor(1) as other:
        for write in (lambda: index.add(records()), lambda: index.delete("r0"), index.compact):
            with pytest.raises(MMBertError, match="index is being written by process") as caught:
                other.submit(write).result()
            assert "\n" not in str(caught.value)
        assert len(index("free")) == 3  # readers go on
    index.add(records())


def damaged(place: Path, what: str) -> None:
    manifest = read_checked_json(place / "index.json")
    if what in ("version", "older"):
        manifest["version"] = 99 if what == "version" else 3
    elif what == "field":
        del manifest["dimensions"]
    elif what == "prompt":
        text = (place / "index.json").read_text()
        (place / "index.json").write_text(text.replace('"query_prompt": "', '"query_prompt": "x'))
        return
    write_checked_json(place / "index.json", manifest)
    if what == "json":
        (place / "index.json").write_text("{")
    if what == "rows":
        (place / "vectors-0000" / "rows.bin").write_bytes(b"12")
    elif what == "records":
        (place / "records.sqlite").write_bytes(b"no database at all, but long enough to be looked at" * 100)
    elif what == "no records":
        (place / "records.sqlite").unlink()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("version", "index.json is of version 99, this package reads 5"),
        ("older", "index.json is of version 3, this package reads 5: build the index again"),
        ("field", "is damaged .dimensions."),
        ("json", "not valid JSON"),
        ("prompt", "index.json is damaged .its checksum does not match."),
        ("rows", "rows.bin has 2 bytes of 640: it is damaged"),
        ("records", "records.sqlite is damaged"),
        ("no records", "no records.sqlite"),
    ],
)
def test_damage_is_one_line(embed: Embedder, tmp_path: Path, what: str, said: str) -> None:
    SearchIndex.create(tmp_path / "index", embed).add(records())
    damaged(tmp_path / "index", what)
    with pytest.raises(MMBertError, match=said) as caught:
        SearchIndex.load(tmp_path / "index", model=embed)("free")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("text", "record 0 is str"),
        ({"id": "a"}, "record 0 has no text"),
        ({}, "no id and no text"),
        ({"id": "a", "text": 3}, "its text is int"),
        ({"id": "a", "text": " \n"}, "has no text"),
        ({"id": "a", "text": "\ud800"}, "lone surrogate"),
        ({"id": "\ud800", "text": "a"}, "lone surrogate"),
        ({"id": None, "text": "a"}, "its id is NoneType"),
        ({"id": True, "text": "a"}, "its id is bool"),
        ({"id": 2**70, "text": "a"}, "more than 64 bits"),
        ({"id": "a", "text": "a", "year": 3}, "field 'year': put it into its metadata"),
        ({"id": "a", "text": "a", "metadata": []}, "metadata is list"),
        ({"id": "a", "text": "a", "metadata": {1: 2}}, "cannot be written as JSON"),
        ({"id": "a", "text": "a", "metadata": {"k": object()}}, "cannot be written as JSON"),
    ],
)
def test_records_that_are_none(embed: Embedder, tmp_path: Path, record: Any, said: str) -> None:
    index = SearchIndex.create(tmp_path / "index", embed)
    with pytest.raises(DataError, match=said):
        index.add([record])
    assert len(index) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"top_k": 0}, "top_k is 0"),
        ({"per_record": 1.5}, "per_record is 1.5"),
        ({"hybrid": 2.0}, "hybrid is 2.0"),
        ({"where": {"lnag": "x"}}, "no record has metadata 'lnag': did you mean 'lang'?"),
        ({"where": {"lang": {"like": "x"}}}, "operator 'like'"),
        ({"query": 3}, "queries are int"),
        ({"query": ["a", ""]}, "query 1 is empty"),
        ({"query": ["a", None]}, "query 1 is NoneType"),
        ({"query": np.zeros((2, 3))}, "this index takes"),
    ],
)
def test_wrong_questions(full: SearchIndex, options: dict[str, Any], said: str) -> None:
    with pytest.raises(MMBertError, match=said):
        full(**{"query": "free", **options})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"output": "binary"}, "output 'binary'"),
        ({"store": "faiss"}, "store 'faiss'"),
        ({"kind": "hnsw"}, "kind 'hnsw'"),
        ({"store": "lance", "output": "int8"}, "LanceDB's rows"),
        ({"dimensions": WIDTH + 1}, "dimensions is 17"),
        ({"size": 3}, "are for chunking"),
        ({"chunking": "late", "by": "page"}, "by 'page'"),
    ],
)
def test_wrong_options(embed: Embedder, tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SearchIndex.create(tmp_path / "index", embed, **options)
    assert not list(tmp_path.iterdir())
