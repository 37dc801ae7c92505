"""Rows of each task, checked: all that a run finds wrong with its data before it needs a model, and without torch.

``mmbert finetune RECIPE --dry-run`` reads no further. Raised are DataErrors with the place of the row.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from mmbert.errors import ConfigError, DataError
from mmbert.finetuning.examples import (
    Examples,
    Fields,
    Row,
    as_label,
    label_names,
    no_label_marks,
    read_answers,
    want_text,
)
from mmbert.finetuning.recipe import AnswerOptions, Classify, FinetuneRecipe, Tag
from mmbert.finetuning.word_labels import Span, find_words, join_words

log = logging.getLogger(__name__)

METRICS: dict[str, tuple[str, ...]] = {
    "single_label": ("accuracy", "macro_f1", "matthews"), "multi_label": ("micro_f1", "macro_f1"),
    "regression": ("spearman", "pearson"), "tag": ("f1", "precision", "recall", "accuracy"),
    "answer": ("f1", "exact"), "choose": ("accuracy",),
}  # fmt: skip
"""Task, or problem of ``classify`` -> what is measured on dev and test; the first decides."""

NUMBER = "score"
"""The name of a regression's only class."""

TAG_FIELDS = Fields(("tokens", "tags"), ("text",), ("tokens", "tags"))
"""Not ``gold``: a word without a tag does not take its sentence along."""

NOTHING = "O"

UNTAGGED = ""
"""In the place of a tag: the word has none, is not learnt and not scored."""

PADDED_TAG = "-100"
"""What transformers' own scripts write for such a word."""


ANSWER_FIELDS = Fields(("question", "context"), ("answers", "answer", "answer_start"), ("answers",))

CHOICE_FIELDS = Fields(("question", "choices", "label"), (), ("choices",), gold="label", kind="choice")


def task_fields(recipe: FinetuneRecipe) -> Fields:
    """What a task that ``transformers`` trains reads of a row, with its check of a row."""
    if recipe.task == "classify":
        return replace(fields(recipe.classify), check=partial(check_example, own=recipe.classify))
    if recipe.task == "tag":
        return replace(TAG_FIELDS, check=_words_of)
    if recipe.task == "answer":
        return replace(ANSWER_FIELDS, check=partial(question_of, own=recipe.answer))
    return replace(CHOICE_FIELDS, check=lambda row: (want_text(row, "question"), choices_of(row)))


def metric_names(recipe: FinetuneRecipe, classes: int) -> tuple[str, ...]:
    """What is measured on dev and test of a task that ``transformers`` trains; the first decides."""
    if recipe.task != "classify":
        return METRICS[recipe.task]
    more = ("f1",) if recipe.classify.problem == "single_label" and classes == 2 else ()
    return (*METRICS[recipe.classify.problem], *more)


def check_metric(wanted: str, names: Sequence[str]) -> None:
    """Raise ConfigError for a ``training.metric`` that the task does not have."""
    if wanted and wanted not in names:
        raise ConfigError(f"training.metric {wanted!r} is none of {', '.join(names)}")


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


@dataclass(frozen=True)
class Question:
    """A question, its text, and the answers that are right: (text, first character); none if there is none."""

    question: str
    context: str
    answers: list[tuple[str, int]]
    row: Row


def fields(own: Classify) -> Fields:
    """What is read of a row; ``label`` is a list of labels where there may be several."""
    lists = ("label",) if own.problem == "multi_label" else ()
    kind: Literal["class", "number"] = "number" if own.problem == "regression" else "class"
    return Fields(("text", "label"), ("text_pair",), lists, gold="label", kind=kind)


def check_example(row: Row, own: Classify) -> None:
    """Raise DataError for a text or label of the wrong kind."""
    want_text(row, "text")
    if "text_pair" in row:
        want_text(row, "text_pair")
    if own.problem == "regression":
        number_of(row)
    else:
        labels_of(row, own)


def class_names(examples: Examples, own: Classify) -> tuple[str, ...]:
    """Names of the classes in their order."""
    if own.problem == "regression":
        return (NUMBER,)
    found = [label for row in examples.rows for label in labels_of(row, own)]
    names = label_names(found, examples.names.get("label", ()), own.labels)
    if len(names) < 2 and own.problem == "single_label":
        raise DataError(f"the training data has one label only ({names[0]}): there is nothing to tell apart")
    return names


def number_of(row: Row) -> float:
    """The label of a regression."""
    try:
        value = float(row["label"])
    except (TypeError, ValueError):
        value = float("nan")
    if not math.isfinite(value):
        raise DataError(f"{row['place']}: label {row['label']!r} is not a number: fix or remove the row")
    return value


def labels_of(row: Row, own: Classify) -> list[str]:
    value = row["label"]
    if own.problem == "single_label":
        if isinstance(value, list | dict):
            raise DataError(f"{row['place']}: label is a {type(value).__name__}: set classify.problem=multi_label")
        return [as_label(value)]
    if not isinstance(value, list):
        raise DataError(f"{row['place']}: label is {type(value).__name__}, not a list of labels: fix the row")
    return [as_label(each) for each in value]


