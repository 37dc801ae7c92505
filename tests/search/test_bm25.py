"""Words: bm25s itself is the reference; what came later is weighed by the same formula; two rankings become one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import bm25s
import numpy as np
import pytest
from little_models import TEXTS

from mmbert.inference.embedder import Embedder
from mmbert.search import bm25 as module
from mmbert.search.bm25 import Bm25, fold
from mmbert.search.fusion import fuse_ranks, fuse_scores
from mmbert.search.index_record import IndexRecord
from mmbert.search.records import Records
from mmbert.tokenizer.tokenizer import Tokenizer

QUERIES = ["free and equal", "droits", "the right to liberty the right", "自由", "equal", "brotherhood 平等"]


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    Records.create(tmp_path, "exact")
    found = Records(tmp_path)
    add(found, TEXTS)
    yield found
    found.close()


def add(records: Records, texts: list[str]) -> None:
    with records.writing() as state:
        documents = [IndexRecord(state.rows + place, text) for place, text in enumerate(texts)]
        records.insert([(document, [(0, len(document.text))]) for document in documents])


def refreshed(words: Bm25, records: Records) -> Bm25:
    with records.reading() as state:
        words.refresh(records, state)
    return words


def reference(tokenizer: Tokenizer, texts: list[str], query: str) -> np.ndarray:
    """bm25s with the tokens as strings."""
    cut = [[str(i) for i in ids] for ids in tokenizer.encode_batch([" " + fold(text) for text in [*texts, query]])]
    model = bm25s.BM25()
    model.index(cut[:-1], show_progress=False)
    return np.asarray(model.get_scores(cut[-1]))


@pytest.mark.parametrize("query", QUERIES)
def test_scores_are_those_of_bm25s(embed: Embedder, records: Records, tmp_path: Path, query: str) -> None:
    tokenizer = embed.loaded.tokenizer
    wanted = reference(tokenizer, TEXTS, query)
    for words in (Bm25(tmp_path, tokenizer), Bm25(tmp_path, tokenizer)):  # built, then loaded
        rows, scores = refreshed(words, records).search(query, 5, None)
        assert (rows == np.argsort(-wanted, kind="stable")[: len(rows)]).all()
        assert abs(scores - wanted[rows]).max() < 1e-5
        assert abs(words.scores_of(query, np.arange(len(TEXTS))) - wanted).max() < 1e-5


def test_what_came_later_is_weighed_alike(
    embed: Embedder, records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = refreshed(Bm25(tmp_path, embed.loaded.tokenizer), records)
    built = words._model
    add(records, TEXTS[::-1])
    refreshed(words, records)
    assert words._model is built
    everything = np.arange(2 * len(TEXTS))
    for query in QUERIES:  # the same texts, the same statistics: the same scores
        scores = words.scores_of(query, everything)
        assert scores[: len(TEXTS)].max() > 0
        assert abs(scores[: len(TEXTS)] - scores[len(TEXTS) :][::-1]).max() < 1e-5
    monkeypatch.setattr(module, "FRESH", 3)
    add(records, ["one more free text"])
    refreshed(words, records)
    assert words._model is not built
    wanted = reference(embed.loaded.tokenizer, [*TEXTS, *TEXTS[::-1], "one more free text"], QUERIES[0])
    assert abs(words.scores_of(QUERIES[0], np.arange(len(wanted))) - wanted).max() < 1e-5


def test_case_and_forms_are_one(embed: Embedder, records: Records, tmp_path: Path) -> None:
    words = refreshed(Bm25(tmp_path, embed.loaded.tokenizer), records)
    plain, shouted = words.search("equal in dignity", 9, None), words.search("ＥＱＵＡＬ IN Dignity", 9, None)
    assert (plain[0] == shouted[0]).all()


def test_reciprocal_ranks() -> None:
    rows, sums = fuse_ranks([np.array([7, 3, 5]), np.array([3, 9])])
    assert rows.tolist() == [3, 7, 9, 5]
    assert sums == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62, 1 / 63])
    assert fuse_ranks([np.zeros(0, np.int64), np.zeros(0, np.int64)])[0].tolist() == []


def test_weighted_scores() -> None:
    rows, cosines, weights = np.array([1, 4, 6]), np.array([0.9, 0.2, 0.8]), np.array([0.0, 8.0, 4.0])
    for share, wanted in ((1.0, [1, 6, 4]), (0.0, [4, 6, 1])):
        assert fuse_scores(rows, cosines, weights, share)[0].tolist() == wanted
    found, sums = fuse_scores(rows, cosines, weights, 0.5)
    assert dict(zip(found.tolist(), sums.tolist(), strict=True)) == pytest.approx(
        {1: 0.5, 4: 0.5 * 1.2 / 1.9 + 0.5, 6: 0.5 * 1.8 / 1.9 + 0.25}, abs=1e-6
    )
    assert np.isfinite(fuse_scores(rows, cosines, np.zeros(3), 0.5)[1]).all()
