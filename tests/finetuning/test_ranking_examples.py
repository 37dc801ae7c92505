"""Rows of many forms as groups and columns; what is wrong with a row is named with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from little_sentences import write_rows

from mmbert.errors import DataError
from mmbert.finetuning.labels import Examples
from mmbert.finetuning.ranking_examples import Texts, columns, labelled_pairs, make_groups
from mmbert.finetuning.recipe_data import DataSpec
from mmbert.finetuning.recipe_sentence import Embed, Lookup


def _groups(*rows: dict[str, Any], loss: str = "contrastive", options: Embed | None = None) -> Any:
    placed = [{"place": f"rows:{number}", "language": "eng_Latn", **row} for number, row in enumerate(rows, 1)]
    return make_groups(Examples(placed), Texts((options or Embed()).lookup), loss)


def test_contrast() -> None:
    groups = _groups(
        {"query": "a", "positive": "b", "negative": ["c", "d"]}, {"query": "e", "positive": "f", "negative": "g"}
    )
    assert columns(groups, "contrastive", None) == {
        "query": ["a", "e"], "positive": ["b", "f"], "negative_1": ["c", "g"]
    }  # fmt: skip
    assert list(columns(groups, "contrastive", 0)) == ["query", "positive"]
    with pytest.raises(DataError, match="rows:2: 1 negatives, and the recipe asks for 2"):
        columns(groups, "contrastive", 2)


def test_teachers_order_documents() -> None:
    groups = _groups({"query": "a", "documents": ["low", "high"], "scores": [1, 5]}, loss="kl")
    assert columns(groups, "kl", None) == {
        "query": ["a"], "positive": ["high"], "negative_1": ["low"], "label": [[5.0, 1.0]]
    }  # fmt: skip
    written = _groups({"query": "a", "documents": "['x', 'y']", "scores": "[2, 1]"}, loss="kl")
    assert written[0].documents == ("x", "y")
    margin = _groups({"query": "a", "positive": "b", "negative": "c", "score": 3.5}, loss="margin_mse")
    assert columns(margin, "margin_mse", None)["label"] == [3.5]


def test_labelled_pairs() -> None:
    groups = _groups({"query": "a", "positive": "b", "negative": ["c"]}, {"query": "a", "document": "d", "label": 0})
    found = labelled_pairs(groups, "bce", None)
    assert (found["document"], found["label"]) == (["b", "c", "d"], [1.0, 0.0, 0.0])
    with pytest.raises(DataError, match="rows:1: label 3 is not between 0 and 1"):
        labelled_pairs(_groups({"query": "a", "document": "d", "label": 3}), "bce", None)
    with pytest.raises(DataError, match="rows:1: mse needs a score"):
        labelled_pairs(_groups({"query": "a", "positive": "d"}), "mse", None)


def test_ids_are_looked_up(tmp_path: Path) -> None:
    table = write_rows(tmp_path / "texts.jsonl", [{"id": 1, "text": "one"}, {"id": 2, "text": "two"}])
    spec = DataSpec(path=str(table))
    options = Embed(lookup=Lookup(queries=spec, documents=spec))
    found = _groups({"query": 1, "positive": 2}, options=options)
    assert (found[0].query, found[0].documents) == ("one", ("two",))
    with pytest.raises(DataError, match=r"rows:1: documents 3 is no id of lookup\.documents"):
        _groups({"query": 1, "positive": 3}, options=options)


@pytest.mark.parametrize(
    ("row", "loss", "message"),
    [
        ({"query": "a"}, "contrastive", "neither 'positive' nor 'documents'"),
        ({"query": " ", "positive": "b"}, "contrastive", "query is empty"),
        ({"query": "a", "positive": 7}, "contrastive", "documents is int, not text"),
        ({"query": "a", "positive": "b", "negative": []}, "contrastive", "negative is an empty list"),
        ({"query": "a", "positive": "b"}, "kl", "learns from a teacher's scores"),
        ({"query": "a", "documents": ["b"], "scores": [1, 2]}, "kl", "1 documents and 2 scores"),
        ({"query": "a", "documents": ["b"], "scores": [1]}, "kl", "at least two documents"),
        ({"query": "a", "documents": ["b", "c"], "scores": [1, "x"]}, "kl", "'x' is not a number"),
        ({"query": "a", "documents": ["b", "c"], "scores": [1, float("nan")]}, "kl", "scores nan is not a number"),
        ({"query": "a", "documents": "[b", "scores": [1]}, "kl", "begins as a list"),
        ({"text": "a", "text_pair": "b", "score": None}, "cosent", "is not a number"),
    ],
)
def test_faults_have_their_place(row: dict[str, Any], loss: str, message: str) -> None:
    with pytest.raises(DataError, match=f"rows:1: .*{message}"):
        _groups(row, loss=loss)
