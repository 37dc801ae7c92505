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
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from mmbert.errors import ConfigError, DataError
from mmbert.finetuning.hub import HubTable, load_tables
from mmbert.finetuning.labels import Examples, Fields, gold_labels, leave_out, no_label_marks, without_marks
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_data import DataSpec
from mmbert.finetuning.tables import Table, canonical, find_tables
from mmbert.io.row_errors import Numbered, Row, RowFaults

log = logging.getLogger(__name__)

DEV_ROWS, DEV_PART = 100, 0.05
"""``data.dev_share`` takes at least so many rows, or this part of them where that is less."""

_COLUMN = re.compile(r"\{([^{}]+)\}")


def read_splits(recipe: FinetuneRecipe, fields: Fields, stated: Sequence[str] = ()) -> dict[str, Examples]:
    """Return ``train``, and ``dev`` and ``test`` where the recipe has them; ``dev`` out of train by ``data.dev_share``.

    stated  names of the classes in the recipe. Rows without a gold label are left out (``no_label_marks``) unless the
            task has a teacher (``fields.unlabelled``).
    """
    found = {}
    for role in ("train", "dev", "test"):
        spec = recipe.data.split(role)
        if spec is not None and not (role == "dev" and recipe.data.dev is None and recipe.data.dev_share):
            found[role] = read_examples(spec, role, fields)
    if fields.gold:
        labels = Counter(label for row in found["train"].rows for label in gold_labels(row, fields.gold))
        declared = found["train"].names.get(fields.gold, ())
        marks = no_label_marks(labels, fields, (*stated, *declared), recipe.data.no_label)
        for role, examples in found.items():
            if fields.unlabelled:
                found[role] = without_marks(examples, fields.gold, marks)
            else:
                found[role] = leave_out(examples, role, fields.gold, marks)
    if "dev" not in found and recipe.data.dev_share:
        found["train"], found["dev"] = split_off(found["train"], recipe.data.dev_share, recipe.training.seed)
    return found


def read_examples(spec: DataSpec, role: str, fields: Fields) -> Examples:
    """Return the rows of ``data.<role>``. Raises DataError with the place of what is missing, malformed or empty."""
    rows: list[Row] = []
    names: dict[str, tuple[str, ...]] = {}
    tables = 0
    faults = RowFaults(f"data.{role}", spec.skip_bad_rows)
    for table in find_tables(spec, role) if spec.path is not None else load_tables(spec, role):

        def make(row: Numbered, table: Table | HubTable = table) -> Row:
            made = _row(row[1], f"{table.place}:{row[0]}", table.language, spec, role, fields)
            if spec.skip_bad_rows and fields.check is not None:
                fields.check(made)
            return made

        before = len(rows)
        rows += itertools.islice(faults.keep(_ordered(table, spec, role, fields, faults), make), spec.limit)
        if len(rows) == before:
            faults.report()
            raise DataError(f"{table.place} holds no example: check data.{role}")
        for name in (*fields.required, *fields.optional):
            column = spec.columns.get(name, name)
            if isinstance(column, str) and (classes := table.names.get(column, table.names.get(name))):
                names[name] = classes
        tables += 1
    faults.report()
    return Examples(rows, names, shuffled=spec.shuffle_seed is not None and tables == 1)


def _ordered(
    table: Table | HubTable, spec: DataSpec, role: str, fields: Fields, faults: RowFaults
) -> Iterator[Numbered]:
    """Yield the rows in file order, or, with a seed, the first ``limit`` of them in a random order.

    The order is numpy's ``default_rng(seed).permutation``, as in the ``train_test_split`` of ``datasets``: its test
    part comes first, its train part behind it. Files are read twice, first to count, and only what is kept is held.
    """
    read = partial(table.read, choose=partial(_choose, spec, fields))
    if spec.shuffle_seed is None:
        return read(faults)
    counting = RowFaults(f"data.{role}", spec.skip_bad_rows)  # faults are reported of one reading
    count = len(table.rows) if isinstance(table, HubTable) else sum(1 for _ in read(counting))
    order = np.random.default_rng(spec.shuffle_seed).permutation(count)[: spec.limit].tolist()
    if isinstance(table, HubTable):
        kept = dict(zip(sorted(order), table.read(picked=sorted(order)), strict=True))
    else:
        wanted = set(order)
        kept = {index: row for index, row in enumerate(read(faults)) if index in wanted}
    return (kept[index] for index in order)


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
        row["language"] = canonical(code, f"{place}, column {spec.language_column!r}")
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
    """Return (whether it is there, value) of a field, looked up by its column, else by its own name."""
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
    """Return (whether it is there, value) of a column, or with dots of one inside a map."""
    if column in raw:
        return True, raw[column]
    value: Any = raw
    for part in column.split("."):
        if not isinstance(value, dict) or part not in value:
            return False, None
        value = value[part]
    return True, value


def _as_list(value: Any) -> Any:
    """Return the list that a text file holds as text; other values unchanged."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith(("[", "{")):
        try:
            return json.loads(value)
        except ValueError:
            pass
    return [word for word in value.split(" ") if word]


def want_text(row: Row, name: str) -> str:
    """Return a field that must hold a non-empty text. Raises DataError."""
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
