"""PostgreSQL with pgvector: a table with the id as primary key, the vector, and a column for each further one.

A batch is copied into a temporary table and merged from there in one transaction. An HNSW index follows at the end.
The mark is the table's comment. Password: in the URL, ``PGPASSWORD`` or ``~/.pgpass``, as for every client of libpq.
"""

from __future__ import annotations

import json
import logging
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from mmbert.errors import ConfigError, import_extra
from mmbert.io.vector_files import VectorBatch
from mmbert.stores.store import Layout, metric_name, retrying
from mmbert.stores.target import Target

log = logging.getLogger(__name__)

_OPERATORS = {"cosine": "cosine", "dot": "ip", "euclidean": "l2", "manhattan": "l1", "hamming": "hamming"}

_TYPES = {"float32": "vector", "float16": "halfvec", "ubinary": "bit"}
_INDEXED = {"float32": 2000, "float16": 4000, "ubinary": 64_000}
"""Dimensions up to which pgvector indexes a type."""

_COLUMNS = {"text": "text", "integer": "bigint", "number": "double precision", "boolean": "boolean", "json": "jsonb"}

_PASSES = ("08", "40001", "40P01", "53300", "57P01", "57P02", "57P03")
"""SQLSTATEs (or their class) of errors that pass: connections, conflicts, a server that restarts or is full."""


