"""Vectors that were computed before: the folder of a bulk run, or one file of ``mmbert embed -o``.

    with ids, vectors and other columns, in batches:
    .parquet    columns ``id``, ``vector`` (or ``embedding``) and any others; a folder of such files with ``run.json``
    .jsonl      objects of the same fields, their numbers read as float32
    .npy        vectors alone; their ids are the numbers of the rows, from 1

``run.json``, or the metadata ``mmbert.run`` of a Parquet file, says which model made them and how. Parquet is also read
from an object store (``s3://bucket/run``); nothing but what is needed of it is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mmbert.errors import ConfigError, DataError, first_line
from mmbert.io.find import walk
from mmbert.io.remote import as_typed, is_remote, names_below, open_place
from mmbert.io.row_errors import RowFaults
from mmbert.io.rows import import_pyarrow, read_rows

MANIFEST = "run.json"

METADATA = b"mmbert.run"
"""Key of what a Parquet file of ``mmbert embed`` says of its model."""

REJECTED = "_rejected"
"""Folder of a bulk run with rows that were left out."""

_VECTOR = ("vector", "embedding")
_FIX = "give a file of mmbert embed, or the folder of a bulk run"


@dataclass(frozen=True)
class VectorBatch:
    """Rows: ids (all text, or all whole numbers), vectors (n, d), and the values of other columns."""

    ids: list[Any]
    vectors: np.ndarray
    columns: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class VectorFiles:
    """Files with vectors of one model.

    made     what the manifest says: ``model``, ``model_hash``, ``prompt``, ``normalize``, ...; {} if nothing does
    width    numbers of a vector, as it is stored: of ubinary an eighth of the dimensions
    output   float32, float16, int8, uint8, binary or ubinary
    integers whether ids are whole numbers
    columns  name of a further column -> text, integer, number, boolean or json
    """

    path: str
    files: tuple[str, ...]
    made: dict[str, Any]
    width: int
    output: str
    integers: bool
    columns: dict[str, str]

    @classmethod
    def open(cls, path: str | Path) -> VectorFiles:
        """Return the vectors at a path or URL. Raises DataError for what holds none, or is not complete."""
        place = as_typed(path)
        if is_remote(place):
            names = names_below(place)
            if not names:
                raise DataError(f"no file at {place}: {_FIX}")
        elif not Path(place).exists():
            raise DataError(f"no such file or folder: {place}")
        elif Path(place).is_dir():
            place = str(Path(place))
            names = [file.relative_to(place).as_posix() for file in walk(Path(place), (".parquet", MANIFEST))]
        else:
            names = [""]
        if names != [""]:
            return _open_folder(place, names)
        if place.endswith(".parquet"):
            return _open_parquet(place, (place,), {})
        if is_remote(place):
            raise DataError(f"{place} is no Parquet: of other forms give a file of this machine")
        if place.endswith(".npy"):
            return _of_array(place, _load(place))
        if place.endswith(".jsonl"):
            first = next(_json_batches(place, 1), None)
            if first is None:
                raise DataError(f"{place} holds no vectors: {_FIX}")
            columns = {name: _kind_of(values[0]) for name, values in first.columns.items()}
            return cls(place, (place,), {}, first.vectors.shape[1], "float32", type(first.ids[0]) is int, columns)
        raise DataError(f"{place} holds no vectors: {_FIX} (.parquet, .npy, .jsonl)")

    @property
    def dimensions(self) -> int:
        """Return the dimensions of a vector: eight for each byte of ubinary."""
        return self.width * 8 if self.output in ("binary", "ubinary") else self.width

    def batches(self, size: int) -> Iterator[VectorBatch]:
        """Yield all rows in their order. Raises DataError, naming the row, for one that cannot be stored."""
        number = 0
        for batch in self._batches(size):
            _check(batch, self, number)
            number += len(batch.ids)
            yield batch

    def _batches(self, size: int) -> Iterator[VectorBatch]:
        if self.files[0].endswith(".npy"):
            array = _load(self.path)
            for start in range(0, len(array), size):
                rows = np.array(array[start : start + size])
                yield VectorBatch(list(range(start + 1, start + len(rows) + 1)), rows)
        elif self.files[0].endswith(".jsonl"):
            yield from _json_batches(self.path, size)
        else:
            for file in self.files:
                yield from _parquet_batches(file, size, self)


def join_texts(
    batches: Iterable[VectorBatch], records: Iterable[Mapping[str, Any]], where: str
) -> Iterator[VectorBatch]:
    """Yield batches with the columns ``text`` and ``metadata`` of records, which must come in the same order.

    A record fits a vector with its id, or, if it has none of its own (its id is ``FILE:LINE``), with its line; vectors
    of blank lines are passed over. Raises DataError for a vector without its record.
    """
    stream = iter(records)
    for batch in batches:
        kept: list[int] = []
        texts: list[str] = []
        metadata: list[dict[str, Any]] = []
        record = None
        for row, name in enumerate(batch.ids):
            record = next(stream, None) if record is None else record
            if record is not None and _fits(record["id"], name):
                kept.append(row)
                texts.append(record["text"])
                metadata.append(dict(record.get("metadata") or {}))
                record = None
            elif record is None or not _line(record["id"]) > _line(name) > 0:
                found = "their end" if record is None else f"{record['id']!r}"
                raise DataError(f"{where}: the vector of id {name!r} meets {found}: give the texts that were embedded")
        if record is not None:
            stream = _chain(record, stream)
        columns: dict[str, list[Any]] = {"text": texts, "metadata": metadata}
        yield VectorBatch([batch.ids[row] for row in kept], batch.vectors[kept], columns)
    if (left := next(stream, None)) is not None:
        raise DataError(f"{where}: there is no vector for {left['id']!r}: embed the same texts")


def _chain(first: Mapping[str, Any], rest: Iterator[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    yield first
    yield from rest


def _fits(record: Any, name: Any) -> bool:
    return bool(record == name or str(record) == str(name) or (_line(record) == _line(name) > 0))


def _line(name: Any) -> int:
    """Return the line of a text whose id is its place (``FILE:7``, or 7), else 0."""
    last = str(name).rpartition(":")[2]
    return int(last) if last.isascii() and last.isdigit() else 0


def _open_folder(place: str, names: list[str]) -> VectorFiles:
    made = _read_manifest(f"{place}/{MANIFEST}") if MANIFEST in names else {}
    if made.get("command", "embed") != "embed":
        raise DataError(f"{place} is a run of mmbert {made['command']}, which makes no vectors: {_FIX}")
    if made.get("complete") is False:
        raise DataError(f"{place} is not complete: run the command that began it again")
    parquet = [name for name in names if name.lower().endswith(".parquet") and REJECTED not in name.split("/")]
    if not parquet:
        raise DataError(f"{place} holds no Parquet files: {_FIX}")
    return _open_parquet(place, tuple(f"{place}/{name}" for name in parquet), made)


def _read_manifest(place: str) -> dict[str, Any]:
    try:
        with open_place(place) as file:
            made = json.loads(file.read())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{place} is damaged ({first_line(error)}): delete it or restore it") from error
    if not isinstance(made, dict):
        raise DataError(f"{place} is no JSON object: delete it or restore it")
    return made


def _open_parquet(path: str, files: tuple[str, ...], made: dict[str, Any]) -> VectorFiles:
    opened = [_of_schema(path, files, file, made) for file in files]
    for file, found in zip(files[1:], opened[1:], strict=True):
        for name in ("width", "output", "integers", "columns"):
            if getattr(found, name) != getattr(opened[0], name):
                raise DataError(
                    f"{file} has {name} {getattr(found, name)}, {files[0]} has {getattr(opened[0], name)}: they are "
                    "not of one run"
                )
    return opened[0]


def _source(file: str) -> AbstractContextManager[Any]:
    """Return what Arrow opens: the path of a file of this machine, which it reads by itself, or an open one."""
    return open_place(file) if is_remote(file) else nullcontext(file)


def _of_schema(path: str, files: tuple[str, ...], file: str, made: dict[str, Any]) -> VectorFiles:
    arrow = import_pyarrow()
    try:
        with _source(file) as source:
            schema = arrow.parquet.read_schema(source)
        made = made or json.loads((schema.metadata or {}).get(METADATA, b"{}"))
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{file} is corrupt or no Parquet ({first_line(error)}): {_FIX}") from error
    name = _vector_column(schema.names)
    kind = None if name is None else schema.field(name).type
    if kind is None or not arrow.types.is_fixed_size_list(kind) or "id" not in schema.names:
        raise DataError(f"{file} has no columns id and vector (a list of fixed size): {_FIX}")
    number = str(kind.value_type)
    output = _output({"halffloat": "float16", "float": "float32"}.get(number, number), made, file)
    types = arrow.types
    of_ids = _kind(schema.field("id").type, types)
    if of_ids not in ("integer", "text"):
        raise DataError(f"{file}: its ids are {schema.field('id').type}, not text or whole numbers")
    columns = {other: _kind(schema.field(other).type, types) for other in schema.names if other not in ("id", name)}
    return VectorFiles(path, files, made, kind.list_size, output, of_ids == "integer", columns)


def _vector_column(names: Iterable[str]) -> str | None:
    return next((name for name in _VECTOR if name in names), None)


def _output(number: str, made: dict[str, Any], file: str) -> str:
    """Return the form of the numbers: bytes may be levels or bits."""
    stated = made.get("output")
    stored = {"binary": "int8", "ubinary": "uint8"}.get(str(stated), stated)
    if stated is not None and stored != number:
        raise DataError(f"{file} has numbers of {number}, but its run says {stated}: it is damaged, or of another run")
    if stated is None and number not in ("float32", "float16"):
        raise DataError(f"{file} has numbers of {number}, and nothing says what they are: {_FIX}, in Parquet")
    return str(stated or number)


def _of_array(path: str, array: np.ndarray) -> VectorFiles:
    if array.ndim != 2 or not array.size:
        raise DataError(f"{path} is {array.shape}, not rows of vectors: {_FIX}")
    return VectorFiles(path, (path,), {}, array.shape[1], _output(array.dtype.name, {}, path), True, {})


def _load(path: str) -> np.ndarray:
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is damaged or no array ({first_line(error)}): {_FIX}") from error
    return found


def _json_batches(path: str, size: int) -> Iterator[VectorBatch]:
    rows = read_rows(path, RowFaults(path))
    while group := list(islice(rows, size)):
        vectors, ids, others = [], [], []
        for number, row in group:
            name = _vector_column(row)
            if name is None or "id" not in row:
                raise DataError(f"{path}:{number} has no fields id and vector: {_FIX}")
            vector = row.pop(name)
            if not isinstance(vector, list) or all(isinstance(value, int) for value in vector):
                raise DataError(f"{path}:{number}: {name} is no list of floats: {_FIX}; of int8 and bits, in Parquet")
            vectors.append(vector)
            ids.append(row.pop("id"))
            others.append(row)
        try:
            array = np.array(vectors, np.float32)
        except (TypeError, ValueError) as error:
            place = f"{path}:{group[0][0]} to {group[-1][0]}"
            raise DataError(f"{place}: vectors are not of one width, or hold no numbers: {_FIX}") from error
        names = list(others[0])
        yield VectorBatch(ids, array, {name: [other.get(name) for other in others] for name in names})


def _parquet_batches(file: str, size: int, found: VectorFiles) -> Iterator[VectorBatch]:
    arrow = import_pyarrow()
    try:
        with (
            _source(file) as source,
            arrow.parquet.ParquetFile(source, page_checksum_verification=True) as opened,
        ):
            name = _vector_column(opened.schema_arrow.names)
            for batch in opened.iter_batches(size, columns=["id", name, *found.columns]):
                column = batch.column(name)
                if column.null_count or batch.column("id").null_count:
                    raise DataError(f"{file} has rows without an id or a vector: {_FIX}")
                vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, found.width)
                others = {other: batch.column(other).to_pylist() for other in found.columns}
                yield VectorBatch(batch.column("id").to_pylist(), vectors, others)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{file} is damaged ({first_line(error)}): make it again") from error


def _check(batch: VectorBatch, found: VectorFiles, before: int) -> None:
    """Raise DataError for rows that are not of the run, for NaN, and for an id that comes twice."""
    where = f"{found.path}, row"
    if batch.vectors.shape[1] != found.width:
        raise DataError(f"{where} {before + 1}: its vector has {batch.vectors.shape[1]} numbers, not {found.width}")
    kind = int if found.integers else str
    seen: dict[Any, int] = {}
    for row, name in enumerate(batch.ids, before + 1):
        if type(name) is not kind:
            raise DataError(f"{where} {row}: its id is {type(name).__name__}, others are {kind.__name__}: use one type")
        if name in seen:
            raise DataError(f"{where} {row}: the id {name!r} is also that of row {seen[name]}: ids must differ")
        seen[name] = row
    if batch.vectors.dtype.kind == "f" and not np.isfinite(batch.vectors).all():
        row = int(np.argwhere(~np.isfinite(batch.vectors).all(axis=1))[0, 0])
        raise DataError(
            f"{where} {before + row + 1} (id {batch.ids[row]!r}) holds NaN or infinite values: leave it out"
        )


def _kind(kind: Any, types: Any) -> str:
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    if types.is_boolean(kind):
        return "boolean"
    if types.is_integer(kind):
        return "integer"
    return "number" if types.is_floating(kind) else "json"


def _kind_of(value: Any) -> str:
    named = {str: "text", bool: "boolean", int: "integer", float: "number"}
    return named.get(type(value), "json")


def choose_columns(found: VectorFiles, names: Iterable[str] | None) -> VectorFiles:
    """Return the files with these of their further columns. Raises ConfigError for one that they do not have."""
    if names is None:
        return found
    for name in names:
        if name not in found.columns:
            there = ", ".join(found.columns) or "none beside id and vector"
            raise ConfigError(f"{found.path} has no column {name!r}: it has {there}")
    return VectorFiles(**{**vars(found), "columns": {name: found.columns[name] for name in names}})
