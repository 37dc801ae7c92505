"""The SQLite database of an index: documents, passages, metadata, and the number of valid rows.

One transaction of this file is what completes a batch: vectors are on disk before it, and rows that it does
not count are as if they were never written. SQLite undoes what a killed writer left.

    documents   number, id (text or whole number), text, metadata (JSON), CRC-32 of these three
    passages    row (of the vectors), document, its characters in the text, CRC-32 of row, span and passage
    attributes  key, value, document: what filters look at
    dead        rows whose passage is gone
    state       generation and store of the vectors, rows, and a count of changes, by which readers notice others' work
"""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock
from typing import Any
from zlib import crc32

import numpy as np
import orjson

from mmbert.errors import DataError, MMBertError
from mmbert.search.filters import attribute_values, compile_filter, unknown_key
from mmbert.search.index_record import Id, IndexRecord

NAME = "records.sqlite"

_WAIT = 600.0
"""Seconds until a reader or writer gives up on the other."""

_TABLES = """
CREATE TABLE documents (number INTEGER PRIMARY KEY, id NOT NULL UNIQUE, text TEXT NOT NULL, metadata TEXT NOT NULL,
    crc INTEGER NOT NULL);
CREATE TABLE passages (row INTEGER PRIMARY KEY, document INTEGER NOT NULL,
    start INTEGER NOT NULL, end INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE INDEX passages_of ON passages (document);
CREATE TABLE attributes (key TEXT NOT NULL, value NOT NULL, document INTEGER NOT NULL,
    PRIMARY KEY (key, value, document)) WITHOUT ROWID;
CREATE INDEX attributes_of ON attributes (document);
CREATE TABLE dead (row INTEGER PRIMARY KEY);
CREATE TABLE state (generation INTEGER NOT NULL, store TEXT NOT NULL, rows INTEGER NOT NULL, changes INTEGER NOT NULL);
"""


@dataclass(frozen=True)
class IndexState:
    """Which files hold the vectors, and how many of their rows count."""

    generation: int
    store: str
    rows: int
    changes: int


@dataclass(frozen=True)
class StoredPassage:
    """A passage, with the document that it belongs to."""

    number: int
    id: Id
    text: str
    metadata: dict[str, Any]
    start: int
    end: int


