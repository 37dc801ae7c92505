"""An index from vectors that were computed before, and a table of LanceDB as an index: the hits of a built one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from little_models import TEXTS, WIDTH, records, unit_rows

from mmbert.errors import ConfigError, DataError, MMBertError
from mmbert.inference.bulk import embed_to_file
from mmbert.inference.embedder import Embedder
from mmbert.search.import_vectors import import_vectors
from mmbert.search.index import SearchIndex
from mmbert.stores.push import store_vectors

LANGS = ["eng", "eng", "fra", "swh", "rus", "zho", "tha", "eng", None, "fra"]
YEARS = list(range(2000, 2010))
QUERIES = ["free and equal", "droit à la vie", TEXTS[3]]


def write_run(folder: Path, embed: Embedder, vectors: np.ndarray | None = None, **changed: Any) -> Path:
    """A bulk run of TEXTS with columns, by the model."""
    if vectors is None:
        vectors = embed(TEXTS, prompt="document")
    made = {
        "command": "embed", "model": str(embed.loaded.folder), "model_hash": embed.loaded.model_hash, "num_layers": 2,
        "pooling": ["mean"], "max_tokens": 128, "prompt": "document", "normalize": True, "output": "float32",
        "complete": True,
    }  # fmt: skip
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(made | changed))
    table = pa.table(
        {
            "id": [f"r{number}" for number in range(len(TEXTS))],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
            "text": TEXTS, "lang": LANGS, "year": YEARS, "old": [year < 2005 for year in YEARS],
        }
    )  # fmt: skip
    pq.write_table(table.slice(0, 6), folder / "a.parquet")
    pq.write_table(table.slice(6), folder / "b.parquet")
    return folder


@pytest.fixture
def built(tmp_path: Path, embed: Embedder) -> SearchIndex:
    index = SearchIndex.create(tmp_path / "built", embed)
    old = [year < 2005 for year in YEARS]
    index.add(records(lang=LANGS, year=YEARS, old=old))
    return index


def same(found: Any, expected: Any) -> bool:
    return all(
        [(hit.id, hit.text, hit.metadata) for hit in ours] == [(hit.id, hit.text, hit.metadata) for hit in theirs]
        and np.allclose([hit.score for hit in ours], [hit.score for hit in theirs], atol=1e-5)
        for ours, theirs in zip(found, expected, strict=True)
    )


def test_index_of_a_run(tmp_path: Path, embed: Embedder, built: SearchIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", embed)
    monkeypatch.setattr(SearchIndex, "_embed", None)  # nothing is embedded
    index, changed = import_vectors(tmp_path / "index", run, batch_size=3, device="cpu", precision="fp32")
    assert (changed.added, len(index)) == (10, 10)
    for options in ({}, {"where": {"lang": "fra"}}, {"hybrid": True}):
        assert same(index(QUERIES, **options), built(QUERIES, **options))
    index.close()
    again, changed = import_vectors(tmp_path / "index", run, batch_size=4, device="cpu", precision="fp32")
    assert (changed.added, changed.same, len(again)) == (0, 10, 10)
    again.close()


def test_index_of_a_file_and_its_texts(tmp_path: Path, embed: Embedder, built: SearchIndex) -> None:
    file = tmp_path / "vectors.parquet"
    given = records(lang=LANGS, year=YEARS, old=[year < 2005 for year in YEARS])
    embed_to_file(embed, [(record["id"], record["text"]) for record in given], file, prompt="document")
    index, _ = import_vectors(tmp_path / "index", file, texts=given, device="cpu", precision="fp32")
    assert same(index(QUERIES), built(QUERIES))
    index.close()
    for texts, said in (
        (given[:9], "the vector of id 'r9' meets their end"),
        (given[1:], "the vector of id 'r0' meets 'r1': give the texts that were embedded"),
        ([*given, {"id": "more", "text": "x"}], "there is no vector for 'more'"),
    ):
        with pytest.raises(DataError, match=said):
            import_vectors(tmp_path / "other", file, texts=texts, device="cpu")
    with pytest.raises(DataError, match=r"has no texts in a column 'text' .it has no columns beside id and vector."):
        import_vectors(tmp_path / "third", file)


def test_lines_with_blank_ones(tmp_path: Path, embed: Embedder) -> None:
    file = tmp_path / "vectors.parquet"
    embed_to_file(embed, [(1, TEXTS[0]), (2, ""), (3, TEXTS[1])], file)
    texts = [{"id": f"lines.txt:{line}", "text": text} for line, text in ((1, TEXTS[0]), (3, TEXTS[1]))]
    index, changed = import_vectors(tmp_path / "index", file, texts=texts, device="cpu", precision="fp32")
    assert changed.added == 2
    assert index(TEXTS[1], top_k=1)[0].text == TEXTS[1]
    index.close()


def test_what_does_not_fit_is_one_line(tmp_path: Path, embed: Embedder, other: Path) -> None:
    run = write_run(tmp_path / "run", embed)
    with pytest.raises(ConfigError, match=r"was made with .* is another model .*: give the first"):
        import_vectors(tmp_path / "index", run, model=other)
    wide = write_run(tmp_path / "wide", embed, unit_rows(10, 2 * WIDTH))
    with pytest.raises(ConfigError, match=f"has vectors of {2 * WIDTH} numbers, .* makes {WIDTH}: give the model"):
        import_vectors(tmp_path / "index", wide)
    nameless = write_run(tmp_path / "nameless", embed, model=None)
    with pytest.raises(ConfigError, match=r"nothing says which model made the vectors of .*: give it with --model"):
        import_vectors(tmp_path / "index", nameless)
    assert not (tmp_path / "index").exists()


FILTERS: list[Any] = [
    {"lang": "fra"}, {"lang": ["fra", "swh"]}, {"lang": None}, {"lang": {"not": "eng"}}, {"lang": []},
    {"year": {">=": 2003, "<": 2006}}, {"year": 2004.0}, {"year": "2004"}, {"old": True}, {"old": 0},
    {"year": {">": 2003.5}}, {"old": {"not": True}, "lang": "eng"}, {"lang": "o'clock"},
    {"lang": {"not": {"in": ["eng", "fra"]}}},
]  # fmt: skip


def test_search_a_table(
    tmp_path: Path, embed: Embedder, built: SearchIndex, capsys: pytest.CaptureFixture[str]
) -> None:
    table = f"{tmp_path}/passages.lance"
    store_vectors(write_run(tmp_path / "run", embed), table)
    with SearchIndex.load(table, device="cpu", precision="fp32") as index:
        assert same(index(QUERIES), built(QUERIES))
        for where in FILTERS:
            assert same(index(QUERIES, where=where), built(QUERIES, where=where)), where
        assert len(index) == 10
        assert "r3" in index
        assert "r30" not in index
        assert index.describe()["metadata"] == ["lang", "year", "old"]
        with pytest.raises(ConfigError, match="where: no record has metadata 'land': did you mean 'lang'"):
            index("free", where={"land": 1})
        with pytest.raises(ConfigError, match=r"hybrid search needs an index .mmbert index import"):
            index("free", hybrid=True)
        with pytest.raises(ConfigError, match="is a table: it is changed by mmbert store"):
            index.delete("r1")


def test_tables_that_are_none(tmp_path: Path, embed: Embedder, other: Path) -> None:
    with pytest.raises(DataError, match=r"no table nothing in .*: make one with mmbert store"):
        SearchIndex.load(tmp_path / "nothing.lance")
    import lancedb

    lancedb.connect(tmp_path).create_table("mine", [{"id": "a", "vector": [1.0, 2.0]}])
    with pytest.raises(ConfigError, match="was not made by mmbert store"):
        SearchIndex.load(f"{tmp_path}/mine.lance")
    store_vectors(write_run(tmp_path / "run", embed), f"{tmp_path}/passages.lance")
    with pytest.raises(MMBertError, match="is another model"):
        SearchIndex.load(f"{tmp_path}/passages.lance", model=other, device="cpu")("free")
