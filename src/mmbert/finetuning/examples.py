"""Examples of a task as plain rows: our field names, their language, and their place for whoever finds a fault.

    fields = Fields(required=("text", "label"), optional=("text_pair",))
    examples = read_examples(recipe.data.split("train"), "train", fields)
    examples.rows[0]    # {"text": ..., "label": ..., "language": "swh_Latn", "place": "data/swh_Latn/train.jsonl:1"}
    examples.names      # {"label": ("entailment", "neutral", "contradiction")} where the hub names classes

Local files (``tables``) and the hub (``hub``) give rows; here columns become fields. A fault in the data is a DataError
with the place and what to do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from mmbert.errors import ConfigError, DataError
from mmbert.finetuning.hub import load_tables
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_data import DataSpec
from mmbert.finetuning.tables import find_tables, house
from mmbert.io.faults import Numbered, RowFaults, as_name
from mmbert.io.rows import read_rows

Row = dict[str, Any]

_COLUMN = re.compile(r"\{([^{}]+)\}")
_FLOAT = re.compile(r"\A(-?\d+)\.0+\Z")
"""A whole number as pandas writes it in a column where one is missing."""


@dataclass(frozen=True)
class Fields:
    """What a task reads of a row."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    """Those that are lists: in CSV and TSV JSON, or divided by spaces."""


@dataclass(frozen=True)
class Examples:
    """The rows of a split."""

    rows: list[Row]
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Field -> names of its classes in their order, where the source declares them."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def languages(self) -> list[str]:
        """Of each row; "" where nothing tells it."""
        return [row["language"] or "" for row in self.rows]


def read_splits(recipe: FinetuneRecipe, fields: Fields) -> dict[str, Examples]:
    """``train``, and ``dev`` and ``test`` where the recipe has them; ``dev`` out of train by ``data.dev_share``."""
    found = {}
    for role in ("train", "dev", "test"):
        spec = recipe.data.split(role)
        if spec is not None and not (role == "dev" and recipe.data.dev is None and recipe.data.dev_share):
            found[role] = read_examples(spec, role, fields)
    if "dev" not in found and recipe.data.dev_share:
        found["train"], found["dev"] = split_off(found["train"], recipe.data.dev_share, recipe.training.seed)
    return found


def read_examples(spec: DataSpec, role: str, fields: Fields) -> Examples:
    """The rows of ``data.<role>``. Raises DataError for what is missing, malformed or empty, with its place."""
    rows: list[Row] = []
    names: dict[str, tuple[str, ...]] = {}
    faults = RowFaults(f"data.{role}", spec.skip_bad_rows)
    for place, language, known, numbered in _tables(spec, role, fields, faults):

        def make(row: Numbered, place: str = place, language: str | None = language) -> Row:
            return _row(row[1], f"{place}:{row[0]}", language, spec, role, fields)

        before = len(rows)
        rows += islice(faults.keep(numbered, make), spec.limit)
        if len(rows) == before:
            faults.report()
            raise DataError(f"{place} holds no example: check data.{role}")
        for name in (*fields.required, *fields.optional):
            column = spec.columns.get(name, name)
            if isinstance(column, str) and (classes := known.get(column, known.get(name))):
                names[name] = classes
    faults.report()
    return Examples(rows, names)


def _tables(
    spec: DataSpec, role: str, fields: Fields, faults: RowFaults
) -> Iterator[tuple[str, str | None, dict[str, tuple[str, ...]], Iterator[Numbered]]]:
    """(place, language, names of classes, numbered rows) of each file or configuration."""
    if spec.path is not None:
        for table in find_tables(spec, role):
            yield str(table.path), table.language, {}, read_rows(table.path, faults, partial(_choose, spec, fields))
    else:
        for loaded in load_tables(spec, role):
            yield loaded.place, loaded.language, loaded.names, loaded.read()


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
        row["language"] = house(code, f"{place}, column {spec.language_column!r}")
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
                + (
                    f"mend or remove the row, or set data.{role}.skip_bad_rows"
                    if found
                    else f"say which it is: data.{role}.columns.{name}=COLUMN"
                )
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
        raise DataError(f"{row['place']}: {name} {said}: mend or remove the row")
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
            raise DataError(f"{row['place']}: answers needs lists text and answer_start of one length: mend the row")
        pairs = list(zip(texts, starts, strict=True))
    elif isinstance(value, list):
        maps = [each if isinstance(each, dict) else {"text": each} for each in value]
        pairs = [(each.get("text"), each.get("answer_start")) for each in maps]
    else:
        raise DataError(f"{row['place']}: answers is {type(value).__name__}: expected text and answer_start, as SQuAD")
    for text, _ in pairs:
        if not isinstance(text, str):
            raise DataError(f"{row['place']}: an answer is {type(text).__name__}, not text: mend the row")
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
            f"{row['place']}: {name} {label!r} is none of the labels {known}: mend the row, or list it in {option}"
        )
    return numbers[label]


def split_off(examples: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """Examples without, and of, a random part; at least one each. Raises ConfigError where there are too few."""
    count = round(len(examples) * share)
    if not 0 < count < len(examples):
        raise ConfigError(f"data.dev_share {share:g} of {len(examples)} examples is {count}: give data.dev")
    order = np.random.default_rng(seed).permutation(len(examples)).tolist()
    parts = sorted(order[count:]), sorted(order[:count])
    kept, taken = ([examples.rows[index] for index in part] for part in parts)
    return Examples(kept, examples.names), Examples(taken, examples.names)