class PgvectorStore:
    """See :class:`mmbert.stores.store.Store`."""

    def __init__(self, target: Target, layout: Layout) -> None:
        self._psycopg = import_extra("psycopg", "pgvector")
        self._register = import_extra("pgvector.psycopg", "pgvector").register_vector
        self._types = import_extra("pgvector", "pgvector")
        self._json = import_extra("psycopg.types.json", "pgvector").Jsonb
        self.target, self.layout = target, layout
        self._operators = metric_name(layout.metric, _OPERATORS, "pgvector")
        self._sql = self._psycopg.sql
        self._table = self._sql.Identifier(*target.table.split("."))
        self._connection: Any = None
        self._names = ["id", "vector", *layout.columns]

    def open(self) -> None:
        self._try(self._open)

    def write(self, batch: VectorBatch) -> None:
        self._try(lambda: self._write(batch))

    def finish(self) -> None:
        if self.layout.dimensions > _INDEXED[self.layout.output]:
            log.warning(
                "%s: pgvector indexes at most %s dimensions of %s, so every row is compared with a query; --output "
                "float16 or fewer --dimensions would be indexed",
                self.target, f"{_INDEXED[self.layout.output]:,}", self.layout.output,
            )  # fmt: skip
            return
        log.info("%s: building the HNSW index", self.target)
        name = f"{self.target.table.rpartition('.')[2]}_vector"
        statement = self._sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} USING hnsw (vector {})").format(
            self._sql.Identifier(name), self._table, self._sql.SQL(f"{self._kind}_{self._operators}_ops")
        )
        self._try(lambda: self._connected().execute(statement))

    def count(self) -> int:
        query = self._sql.SQL("SELECT count(*) FROM {}").format(self._table)
        return int(self._try(lambda: self._connected().execute(query).fetchone())[0])

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    @property
    def _kind(self) -> str:
        return _TYPES[self.layout.output]

    def _try(self, call: Any) -> Any:
        try:
            return retrying(call, self._passes, str(self.target))
        except self._psycopg.Error as error:
            raise self.target.failed(error) from error

    def _passes(self, error: Exception) -> bool:
        if not isinstance(error, self._psycopg.OperationalError):
            return False
        state = getattr(error, "sqlstate", None)
        if state is None:  # of the connection itself: refused by a server that is not there yet, or lost
            return not any(word in str(error) for word in ("password", "does not exist", "no pg_hba"))
        return str(state).startswith(_PASSES)

    def _connected(self) -> Any:
        """Return the connection, opened again if it was lost."""
        if self._connection is None or self._connection.closed:
            parts = urlsplit(self.target.place)
            options: dict[str, Any] = dict(parse_qsl(parts.query))
            known = {"host": parts.hostname, "port": parts.port, "user": self.target.user}
            options |= {name: value for name, value in known.items() if value}
            options |= {"password": self.target.password} if self.target.password else {}
            self._connection = self._psycopg.connect(
                dbname=parts.path.strip("/"), autocommit=True, application_name="mmbert", **options
            )
            self._make_extension()
            self._register(self._connection)
        return self._connection

    def _make_extension(self) -> None:
        found = self._connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'vector'").fetchone()
        if found is not None:
            return
        try:
            self._connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except self._psycopg.Error as error:
            raise ConfigError(
                f"{self.target}: the database has no extension vector, and it cannot be made here "
                f"({str(error).strip().splitlines()[0]}): install pgvector, and run CREATE EXTENSION vector once"
            ) from error

    def _open(self) -> None:
        connection = self._connected()
        found = connection.execute(
            "SELECT oid, obj_description(oid, 'pg_class') FROM pg_class WHERE oid = to_regclass(%s)",
            [self._table.as_string(connection)],
        ).fetchone()
        if found is not None:
            self.layout.check_mark(found[1], str(self.target))
            return
        identifier, sql = self._sql.Identifier, self._sql.SQL
        columns = [
            sql("id {} PRIMARY KEY").format(sql("bigint" if self.layout.integers else "text")),
            sql("vector {}({}) NOT NULL").format(sql(self._kind), sql(str(self.layout.dimensions))),
            *(sql("{} {}").format(identifier(name), sql(_COLUMNS[kind])) for name, kind in self.layout.columns.items()),
        ]
        with connection.transaction():
            connection.execute(sql("CREATE TABLE {} ({})").format(self._table, sql(", ").join(columns)))
            comment = self._sql.Literal(json.dumps(self.layout.mark(), ensure_ascii=False))
            connection.execute(sql("COMMENT ON TABLE {} IS {}").format(self._table, comment))

    def _write(self, batch: VectorBatch) -> None:
        connection, sql = self._connected(), self._sql.SQL
        names = sql(", ").join(map(self._sql.Identifier, self._names))
        updates = sql(", ").join(
            sql("{0} = excluded.{0}").format(self._sql.Identifier(name)) for name in self._names[1:]
        )
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute(sql("CREATE TEMP TABLE mmbert_rows (LIKE {}) ON COMMIT DROP").format(self._table))
            with cursor.copy(sql("COPY mmbert_rows ({}) FROM STDIN (FORMAT BINARY)").format(names)) as copy:
                copy.set_types(["int8" if self.layout.integers else "text", self._kind, *self._column_types()])
                for row in self._rows(batch):
                    copy.write_row(row)
            cursor.execute(
                sql("INSERT INTO {} ({}) SELECT {} FROM mmbert_rows ON CONFLICT (id) DO UPDATE SET {}").format(
                    self._table, names, names, updates
                )
            )

    def _column_types(self) -> list[str]:
        return [
            {"text": "text", "integer": "int8", "number": "float8", "boolean": "bool", "json": "jsonb"}[kind]
            for kind in self.layout.columns.values()
        ]

    def _rows(self, batch: VectorBatch) -> Any:
        columns = [self._values(batch.columns[name], kind) for name, kind in self.layout.columns.items()]
        return zip(batch.ids, map(self._vector, batch.vectors), *columns, strict=True)

    def _vector(self, row: np.ndarray) -> Any:
        if self._kind == "bit":  # the first dimension first
            return self._types.Bit(np.unpackbits(row).astype(bool))
        return (self._types.Vector if self._kind == "vector" else self._types.HalfVector)(row)

    def _values(self, values: list[Any], kind: str) -> list[Any]:
        if kind == "json":
            return [None if value is None else self._json(value, dumps=_dumps) for value in values]
        # PostgreSQL has no place for null characters in text.
        return [value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in values]


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
