"""Examples of a task as plain rows: our field names, their language, and their place for whoever finds a fault.

    fields = Fields(required=("text", "label"), optional=("text_pair",))
    examples = read_examples(recipe.data.split("train"), "train", fields)
    examples.rows[0]    # {"text": ..., "label": ..., "language": "swh_Latn", "place": "data/swh_Latn/train.jsonl:1"}
    examples.names      # {"label": ("entailment", "neutral", "contradiction")} where the hub names classes

Local files (``tables``) and the hub (``hub``) give rows; here columns become fields. A fault in the data is a DataError
with the place and what to do.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from mmbert.errors import ConfigError, DataError
from mmbert.finetuning.hub import HubTable, load_tables
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_data import DataSpec
from mmbert.finetuning.tables import Table, canonical_code, find_tables
from mmbert.io.row_errors import Numbered, RowFaults, as_name
from mmbert.io.rows import read_rows

log = logging.getLogger(__name__)

Row = dict[str, Any]

NO_LABEL = "-1"
"""What SNLI, and the test parts of GLUE and SuperGLUE, have in place of a gold label."""

DASH = "-"
"""The same in SNLI's own files, where the others are words."""

DEV_ROWS, DEV_PART = 100, 0.05
"""``data.dev_share`` takes at least so many rows, or this part of them where that is less."""

_COLUMN = re.compile(r"\{([^{}]+)\}")
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
    """Those that are lists: in CSV and TSV JSON, or divided by spaces."""
    gold: str = ""
    """The one that holds the gold label, of which -1 may mean that there is none."""
    kind: Literal["class", "number", "choice"] = "class"
    """What the gold label is: a class, a number on a scale, or the number of a choice."""
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
        """Of each row; "" where nothing tells it."""
        return [row["language"] or "" for row in self.rows]


def read_splits(recipe: FinetuneRecipe, fields: Fields, stated: Sequence[str] = ()) -> dict[str, Examples]:
    """Return ``train``, and ``dev`` and ``test`` where the recipe has them; ``dev`` out of train by ``data.dev_share``.

    stated  names of the classes in the recipe. Rows without a gold label are left out (``no_label_marks``).
    """
    found = {}
    for role in ("train", "dev", "test"):
        spec = recipe.data.split(role)
        if spec is not None and not (role == "dev" and recipe.data.dev is None and recipe.data.dev_share):
            found[role] = read_examples(spec, role, fields)
    if fields.gold:
        labels = Counter(label for row in found["train"].rows for label in _gold_labels(row, fields.gold))
        declared = found["train"].names.get(fields.gold, ())
        marks = no_label_marks(labels, fields, (*stated, *declared), recipe.data.no_label)
        found = {role: _leave_out(examples, role, fields.gold, marks) for role, examples in found.items()}
    if "dev" not in found and recipe.data.dev_share:
        found["train"], found["dev"] = split_off(found["train"], recipe.data.dev_share, recipe.training.seed)
    return found


def read_examples(spec: DataSpec, role: str, fields: Fields) -> Examples:
    """The rows of ``data.<role>``. Raises DataError for what is missing, malformed or empty, with its place."""
    rows: list[Row] = []
    names: dict[str, tuple[str, ...]] = {}
    tables = 0
    faults = RowFaults(f"data.{role}", spec.skip_bad_rows)
    for place, language, known, table in _tables(spec, role):

        def make(row: Numbered, place: str = place, language: str | None = language) -> Row:
            made = _row(row[1], f"{place}:{row[0]}", language, spec, role, fields)
            if spec.skip_bad_rows and fields.check is not None:
                fields.check(made)
            return made

        before = len(rows)
        found = _ordered(table, spec, role, fields, faults)
        rows += itertools.islice(faults.keep(found, make), spec.limit)
        if len(rows) == before:
            faults.report()
            raise DataError(f"{place} holds no example: check data.{role}")
        for name in (*fields.required, *fields.optional):
            column = spec.columns.get(name, name)
            if isinstance(column, str) and (classes := known.get(column, known.get(name))):
                names[name] = classes
        tables += 1
    faults.report()
    return Examples(rows, names, shuffled=spec.shuffle_seed is not None and tables == 1)


