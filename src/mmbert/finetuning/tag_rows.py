"""Rows of ``tag``, checked: the words of each sentence, and their tags. Without torch.

With a teacher a row may have no tags, or be a text alone, whose words are those of :mod:`mmbert.words`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mmbert.errors import DataError
from mmbert.finetuning.labels import Examples, Fields, as_label, no_label_marks
from mmbert.finetuning.recipe_heads import Tag
from mmbert.finetuning.word_labels import Span, find_words, join_words
from mmbert.io.row_errors import Row
from mmbert.words import word_spans

log = logging.getLogger(__name__)

TAG_FIELDS = Fields(("tokens", "tags"), ("text",), ("tokens", "tags"))
"""Not ``gold``: a word without a tag does not take its sentence along."""

NOTHING = "O"

UNTAGGED = ""
"""Stands for a tag: the word has no gold tag, is not trained on and not scored."""

PADDED_TAG = "-100"
"""What transformers' own scripts write for such a word."""

TAUGHT_TAG_FIELDS = Fields((), ("text", "tokens", "tags"), ("tokens", "tags"))
"""With a teacher: a text alone is enough."""


@dataclass(frozen=True)
class Sentence:
    """A tagged sentence.

    text   raw, or put together of its words
    words  characters of each
    tags   of each; ``UNTAGGED`` where there is no gold one
    """

    text: str
    words: list[Span]
    tags: list[str]
    row: Row


def read_all(
    splits: dict[str, Examples], own: Tag, no_label: Sequence[str | int] | None, *, unlabelled: bool = False
) -> dict[str, list[Sentence]]:
    """Return the sentences of every split; tags that mean "no gold tag" (-100, or -1) become ``UNTAGGED``.

    unlabelled  keep sentences without a gold tag, for a teacher
    """
    train = splits["train"]
    found = Counter(tag for row in train.rows for tag in words_of(row)[2] if tag not in (UNTAGGED, PADDED_TAG))
    marks = no_label_marks(found, TAG_FIELDS, (*own.labels, *train.names.get("tags", ())), no_label)
    if no_label is None:
        marks |= {PADDED_TAG}
    return {
        role: read_sentences(examples, role, own, marks, unlabelled=unlabelled) for role, examples in splits.items()
    }


def read_sentences(
    examples: Examples,
    role: str,
    own: Tag,
    marks: frozenset[str] = frozenset((PADDED_TAG,)),
    *,
    unlabelled: bool = False,
) -> list[Sentence]:
    """Return words in their sentences. Raises DataError with the place of what is wrong.

    marks       tags that mean that a word has none; sentences without any other are left out
    unlabelled  keep these; the words of a text without ``tokens`` are those of :mod:`mmbert.words`
    """
    found, rebuilt = [], 0
    for row in examples.rows:
        text, words, tags = words_of(row)
        tags = [UNTAGGED if tag in marks else tag for tag in tags]
        if not (any(tags) or (unlabelled and words)):
            continue
        spans: list[Span] | None = None
        if text is not None:
            spans = find_words(text, words) if "tokens" in row else word_spans(text)
        if spans is None:
            rebuilt += text is not None
            text, spans = join_words(words, own.join)
        found.append(Sentence(str(text), spans, tags, row))
    if len(found) < len(examples):
        log.info("%s: %d of %d sentences have no gold tag (%s) and are left out", role, len(examples) - len(found),
                 len(examples), " or ".join(sorted(marks)))  # fmt: skip
    if not found:
        raise DataError(f"data.{role}: no sentence has a gold tag: give a split with tags")
    if rebuilt:
        log.info("%s: in %d of %d sentences the words are not those of the text: put together again", role, rebuilt,
                 len(found))  # fmt: skip
    return found


def words_of(row: Row) -> tuple[str | None, list[str], list[str]]:
    """Return the raw text, if there is one, the words and the tags. Raises DataError with the place."""
    text = row.get("text")
    if text is not None and not isinstance(text, str):
        raise DataError(f"{row['place']}: text is {type(text).__name__}, not text: fix or remove the row")
    if "tokens" not in row:  # with a teacher
        if text is None:
            raise DataError(f"{row['place']}: neither 'text' nor 'tokens': name the column in data.columns")
        words = [text[start:end] for start, end in word_spans(text)]
        return text, words, [UNTAGGED] * len(words)
    for name in ("tokens", *(("tags",) if "tags" in row else ())):
        if not isinstance(row[name], list) or not row[name]:
            said = "is empty" if row[name] == [] else f"is {type(row[name]).__name__}, not a list"
            raise DataError(f"{row['place']}: {name} {said}: fix or remove the row")
    words = row["tokens"]
    tags = ["" if tag is None else as_label(tag) for tag in row["tags"]] if "tags" in row else []
    if "tags" in row and len(words) != len(tags):
        raise DataError(f"{row['place']}: {len(words)} tokens and {len(tags)} tags: give each token one")
    if not all(tag.strip() for tag in tags):
        raise DataError(
            f"{row['place']}: tag {[tag.strip() for tag in tags].index('')} is empty: fix or remove the row"
        )
    for number, word in enumerate(words):
        if not isinstance(word, str) or not word:
            raise DataError(f"{row['place']}: token {number} is {word!r}: fix or remove the row")
    return text, words, tags or [UNTAGGED] * len(words)