def read_all(splits: dict[str, Examples], own: Tag, no_label: Sequence[str | int] | None) -> dict[str, list[Sentence]]:
    """The sentences of every split; tags that mean "no gold tag" (-100, and -1 as for classes) are ``UNTAGGED``."""
    train = splits["train"]
    found = Counter(tag for row in train.rows for tag in _words_of(row)[2] if tag != PADDED_TAG)
    marks = no_label_marks(found, TAG_FIELDS, (*own.labels, *train.names.get("tags", ())), no_label)
    if no_label is None:
        marks |= {PADDED_TAG}
    return {role: read_sentences(examples, role, own, marks) for role, examples in splits.items()}


def read_sentences(
    examples: Examples, role: str, own: Tag, marks: frozenset[str] = frozenset((PADDED_TAG,))
) -> list[Sentence]:
    """Words in their sentences. Raises DataError with the place of what is wrong.

    marks  tags that mean that a word has none; sentences without any other are left out
    """
    found, rebuilt = [], 0
    for row in examples.rows:
        text, words, tags = _words_of(row)
        tags = [UNTAGGED if tag in marks else tag for tag in tags]
        if not any(tags):
            continue
        spans = None if text is None else find_words(text, words)
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


def _words_of(row: Row) -> tuple[str | None, list[str], list[str]]:
    """The raw text, if there is one, and words and tags."""
    text = row.get("text")
    if text is not None and not isinstance(text, str):
        raise DataError(f"{row['place']}: text is {type(text).__name__}, not text: fix or remove the row")
    for name in ("tokens", "tags"):
        if not isinstance(row[name], list) or not row[name]:
            said = "is empty" if row[name] == [] else f"is {type(row[name]).__name__}, not a list"
            raise DataError(f"{row['place']}: {name} {said}: fix or remove the row")
    words, tags = row["tokens"], ["" if tag is None else as_label(tag) for tag in row["tags"]]
    if len(words) != len(tags):
        raise DataError(f"{row['place']}: {len(words)} tokens and {len(tags)} tags: give each token one")
    if not all(tag.strip() for tag in tags):
        raise DataError(
            f"{row['place']}: tag {[tag.strip() for tag in tags].index('')} is empty: fix or remove the row"
        )
    for number, word in enumerate(words):
        if not isinstance(word, str) or not word:
            raise DataError(f"{row['place']}: token {number} is {word!r}: fix or remove the row")
    return text, words, tags


def tag_names(sentences: Sequence[Sentence], declared: Sequence[str], own: Tag) -> tuple[str, ...]:
    """Names of the tags in their order: ``O`` first, unless the recipe or the source states another."""
    found = [tag for sentence in sentences for tag in sentence.tags if tag != UNTAGGED]
    names = label_names(found, declared, own.labels)
    if not own.labels and NOTHING in names and not declared:
        names = (NOTHING, *(name for name in names if name != NOTHING))
    return names


def read_questions(examples: Examples, own: AnswerOptions) -> list[Question]:
    """Questions whose answers stand where they are said to. Raises DataError with the place of one that does not."""
    return [question_of(row, own) for row in examples.rows]


def question_of(row: Row, own: AnswerOptions) -> Question:
    question, context = want_text(row, "question"), want_text(row, "context")
    answers = [(text, _start(row, start)) for text, start in read_answers(row)]
    if not answers and not own.no_answer:
        raise DataError(f"{row['place']}: no answer: remove the row, or set answer.no_answer=true")
    for number, (text, start) in enumerate(answers):
        there = context[start : start + len(text)] if start >= 0 else ""
        if there != text or not text:
            elsewhere = context.find(text) if text else -1
            hint = f"it stands at {elsewhere}" if elsewhere >= 0 else "the context has it nowhere"
            raise DataError(
                f"{row['place']}: answer {number} {text[:40]!r} is not at answer_start {start} of the context "
                f"(there: {there[:40]!r}; {hint}): fix the row, counting characters from 0"
            )
    return Question(question, context, answers, row)


def _start(row: Row, start: Any) -> int:
    try:
        return int(as_label(start))
    except ValueError as error:
        raise DataError(f"{row['place']}: answer_start is {start!r}, not a number: fix the row") from error


def choices_of(row: Row) -> list[str]:
    choices = row["choices"]
    if not isinstance(choices, list) or len(choices) < 2:
        raise DataError(f"{row['place']}: choices is not a list of at least two texts: fix or remove the row")
    for number, choice in enumerate(choices):
        if not isinstance(choice, str) or not choice.strip():
            raise DataError(f"{row['place']}: choice {number} is {choice!r}: fix or remove the row")
    return choices


def right_choice(row: Row, choices: int, first: int, names: tuple[str, ...]) -> int:
    if row["label"] in names:  # the hub's classes choice1 and choice2
        return names.index(row["label"])
    try:
        number = int(as_label(row["label"])) - first
    except ValueError:
        number = -1
    if not 0 <= number < choices:
        raise DataError(
            f"{row['place']}: label {row['label']!r} names none of {choices} choices numbered from {first}: "
            "fix the row, or set choose.first_label"
        )
    return number