def _ordered(
    table: Table | HubTable, spec: DataSpec, role: str, fields: Fields, faults: RowFaults
) -> Iterator[Numbered]:
    """The rows as they stand, or, with a seed, the first ``limit`` of them in a random order.

    The order is numpy's ``default_rng(seed).permutation``, as in the ``train_test_split`` of ``datasets``: its test
    part comes first, its train part behind it. Files are read twice, first to count, and only what is kept is held.
    """

    def read(told: RowFaults) -> Iterator[Numbered]:
        if isinstance(table, HubTable):
            return table.read()
        return read_rows(table.path, told, partial(_choose, spec, fields))

    if spec.shuffle_seed is None:
        return read(faults)
    counting = RowFaults(f"data.{role}", spec.skip_bad_rows)  # faults are reported of one reading
    count = len(table.rows) if isinstance(table, HubTable) else sum(1 for _ in read(counting))
    order = np.random.default_rng(spec.shuffle_seed).permutation(count)[: spec.limit].tolist()
    places = dict(zip(order, range(len(order)), strict=True))
    if isinstance(table, HubTable):
        picked: Iterable[tuple[int, Any]] = zip(sorted(order), table.read(sorted(order)), strict=True)
    else:
        picked = ((index, row) for index, row in enumerate(read(faults)) if index in places)
    kept: list[Any] = [None] * len(order)
    for index, numbered in picked:
        kept[places[index]] = numbered
    return iter(kept)


def _tables(
    spec: DataSpec, role: str
) -> Iterator[tuple[str, str | None, dict[str, tuple[str, ...]], Table | HubTable]]:
    """(place, language, names of classes, the table itself) of each file or configuration."""
    if spec.path is not None:
        for table in find_tables(spec, role):
            yield str(table.path), table.language, {}, table
    else:
        for loaded in load_tables(spec, role):
            yield loaded.place, loaded.language, loaded.names, loaded


def _choose(spec: DataSpec, fields: Fields, names: list[str]) -> list[str]:
    """Return the columns that are looked at; all where a required one is not there, since the message names them."""
    places = {name: {name, *_stated(spec.columns.get(name))} for name in (*fields.required, *fields.optional)}
    if any(places[name].isdisjoint(names) for name in fields.required):
        return names
    return [name for name in names if name == spec.language_column or any(name in each for each in places.values())]


def _stated(column: str | tuple[str, ...] | None) -> Iterator[str]:
    """Yield the columns of the data that a field is made of, with the maps that they may stand in."""
    for each in () if column is None else (column,) if isinstance(column, str) else column:
        for name in _COLUMN.findall(each) or [each]:
            yield from (name, name.split(".")[0])


def _row(raw: dict[str, Any], place: str, language: str | None, spec: DataSpec, role: str, fields: Fields) -> Row:
    row: Row = {"place": place, "language": language}
    if spec.language_column is not None:
        code = raw.get(spec.language_column)
        if not isinstance(code, str):
            columns = ", ".join(map(str, raw))
            raise DataError(
                f"{place}: no language in column {spec.language_column!r} (there are: {columns}): "
                f"set data.{role}.language_column"
            )
        row["language"] = canonical_code(code, f"{place}, column {spec.language_column!r}")
    for name in (*fields.required, *fields.optional):
        found, value = _pick(raw, spec.columns.get(name), name, place, role)
        if isinstance(value, str) and not value.strip():
            value = None
        if found and value is not None:
            row[name] = _as_list(value) if name in fields.lists else value
        elif name in fields.required:
            what = f"column {name!r} is empty" if found else f"no column for {name!r}"
            raise DataError(
                f"{place}: {what} (there are: {', '.join(map(str, raw))}): "
                + ("fix or remove the row" if found else f"say which it is: data.{role}.columns.{name}=COLUMN")
            )
    return row


def _pick(
    raw: dict[str, Any], column: str | tuple[str, ...] | None, name: str, place: str, role: str
) -> tuple[bool, Any]:
    """(whether it is there, value) of a field: by its column, else by its own name."""
    if isinstance(column, tuple):
        values = [_look(raw, each) for each in column]
        if all(found for found, _ in values):
            return True, [value for _, value in values if value is not None]
    elif column is not None and "{" in column:
        parts = {key: _look(raw, key) for key in _COLUMN.findall(column)}
        if all(found for found, _ in parts.values()):
            return True, _COLUMN.sub(lambda match: str(parts[match[1]][1]), column)
    elif column is not None:
        found, value = _look(raw, column)
        if found:
            return True, value
    found, value = _look(raw, name)
    if column is not None and not found:
        stated = ", ".join(column) if isinstance(column, tuple) else column
        there = ", ".join(map(str, raw))
        raise DataError(
            f"{place}: data.{role}.columns.{name} says {stated!r}, which is not there, nor is {name!r} "
            f"(there are: {there}): name the column that holds it, or set it to null"
        )
    return found, value


def _look(raw: dict[str, Any], column: str) -> tuple[bool, Any]:
    """A column, or with dots one inside a map."""
    if column in raw:
        return True, raw[column]
    value: Any = raw
    for part in column.split("."):
        if not isinstance(value, dict) or part not in value:
            return False, None
        value = value[part]
    return True, value


