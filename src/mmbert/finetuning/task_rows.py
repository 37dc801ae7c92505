"""Rows of each task, checked: all that a run finds wrong with its data before it needs a model, and without torch.

``mmbert finetune RECIPE --dry-run`` reads no further. Raised are DataErrors with the place of the row.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from mmbert.errors import ConfigError, DataError
from mmbert.finetuning.examples import read_answers, read_splits, want_text
from mmbert.finetuning.labels import Examples, Fields, as_label, label_names, label_number, no_label_marks, number_in
from mmbert.finetuning.recipe import AnswerOptions, Choose, Classify, FinetuneRecipe, Tag
from mmbert.finetuning.word_labels import Span, find_words, join_words
from mmbert.io.row_errors import Row

log = logging.getLogger(__name__)

METRICS: dict[str, tuple[str, ...]] = {
    "single_label": ("accuracy", "macro_f1", "matthews"), "multi_label": ("micro_f1", "macro_f1"),
    "regression": ("spearman", "pearson"), "tag": ("f1", "precision", "recall", "accuracy"),
    "answer": ("f1", "exact"), "choose": ("accuracy",),
}  # fmt: skip
"""Task, or problem of ``classify`` -> what is measured on dev and test; the first decides."""

TRAINED_HERE = ("classify", "tag", "answer", "choose")
"""Tasks that ``transformers`` trains; sentence-transformers trains the others."""

NUMBER = "score"
"""The name of a regression's only class."""

TAG_FIELDS = Fields(("tokens", "tags"), ("text",), ("tokens", "tags"))
"""Not ``gold``: a word without a tag does not take its sentence along."""

NOTHING = "O"

UNTAGGED = ""
"""Stands for a tag: the word has no gold tag, is not trained on and not scored."""

PADDED_TAG = "-100"
"""What transformers' own scripts write for such a word."""


ANSWER_FIELDS = Fields(("question", "context"), ("answers", "answer", "answer_start"), ("answers",))

CHOICE_FIELDS = Fields(("question", "choices", "label"), (), ("choices",), gold="label", kind="choice")


@dataclass(frozen=True)
class TaskRows:
    """The rows of a task that ``transformers`` trains, checked.

    splits  as they were read
    items   split -> what the task reads of a row: labels or a number, a ``Sentence``, a ``Question``, its choices
    names   of the classes, in their order; empty where a task has none
    counts  class -> how often it comes in the training rows
    """

    splits: dict[str, Examples]
    items: dict[str, list[Any]]
    names: tuple[str, ...] = ()
    counts: Counter[str] = field(default_factory=Counter)


def read_task(recipe: FinetuneRecipe) -> TaskRows:
    """Read and check the rows of all splits. Raises DataError with the place of the first that is wrong, ConfigError
    for a ``training.metric`` that the task does not have."""
    own, task = recipe.options, recipe.task
    splits = read_splits(recipe, task_fields(recipe), own.labels if task == "classify" else ())
    labelled: dict[str, list[tuple[Row, list[str]]]] = {}
    items: dict[str, list[Any]]
    if task == "tag":
        items = dict(read_all(splits, own, recipe.data.no_label))
        labelled = {role: [(each.row, list(filter(None, each.tags))) for each in items[role]] for role in splits}
    else:
        makers: dict[str, Callable[..., Any]] = {"classify": label_of, "answer": question_of, "choose": choice_of}
        items = {role: [makers[task](row, own, each) for row in each.rows] for role, each in splits.items()}
        if task == "classify" and own.problem != "regression":
            labelled = {role: list(zip(splits[role].rows, items[role], strict=True)) for role in splits}
    block = "tag" if task == "tag" else "label"
    counts = Counter(label for _, labels in labelled.get("train", ()) for label in labels)
    names = _class_names(recipe, counts, splits["train"].names.get("tags" if task == "tag" else "label", ()))
    if recipe.training.metric:
        check_metric(recipe.training.metric, metric_names(recipe, len(names)))
    numbers = {name: number for number, name in enumerate(names)}
    for row, labels in (pair for pairs in labelled.values() for pair in pairs):
        for label in labels:
            label_number(numbers, row, block, label, f"{task}.labels")
    return TaskRows(splits, items, names, counts)


def _class_names(recipe: FinetuneRecipe, counts: Counter[str], declared: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the classes in order; of tags ``O`` is first, unless the recipe or source says otherwise."""
    own = recipe.options
    if recipe.task not in ("classify", "tag"):
        return ()
    if recipe.task == "classify" and own.problem == "regression":
        return (NUMBER,)
    names = label_names(list(counts), declared, own.labels)
    if recipe.task == "tag":
        first = NOTHING in names and not own.labels and not declared
        return (NOTHING, *(name for name in names if name != NOTHING)) if first else names
    if len(names) < 2 and own.problem == "single_label":
        raise DataError(f"the training data has one label only ({names[0]}): there is nothing to tell apart")
    return names


def task_fields(recipe: FinetuneRecipe) -> Fields:
    """Return what a task that ``transformers`` trains reads of a row, with its check of a row."""
    if recipe.task == "classify":
        return replace(fields(recipe.classify), check=partial(label_of, own=recipe.classify))
    if recipe.task == "tag":
        return replace(TAG_FIELDS, check=_words_of)
    if recipe.task == "answer":
        return replace(ANSWER_FIELDS, check=partial(question_of, own=recipe.answer))
    return replace(CHOICE_FIELDS, check=lambda row: (want_text(row, "question"), choices_of(row)))


def metric_names(recipe: FinetuneRecipe, classes: int) -> tuple[str, ...]:
    """Return what is measured on dev and test of a task that ``transformers`` trains; the first decides."""
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
    """Return what is read of a row; ``label`` is a list of labels where there may be several."""
    lists = ("label",) if own.problem == "multi_label" else ()
    kind: Literal["class", "number"] = "number" if own.problem == "regression" else "class"
    return Fields(("text", "label"), ("text_pair",), lists, gold="label", kind=kind)


def label_of(row: Row, own: Classify, _: Examples | None = None) -> float | list[str]:
    """Return the number or the labels of a row. Raises DataError for a text or label of the wrong kind."""
    for name in ("text", *(("text_pair",) if "text_pair" in row else ())):
        want_text(row, name)
    return number_in(row, "label", row["label"]) if own.problem == "regression" else labels_of(row, own)


def choice_of(row: Row, own: Choose, examples: Examples) -> tuple[str, list[str], int]:
    """Return question, choices and the number of the right one."""
    question, choices = want_text(row, "question"), choices_of(row)
    return question, choices, right_choice(row, len(choices), own.first_label, examples.names.get("label", ()))


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
    """Return the sentences of every split; tags that mean "no gold tag" (-100, or -1) become ``UNTAGGED``."""
    train = splits["train"]
    found = Counter(tag for row in train.rows for tag in _words_of(row)[2] if tag != PADDED_TAG)
    marks = no_label_marks(found, TAG_FIELDS, (*own.labels, *train.names.get("tags", ())), no_label)
    if no_label is None:
        marks |= {PADDED_TAG}
    return {role: read_sentences(examples, role, own, marks) for role, examples in splits.items()}


def read_sentences(
    examples: Examples, role: str, own: Tag, marks: frozenset[str] = frozenset((PADDED_TAG,))
) -> list[Sentence]:
    """Return words in their sentences. Raises DataError with the place of what is wrong.

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
    """Return the raw text, if there is one, the words and the tags."""
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


def question_of(row: Row, own: AnswerOptions, _: Examples | None = None) -> Question:
    """Return a question whose answers stand where they are said to. Raises DataError if one does not."""
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
