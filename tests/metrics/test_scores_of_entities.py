"""Entities: the example of seqeval's README, and its rules one by one."""

from __future__ import annotations

import pytest

from mmbert.errors import DataError, UndefinedMetric
from mmbert.metrics.entities import count_entities, entity_f1, read_chunks, span_f1, token_accuracy


def test_the_example_of_seqeval() -> None:
    """seqeval's README: f1_score 0.50."""
    gold = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    said = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    assert entity_f1(said, gold) == 0.5
    counts = count_entities(said, gold)
    assert (counts.precision, counts.recall) == (0.5, 0.5)
    assert token_accuracy(said, gold) == pytest.approx(0.8), "seqeval's README: accuracy_score 0.80"


@pytest.mark.parametrize(
    ("labels", "chunks"),
    [
        ("B-PER I-PER O B-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),  # the docstring of get_entities
        ("O I-PER I-PER", [("PER", 1, 2)]),  # an I- that follows none begins one
        ("B-PER I-LOC", [("PER", 0, 0), ("LOC", 1, 1)]),
        ("B-PER B-PER", [("PER", 0, 0), ("PER", 1, 1)]),
        ("O O", []),
        ("", []),
        ("NOUN NOUN VERB", [("OUN", 0, 1), ("ERB", 2, 2)]),  # parts of speech: runs of equal tags
        ("SCONJ SCONJ", [("CONJ", 0, 0), ("CONJ", 1, 1)]),  # but S is a single one
    ],
)
def test_chunks(labels: str, chunks: list[tuple[str, int, int]]) -> None:
    assert read_chunks(labels.split()) == chunks


def test_nothing_found() -> None:
    assert entity_f1([["O"]], [["B-X"]]) == 0
    for said in ("O", "B-X"):
        with pytest.raises(UndefinedMetric, match="none of the 1 texts has one"):
            entity_f1([[said]], [["O"]])
    with pytest.raises(UndefinedMetric, match="none of the 2 texts has one"):
        span_f1([{(0, 1, "PER")}, set()], [set(), set()])
    for empty in ([], [[]]):
        with pytest.raises(UndefinedMetric, match="no sentence has a word"):
            token_accuracy(empty, empty)


def test_spans_of_characters() -> None:
    gold = [{(0, 5, "PER"), (9, 13, "LOC")}, set()]
    assert span_f1([{(0, 5, "PER"), (9, 12, "LOC")}, set()], gold) == 0.5
    assert span_f1([{(0, 5, "LOC")}, {(0, 1, "PER")}], gold) == 0
    assert span_f1(gold, gold) == 1


def test_lengths() -> None:
    with pytest.raises(DataError, match="sentence 1: 1 labels for 2 words"):
        entity_f1([["O"], ["O"]], [["O"], ["O", "O"]])
    with pytest.raises(DataError, match="1 predictions for 2 sentences"):
        entity_f1([["O"]], [["O"], ["O"]])
    with pytest.raises(DataError, match="1 predictions for 2 texts"):
        span_f1([set()], [set(), set()])
