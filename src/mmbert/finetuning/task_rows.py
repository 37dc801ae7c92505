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
from mmbert.finetuning.labels import Examples, Fields, as_label, label_names, label_number, number_in
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_heads import AnswerOptions, Choose, Classify
from mmbert.finetuning.scores import AGREEMENT
from mmbert.finetuning.tag_rows import NOTHING, TAG_FIELDS, TAUGHT_TAG_FIELDS, Sentence, read_all, words_of
from mmbert.finetuning.teacher_config import TeacherConfig
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


ANSWER_FIELDS = Fields(("question", "context"), ("answers", "answer", "answer_start"), ("answers",))

CHOICE_FIELDS = Fields(("question", "choices", "label"), (), ("choices",), gold="label", kind="choice")


@dataclass(frozen=True)
class TaskRows:
    """The rows of a task that ``transformers`` trains, checked.

    splits  as they were read
    items   split -> what the task reads of a row: labels or a number (None without, for a teacher), a ``Sentence``, a
            ``Question``, its choices
    names   of the classes, in their order; empty where a task has none
    counts  class -> how often it comes in the training rows
    """

    splits: dict[str, Examples]
    items: dict[str, list[Any]]
    names: tuple[str, ...] = ()
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def languages(self) -> dict[str, list[str]]:
        """Return split -> language of each row; "" where it is unknown."""
        return {role: examples.languages for role, examples in self.splits.items()}


def read_task(recipe: FinetuneRecipe, teacher: TeacherConfig | None = None) -> TaskRows:
    """Read and check the rows of all splits. Raises DataError with the place of the first that is wrong, ConfigError
    for a ``training.metric`` that the task does not have.

    teacher  the recipe's, whose labels are the classes; None: not read (in a dry run, of the hub)
    """
    own, task, taught = recipe.options, recipe.task, recipe.teacher is not None
    if teacher is not None:
        own = own.model_copy(update={"labels": teacher.labels})
    splits = read_splits(recipe, task_fields(recipe), own.labels if task == "classify" else ())
    labelled: dict[str, list[tuple[Row, list[str]]]] = {}
    items: dict[str, list[Any]]
    if task == "tag":
        items = dict(read_all(splits, own, recipe.data.no_label, unlabelled=taught))
        labelled = {role: [(each.row, list(filter(None, each.tags))) for each in items[role]] for role in splits}
    else:
        makers: dict[str, Callable[..., Any]] = {"classify": label_of, "answer": question_of, "choose": choice_of}
        items = {role: [makers[task](row, own, each) for row in each.rows] for role, each in splits.items()}
        if task == "classify" and own.problem != "regression":
            labelled = {
                role: [pair for pair in zip(splits[role].rows, items[role], strict=True) if pair[1] is not None]
                for role in splits
            }
    if taught:
        _log_labelled(items)
    block = "tag" if task == "tag" else "label"
    counts = Counter(label for _, labels in labelled.get("train", ()) for label in labels)
    names = _class_names(recipe, teacher, counts, splits["train"].names.get("tags" if task == "tag" else "label", ()))
    if recipe.training.metric:
        check_metric(recipe.training.metric, metric_names(recipe, len(names)))
    numbers = {name: number for number, name in enumerate(names)}
    for row, labels in (pair for pairs in labelled.values() for pair in pairs):
        for label in labels:
            if teacher is not None:
                teacher.check_label(row, block, label)
            else:
                label_number(numbers, row, block, label, f"{task}.labels")
    return TaskRows(splits, items, names, counts)


def _log_labelled(items: dict[str, list[Any]]) -> None:
    """Log how many examples have a gold label, where some have none."""
    for role, examples in items.items():
        count = sum(any(each.tags) if isinstance(each, Sentence) else each is not None for each in examples)
        if count < len(examples):
            log.info("%s: %s of %s examples have a label; the others have the teacher alone", role, f"{count:,}",
                     f"{len(examples):,}")  # fmt: skip


def _class_names(
    recipe: FinetuneRecipe, teacher: TeacherConfig | None, counts: Counter[str], declared: Sequence[str]
) -> tuple[str, ...]:
    """Return the names of the classes in order; of tags ``O`` is first, unless the recipe or source says otherwise."""
    own = recipe.options
    if recipe.task not in ("classify", "tag"):
        return ()
    if recipe.task == "classify" and own.problem == "regression":
        return (NUMBER,)
    if teacher is not None:
        return teacher.labels
    names = label_names(list(counts), declared, own.labels)
    if recipe.task == "tag":
        first = NOTHING in names and not own.labels and not declared
        return (NOTHING, *(name for name in names if name != NOTHING)) if first else names
    if len(names) < 2 and own.problem == "single_label" and recipe.teacher is None:
        raise DataError(f"the training data has one label only ({names[0]}): there is nothing to tell apart")
    return names


def task_fields(recipe: FinetuneRecipe) -> Fields:
    """Return what a task that ``transformers`` trains reads of a row, with its check of a row."""
    if recipe.task == "classify":
        found = fields(recipe.classify)
        if recipe.teacher is not None:
            spans = ("start", "end") if recipe.teacher.doc_stride is not None else ()
            found = replace(found, required=("text",), optional=("label", "text_pair", *spans), unlabelled=True)
        return replace(found, check=partial(label_of, own=recipe.classify))
    if recipe.task == "tag":
        return replace(TAG_FIELDS if recipe.teacher is None else TAUGHT_TAG_FIELDS, check=words_of)
    if recipe.task == "answer":
        return replace(ANSWER_FIELDS, check=partial(question_of, own=recipe.answer))
    return replace(CHOICE_FIELDS, check=lambda row: (want_text(row, "question"), choices_of(row)))


def metric_names(recipe: FinetuneRecipe, classes: int) -> tuple[str, ...]:
    """Return what is measured on dev and test of a task that ``transformers`` trains; the first decides."""
    more = () if recipe.teacher is None else (AGREEMENT,)
    if recipe.task != "classify":
        return (*METRICS[recipe.task], *more)
    binary = ("f1",) if recipe.classify.problem == "single_label" and classes == 2 else ()
    return (*METRICS[recipe.classify.problem], *binary, *more)


def check_metric(wanted: str, names: Sequence[str]) -> None:
    """Raise ConfigError for a ``training.metric`` that the task does not have."""
    if wanted and wanted not in names:
        raise ConfigError(f"training.metric {wanted!r} is none of {', '.join(names)}")


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


def label_of(row: Row, own: Classify, _: Examples | None = None) -> float | list[str] | None:
    """Return the number or the labels of a row, None without. Raises DataError for a text or label of the wrong kind,
    or a span of the label outside the text."""
    for name in ("text", *(("text_pair",) if "text_pair" in row else ())):
        want_text(row, name)
    label_span(row)
    if "label" not in row:
        return None
    return number_in(row, "label", row["label"]) if own.problem == "regression" else labels_of(row, own)


def label_span(row: Row) -> tuple[int, int] | None:
    """Return the characters that the label of a row is about; None where it does not say.

    Raises DataError for a span outside the text.
    """
    given = [row.get(name) for name in ("start", "end")]
    if given == [None, None]:
        return None
    try:
        start, end = (int(str(value).removesuffix(".0")) for value in given)
    except ValueError:
        start, end = -1, -1
    if not 0 <= start < end <= len(row["text"]):
        raise DataError(
            f"{row['place']}: start {given[0]!r} and end {given[1]!r} are no span of the text of {len(row['text'])} "
            "characters: fix the row, counting from 0, the end not included"
        )
    return start, end


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
