"""Labels of rows: how they are written, the order of the classes, and which of them mean "no gold label"."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mmbert.errors import DataError
from mmbert.io.row_errors import Row, as_name

log = logging.getLogger(__name__)

NO_LABEL = "-1"
"""What SNLI, and the test parts of GLUE and SuperGLUE, have in place of a gold label."""

DASH = "-"
"""The same in SNLI's own files, where the others are words."""

_FLOAT = re.compile(r"\A(-?\d+)\.0+\Z")
"""A whole number as pandas writes it in a column where one is missing."""
_NUMBER = re.compile(r"-?\d+(\.\d*)?")
_NO_LABEL = re.compile(r"\s*-1(\.0*)?\s*")


@dataclass(frozen=True)
class Fields:
    """What a task reads of a row."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    """Fields that are lists; in CSV and TSV they are JSON, or words separated by spaces."""
    gold: str = ""
    """The one that holds the gold label, of which -1 may mean that there is none."""
    kind: Literal["class", "number", "choice"] = "class"
    """What the gold label is: a class, a number on a scale, or the number of a choice."""
    unlabelled: bool = False
    """Whether rows without a gold label are kept: a teacher has logits for them."""
    check: Callable[[Row], object] | None = None
    """Raises DataError for a row that the task cannot use by itself; ``skip_bad_rows`` passes over it."""


@dataclass(frozen=True)
class Examples:
    """The rows of a split."""

    rows: list[Row]
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Field -> names of its classes in their order, where the source declares them."""
    shuffled: bool = False
    """Whether the order of all rows is a random one already (``shuffle_seed``)."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def languages(self) -> list[str]:
        """Language of each row; "" where it is unknown."""
        return [row["language"] or "" for row in self.rows]


def as_label(value: Any) -> str:
    """Return the name of a class, however it is written: 1, 1.0, "1.0", True, "yes"."""
    return _FLOAT.sub(r"\1", value) if isinstance(value, str) else as_name(value)


def number_in(row: Row, name: str, value: Any) -> float:
    """Return a value of a field as a finite number. Raises DataError."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{row['place']}: {name} {value!r} is not a number: fix or remove the row")
    return number


def label_names(found: Sequence[str], declared: Sequence[str] = (), stated: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names of classes in order: as the recipe states, as the source declares, or those found, sorted.

    Numbers are sorted as numbers.
    """
    if stated or declared:
        return tuple(map(as_label, stated or declared))
    distinct = set(found)
    if all(re.fullmatch(r"-?\d+", name) for name in distinct):
        return tuple(sorted(distinct, key=int))
    return tuple(sorted(distinct))


def label_number(numbers: dict[str, int], row: Row, name: str, value: Any, option: str) -> int:
    """Return the number of a class. Raises DataError for an unknown one, naming ``option``, which lists the classes."""
    label = as_label(value)
    if label not in numbers:
        known = ", ".join(list(numbers)[:20])
        raise DataError(
            f"{row['place']}: {name} {label!r} is none of the labels {known}: fix the row, or list it in {option}"
        )
    return numbers[label]


def no_label_marks(
    found: Counter[str], fields: Fields, stated: Sequence[str], given: Sequence[str | int] | None
) -> frozenset[str]:
    """Return which labels mean that a row has none: as the recipe says, else -1 where it cannot be a label.

    found   labels of the training rows, and how often
    stated  names of the classes, in the recipe or of the source
    given   ``data.no_label``
    In classes -1 is no label beside words, or beside 0, 1, 2 (and more, none missing), and is a class beside other
    negative numbers or beside 1 alone; on a scale it is a number beside other negative ones. A dash is none beside
    words. Raises DataError for what may be either: -1, 0, 1 are two classes and no label, or three.
    """
    if given is not None:
        return frozenset(map(as_label, given))
    if DASH in found and fields.gold and fields.kind == "class" and not stated:
        words = found.keys() - {DASH, NO_LABEL}
        if len(words) > 1 and all(any(map(str.isalpha, word)) for word in words):
            return frozenset((DASH, NO_LABEL))
    if NO_LABEL in stated:
        return frozenset()
    others = [label for label in found if label != NO_LABEL]
    numbers = [float(label) for label in others if _NUMBER.fullmatch(label)]
    scale = fields.kind == "number" or (fields.kind == "class" and not stated)
    if scale and any(number < 0 for number in numbers):
        return frozenset()
    if NO_LABEL not in found or not others or not scale:
        return frozenset((NO_LABEL,))
    if fields.kind == "class":
        if len(numbers) < len(others) or (len(numbers) > 2 and sorted(numbers) == list(range(len(numbers)))):
            return frozenset((NO_LABEL,))
        if numbers == [1]:
            log.info("the %s -1 is taken for a class, beside 1", fields.gold)
            return frozenset()
    raise DataError(
        f"data.train: {found[NO_LABEL]} of {found.total()} labels ({fields.gold or 'tags'}) are -1, which may mean 'no "
        "gold label' (as in GLUE and SNLI) or be a label: set data.no_label=[-1] to leave them out, or "
        "data.no_label=[] to train on them"
    )


def gold_labels(row: Row, name: str) -> list[str]:
    """Return the labels of a row, however they are written. Raises DataError for one that is empty."""
    value = row.get(name)
    values = value if isinstance(value, list) else [] if value is None else [value]
    if any(each is None or each != each or not str(each).strip() for each in values):  # NaN is no other number's equal
        raise DataError(f"{row['place']}: {name} is empty: fix or remove the row")
    labels = [as_label(each) for each in values]
    return [NO_LABEL if _NO_LABEL.fullmatch(label) else label for label in labels]


def without_marks(examples: Examples, name: str, marks: frozenset[str]) -> Examples:
    """Return all examples; a label that means "no gold label" is taken away."""

    def bare(row: Row) -> Row:
        return {key: value for key, value in row.items() if key != name}

    return replace(
        examples, rows=[row if marks.isdisjoint(gold_labels(row, name)) else bare(row) for row in examples.rows]
    )


def leave_out(examples: Examples, role: str, name: str, marks: frozenset[str]) -> Examples:
    """Return the examples that have a gold label. Raises DataError where none has."""
    kept = [row for row in examples.rows if marks.isdisjoint(gold_labels(row, name))]
    if len(kept) == len(examples):
        return examples
    said = f"{role}: {len(examples) - len(kept)} of {len(examples)} rows have no gold label ({name} is "
    said += f"{' or '.join(sorted(marks))})"
    if not kept:
        raise DataError(f"{said}, so none is left: give a split with labels" + (
            "" if role == "train" else f", or set data.{role}=null"
        ))  # fmt: skip
    log.info("%s and are left out; data.no_label=[] keeps them", said)
    return replace(examples, rows=kept)