def _as_list(value: Any) -> Any:
    """A list that a text file holds as text."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith(("[", "{")):
        try:
            return json.loads(value)
        except ValueError:
            pass
    return [word for word in value.split(" ") if word]


def want_text(row: Row, name: str) -> str:
    """A field that must be text with something in it. Raises DataError."""
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        said = "is empty" if isinstance(value, str) else f"is {type(value).__name__}, not text"
        raise DataError(f"{row['place']}: {name} {said}: fix or remove the row")
    return value


def read_answers(row: Row) -> list[tuple[str, Any]]:
    """Return the answers of a question as (text, where it starts, or None), of every form that the field's sets have.

    That is SQuAD's map of lists, a list of maps (TiQuAD), a text or a list of texts, and the columns ``answer`` and
    ``answer_start``. Raises DataError with the place of another one.
    """
    value = row.get("answers")
    if value is None:
        if "answer" not in row:
            return []
        value = {"text": row["answer"], "answer_start": row.get("answer_start")}
    if isinstance(value, str):
        value = [value]
    if isinstance(value, dict):
        texts, starts = (
            [one] if not isinstance(one, list) else one for one in map(value.get, ("text", "answer_start"))
        )
        if starts == [None]:
            starts = [None] * len(texts)
        if texts == [None] or len(texts) != len(starts):
            raise DataError(f"{row['place']}: answers needs lists text and answer_start of one length: fix the row")
        pairs = list(zip(texts, starts, strict=True))
    elif isinstance(value, list):
        maps = [each if isinstance(each, dict) else {"text": each} for each in value]
        pairs = [(each.get("text"), each.get("answer_start")) for each in maps]
    else:
        raise DataError(f"{row['place']}: answers is {type(value).__name__}: expected text and answer_start, as SQuAD")
    for text, _ in pairs:
        if not isinstance(text, str):
            raise DataError(f"{row['place']}: an answer is {type(text).__name__}, not text: fix the row")
    return pairs


def as_label(value: Any) -> str:
    """The name of a class, however it is written: 1, 1.0, "1.0", True, "yes"."""
    return _FLOAT.sub(r"\1", value) if isinstance(value, str) else as_name(value)


def label_names(found: Sequence[str], declared: Sequence[str] = (), stated: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of classes in their order: as the recipe states, as the source declares, or those found, sorted.

    Numbers are sorted as numbers.
    """
    if stated or declared:
        return tuple(map(as_label, stated or declared))
    distinct = set(found)
    if all(re.fullmatch(r"-?\d+", name) for name in distinct):
        return tuple(sorted(distinct, key=int))
    return tuple(sorted(distinct))


def label_number(numbers: dict[str, int], row: Row, name: str, value: Any, option: str) -> int:
    """The number of a class. Raises DataError for one that is unknown; ``option`` is where names can be given."""
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


def _gold_labels(row: Row, name: str) -> list[str]:
    """The labels of a row, however they are written. Raises DataError for one that is empty."""
    value = row.get(name)
    values = value if isinstance(value, list) else [] if value is None else [value]
    if any(each is None or each != each or not str(each).strip() for each in values):  # NaN is no other number's equal
        raise DataError(f"{row['place']}: {name} is empty: fix or remove the row")
    labels = [as_label(each) for each in values]
    return [NO_LABEL if _NO_LABEL.fullmatch(label) else label for label in labels]


def _leave_out(examples: Examples, role: str, name: str, marks: frozenset[str]) -> Examples:
    """The examples that have a gold label. Raises DataError where none has."""
    kept = [row for row in examples.rows if marks.isdisjoint(_gold_labels(row, name))]
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


def split_off(examples: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """Return the examples without, and of, a random part of them.

    The part is ``share`` of them, but at least ``DEV_ROWS`` or, where that is less, ``DEV_PART`` of them. Raises
    ConfigError where nothing is left to train on.
    """
    total = len(examples)
    asked = round(total * share)
    count = max(asked, min(DEV_ROWS, math.ceil(total * DEV_PART)))
    if count >= total:
        raise ConfigError(
            f"data.dev_share {share:g} of {total} training examples leaves none to train on: lower it, or give "
            "data.dev.path=FILE"
        )
    if count > asked:
        log.info("dev: %d of %d training examples, for data.dev_share %g would be %d", count, total, share, asked)
    order = list(range(total)) if examples.shuffled else np.random.default_rng(seed).permutation(total).tolist()
    parts = sorted(order[count:]), sorted(order[:count])
    kept, taken = ([examples.rows[index] for index in part] for part in parts)
    return replace(examples, rows=kept), replace(examples, rows=taken)
