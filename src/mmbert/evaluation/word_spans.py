"""Gold words and entities as characters of the raw sentence, which is what a model is given."""

from __future__ import annotations

from collections.abc import Sequence

from mmbert.evaluation.sources import Row
from mmbert.finetuning.word_labels import Span as Place
from mmbert.finetuning.word_labels import find_words, join_words
from mmbert.metrics.entities import Span, read_chunks


def place_words(row: Row, join: str = "auto") -> tuple[str, list[Place]]:
    """Return the sentence and (start, end) of each word in it: as in training (``mmbert.finetuning.word_labels``)."""
    words = [str(word) for word in row["tokens"]]
    text = row.get("text")
    if isinstance(text, str) and (found := find_words(text, words)) is not None:
        return text, found
    return join_words(words, join)


def spans_of(tags: Sequence[str], places: Sequence[Place]) -> set[Span]:
    """Return the entities as characters. Labels without a prefix, as of parts of speech, are one a word."""
    if all(tag[1:2] in ("-", "_") or tag == "O" for tag in tags):
        return {(places[first][0], places[last][1], kind) for kind, first, last in read_chunks(tags)}
    return {(start, end, tag) for tag, (start, end) in zip(tags, places, strict=True)}