class Records:
    """The open database. May be used by several threads, one at a time."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._lock = RLock()
        self._depth = 0
        if not self.path.is_file():
            raise DataError(f"no {NAME} in {folder}: it is damaged, build the index again")
        with self._errors():
            self._db = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=rw",
                uri=True,
                timeout=_WAIT,
                isolation_level=None,
                check_same_thread=False,
            )
        # An index that nobody closes is closed when it is forgotten; Python 3.13 warns of connections that are not.
        self._close = weakref.finalize(self, self._db.close)

    @classmethod
    def create(cls, folder: Path, store: str) -> None:
        """Create an empty database."""
        with closing(sqlite3.connect(folder / NAME, isolation_level=None)) as database:
            database.executescript(_TABLES)
            database.execute("INSERT INTO state VALUES (0, ?, 0, 0)", [store])

    def close(self) -> None:
        with self._lock:
            self._close()

    @contextmanager
    def reading(self) -> Iterator[IndexState]:
        """Open a read transaction: one consistent view, whatever others write meanwhile."""
        with self._transaction("BEGIN"):
            yield self.state()

    @contextmanager
    def writing(self) -> Iterator[IndexState]:
        """Open a write transaction: all changes of the block are made, or none."""
        with self._transaction("BEGIN IMMEDIATE"):
            yield self.state()

    @contextmanager
    def alone(self) -> Iterator[IndexState]:
        """Open a write transaction as :meth:`writing`, while nobody reads."""
        with self._transaction("BEGIN EXCLUSIVE"):
            yield self.state()

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        with self._lock, self._errors():
            outer = self._depth == 0  # blocks may be nested: only the outermost begins and commits
            if outer:
                self._db.execute(begin)
            self._depth += 1
            try:
                yield
                if outer:
                    self._db.execute("COMMIT")
            finally:
                self._depth -= 1
                if outer and self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "full" in str(error):
                raise MMBertError(
                    f"no space left on the disk of {self.path}: free some space and run the same again"
                ) from error
            raise DataError(f"cannot use {self.path}: {error}; is another process at work there?") from error
        except sqlite3.DatabaseError as error:
            raise DataError(f"{self.path} is damaged ({error}): build the index again") from error

    def state(self) -> IndexState:
        found = self._db.execute("SELECT generation, store, rows, changes FROM state").fetchone()
        if not found or list(map(type, found)) != [int, str, int, int] or found[1] not in ("exact", "lance"):
            raise DataError(f"{self.path} is damaged (its state is {found}): build the index again")
        return IndexState(*found)

    def set_state(self, state: IndexState) -> None:
        """Save the state and count the change."""
        values = [state.generation, state.store, state.rows]
        self._db.execute("UPDATE state SET generation = ?, store = ?, rows = ?, changes = changes + 1", values)

    def known(self, ids: Sequence[Id]) -> dict[Id, IndexRecord]:
        """Return the existing documents with these ids."""
        found = {}
        for chunk in _chunks(ids):  # SQLite limits the number of parameters of a statement
            marks = ", ".join("?" * len(chunk))
            query = f"SELECT number, id, text, metadata, crc FROM documents WHERE id IN ({marks})"
            for number, name, text, metadata, crc in self._db.execute(query, chunk):
                self._compare(crc, name, text, metadata)
                found[name] = IndexRecord(name, text, orjson.loads(metadata), number)
        return found

    def insert(self, documents: Iterable[tuple[IndexRecord, Sequence[tuple[int, int]]]]) -> None:
        """Insert documents with the spans of their passages; their rows follow those that count."""
        state = self.state()
        row = state.rows  # the vectors of these passages are on disk already, at these rows
        for document, spans in documents:
            metadata = orjson.dumps(document.metadata).decode()
            values = [document.id, document.text, metadata]
            command = "INSERT INTO documents (id, text, metadata, crc) VALUES (?, ?, ?, ?)"
            number = self._db.execute(command, [*values, _crc(*values)]).lastrowid
            assert number is not None
            self._describe(number, document.metadata)
            passages = [
                (place, number, start, end, _crc(place, start, end, document.text[start:end]))
                for place, (start, end) in enumerate(spans, row)
            ]
            self._db.executemany("INSERT INTO passages VALUES (?, ?, ?, ?, ?)", passages)
            row += len(passages)
        self.set_state(replace(state, rows=row))

    def remove(self, numbers: Iterable[int]) -> None:
        """Remove documents and all that belongs to them; their rows become dead."""
        for number in numbers:
            # The vectors stay in the append-only file until compact(); searches leave out dead rows.
            self._db.execute("INSERT INTO dead SELECT row FROM passages WHERE document = ?", [number])
            self._db.execute("DELETE FROM passages WHERE document = ?", [number])
            self._db.execute("DELETE FROM attributes WHERE document = ?", [number])
            self._db.execute("DELETE FROM documents WHERE number = ?", [number])
        self.set_state(self.state())

    def describe(self, number: int, metadata: Mapping[str, Any]) -> None:
        """Replace the metadata of a document."""
        name, text = self._db.execute("SELECT id, text FROM documents WHERE number = ?", [number]).fetchone()
        values = orjson.dumps(metadata).decode()
        command = "UPDATE documents SET metadata = ?, crc = ? WHERE number = ?"
        self._db.execute(command, [values, _crc(name, text, values), number])
        self._db.execute("DELETE FROM attributes WHERE document = ?", [number])
        self._describe(number, metadata)
        self.set_state(self.state())

    def _describe(self, number: int, metadata: Mapping[str, Any]) -> None:
        rows = [(key, found, number) for key, value in metadata.items() for found in attribute_values(value)]
        self._db.executemany("INSERT OR IGNORE INTO attributes VALUES (?, ?, ?)", rows)

    def _compare(self, expected: int, *values: Any) -> None:
        if _crc(*values) != expected:
            raise DataError(f"{self.path} is damaged (a checksum does not match): build the index again")

    def alive(self, rows: int) -> np.ndarray | None:
        """Return (rows,) bool of the rows that have a passage; None for all."""
        dead = _numbers(self._db.execute("SELECT row FROM dead"))
        if not len(dead):
            return None
        alive = np.ones(rows, dtype=bool)
        alive[dead] = False
        return alive

    def matching(self, where: Mapping[str, Any], rows: int) -> np.ndarray:
        """Return (rows,) bool of the rows whose document fits. Raises ConfigError for a wrong filter or unknown key."""
        clause, values = compile_filter(where)  # values are parameters of the statement, never part of its text
        for key in where:
            if not self._db.execute("SELECT 1 FROM attributes WHERE key = ? LIMIT 1", [key]).fetchone():
                raise unknown_key(key, self.keys())
        mask = np.zeros(rows, dtype=bool)
        mask[_numbers(self._db.execute(f"SELECT row FROM passages WHERE {clause}", values))] = True
        return mask

    def keys(self) -> list[str]:
        """Return the metadata keys that filters can use."""
        return [key for (key,) in self._db.execute("SELECT DISTINCT key FROM attributes")]

    def passages(self, rows: Sequence[int]) -> dict[int, StoredPassage]:
        """Return passages by row."""
        found = {}
        for chunk in _chunks(rows):
            marks = ", ".join("?" * len(chunk))
            query = (
                "SELECT row, number, id, text, metadata, start, end, documents.crc, passages.crc FROM passages "
                f"JOIN documents ON number = document WHERE row IN ({marks})"
            )
            for row, number, name, text, metadata, start, end, of_document, of_passage in self._db.execute(
                query, chunk
            ):
                # Both checksums: damage may change the text, or the span that cuts the passage out of it.
                self._compare(of_document, name, text, metadata)
                self._compare(of_passage, row, start, end, _cut(text, start, end))
                found[row] = StoredPassage(number, name, text, orjson.loads(metadata), start, end)
        return found

    def documents_of(self, rows: Sequence[int]) -> dict[int, int]:
        """Return the number of each row's document."""
        found: dict[int, int] = {}
        for chunk in _chunks(rows):
            marks = ", ".join("?" * len(chunk))
            found.update(self._db.execute(f"SELECT row, document FROM passages WHERE row IN ({marks})", chunk))
        return found

    def texts(self, first: int) -> Iterator[tuple[int, str]]:
        """Yield (row, text) of every passage from row ``first`` on."""
        query = (
            "SELECT row, text, start, end, passages.crc FROM passages JOIN documents ON number = document "
            "WHERE row >= ? ORDER BY row"
        )
        for row, text, start, end, crc in self._db.execute(query, [first]):
            self._compare(crc, row, start, end, _cut(text, start, end))
            yield row, text[start:end]

    def counts(self) -> tuple[int, int, int]:
        """Return the numbers of documents, passages and dead rows."""
        documents, passages, dead = (
            self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("documents", "passages", "dead")
        )
        return documents, passages, dead

    def rows(self) -> np.ndarray:
        """Return the rows that have a passage, ascending."""
        return _numbers(self._db.execute("SELECT row FROM passages ORDER BY row"))

    def renumber(self, rows: np.ndarray) -> None:
        """Renumber row ``rows[i]`` (ascending, all that have a passage) to i, and forget dead rows."""
        query = "SELECT start, end, text FROM passages JOIN documents ON number = document WHERE row = ?"
        # new <= old and rows ascend: a row is moved only to a number that was freed before, so keys never collide.
        for new, old in enumerate(rows.tolist()):
            if new != old:
                start, end, text = self._db.execute(query, [old]).fetchone()
                crc = _crc(new, start, end, text[start:end])
                self._db.execute("UPDATE passages SET row = ?, crc = ? WHERE row = ?", [new, crc, old])
        self._db.execute("DELETE FROM dead")  # their vectors are not in the rewritten files

    def vacuum(self) -> None:
        """Give the space of what was removed back to the disk."""
        with self._lock, self._errors():
            self._db.execute("VACUUM")


def _crc(*values: Any) -> int:
    return crc32(repr(values).encode(errors="surrogatepass"))


def _cut(text: Any, start: Any, end: Any) -> str:
    """Return the passage, or "" if damage changed the types of the columns; the checksum then differs."""
    fits = isinstance(text, str) and isinstance(start, int) and isinstance(end, int)
    return text[start:end] if fits else ""


def _numbers(rows: Iterable[tuple[int]]) -> np.ndarray:
    return np.fromiter((row for (row,) in rows), np.int64)


def _chunks(values: Sequence[Any], size: int = 10_000) -> Iterator[list[Any]]:
    for start in range(0, len(values), size):
        yield list(values[start : start + size])
