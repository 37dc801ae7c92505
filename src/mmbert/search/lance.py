"""Approximate search with LanceDB for many vectors; its candidates are compared exactly.

The table has the columns ``row``, ``vector`` and ``crc``, in the order of rows. Only rows behind those that count are
ever deleted. ``vector`` is the row minus the mean of the first batch, which is in ``centre.npz``: float16 and LanceDB's
own int8 then round what tells rows apart, not the large mean that vectors of encoders share. The index measures
Euclidean distances, which do not depend on the centre and order rows of unit length as their dot products do. With dot
products, LanceDB's product quantisation would encode whole rows, not residuals to the centroid of their partition.
 Filters and deleted rows are a mask: if few rows are allowed, they are fetched and compared; if many are, more
candidates are requested until enough of them are allowed.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from mmbert.arrays import load_arrays, save_arrays
from mmbert.errors import DataError, MissingExtra, first_line
from mmbert.files import disk_errors
from mmbert.search.vector_store import KINDS, Found, VectorStore, check_width, largest

log = logging.getLogger(__name__)

INDEXED_FROM = 10_000
"""Rows below which an index would not pay: all are compared."""

_FEW = 1000
"""Allowed rows up to which they are fetched and compared; more of them if the index would have to return more."""

_ATTEMPTS = 3
"""Times that candidates are asked for, four times as many each, before all allowed rows are compared."""

_BLOCK = 4096
"""Rows fetched at a time."""

_PROBES = 20
"""Partitions of the index that are searched (LanceDB's ``nprobes``)."""

_PARTS = 32
"""Files of rows, one for each batch, above which they are joined and indexed; until then they are compared."""

_TABLE = "rows"

_CENTRE = "centre.npz"

_FIX = "it is damaged, build the index again"

_PANICS = ("PanicException", "RustPanic")
"""Classes of errors by which Python code meets a panic of Rust code; no module exports them."""


def libraries() -> tuple[Any, Any]:
    """Return the modules of LanceDB and Arrow. Raises MissingExtra."""
    try:
        import lancedb
        import pyarrow
    except ImportError as error:
        raise MissingExtra(error.name or "lancedb", "search") from error
    return lancedb, pyarrow


class LanceStore:
    """See :class:`mmbert.search.vector_store.VectorStore`."""

    def __init__(self, path: Path, width: int, output: str, kind: str, similarity: str = "cosine") -> None:
        lancedb, pyarrow = libraries()
        self.path, self.width, self.kind = path, width, kind
        self._arrow = pyarrow
        self._number = pyarrow.float32() if output == "float32" else pyarrow.float16()
        self._type = np.dtype(output)
        self._database = lancedb.connect(path)
        # Rows of other lengths than one: the nearest by distance is not the one with the largest dot product.
        self._metric = "l2" if similarity == "cosine" else "dot"
        self._centre: np.ndarray | None = None
        self._opened: Any = None

    def append(self, vectors: np.ndarray, first: int) -> None:
        check_width(vectors, self.width, self.path)
        if not first:
            self._save_centre(vectors.mean(axis=0, dtype=np.float64).astype(np.float32))
        self._write(vectors, first)

    def copy(self, other: VectorStore, rows: np.ndarray, first: int) -> None:
        # Around another centre float16 would round the rows once more.
        if first or not isinstance(other, LanceStore):
            self.append(other.vectors(rows), first)
        else:
            self._save_centre(other._load_centre())
            self._write(other.vectors(rows), first)

    def _write(self, vectors: np.ndarray, first: int) -> None:
        arrow, centred = self._arrow, vectors.astype(np.float32, copy=False) - self._load_centre()
        numbers = arrow.array(np.ascontiguousarray(centred.astype(self._type)).reshape(-1), self._number)
        columns = {
            "row": arrow.array(np.arange(first, first + len(vectors))),
            "vector": arrow.FixedSizeListArray.from_arrays(numbers, self.width),
            "crc": arrow.array(_checksums(numbers.to_numpy().reshape(-1, self.width), first)),
        }
        with disk_errors(self.path), self._damage():
            table = self._table(create=True)
            # Rows behind ``first`` are those of a writer that was killed before it counted them.
            if table.count_rows() > first:
                table.delete(f"row >= {first}")
            table.add(arrow.table(columns))

    def _save_centre(self, centre: np.ndarray) -> None:
        """Save the centre before the first row that is stored around it."""
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            save_arrays(self.path / _CENTRE, centre=centre)
        self._centre = centre

    def _load_centre(self) -> np.ndarray:
        if self._centre is None:
            centre = load_arrays(self.path / _CENTRE, _FIX).get("centre")
            if centre is None or centre.shape != (self.width,):
                raise DataError(f"{self.path / _CENTRE} does not fit rows of {self.width} numbers: {_FIX}")
            self._centre = centre
        return self._centre

    @contextmanager
    def _damage(self) -> Iterator[None]:
        """Raise DataError for what the libraries raise on unreadable files: their own errors, or a Rust panic."""
        try:
            yield
        except (OSError, RuntimeError, ValueError, self._arrow.ArrowException) as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of a file's content
                raise
            raise self._damaged(error) from error
        except BaseException as error:
            if type(error).__name__ not in _PANICS:
                raise
            raise self._damaged(error) from error

    def _damaged(self, error: BaseException) -> DataError:
        return DataError(
            f"LanceDB cannot read {self.path} ({first_line(error)}): if it is damaged, build the index again"
        )

    def search(self, queries: np.ndarray, k: int, rows: int, allowed: np.ndarray | None) -> list[Found]:
        if not rows or (allowed is not None and not allowed.any()):
            return [(np.zeros(0, np.int64), np.zeros(0, np.float32)) for _ in queries]
        places = None if allowed is None else np.flatnonzero(allowed)
        if places is not None and len(places) <= max(_FEW, self._candidates(k, rows, len(places))):
            return self._compare(queries, places, k)
        found = []
        for query in queries:
            with self._damage():
                nearest = self._nearest(query, k, rows, allowed)
            if nearest is None:
                (nearest,) = self._compare(query[None], np.arange(rows) if places is None else places, k)
            found.append(nearest)
        return found

    def _compare(self, queries: np.ndarray, places: np.ndarray, k: int) -> list[Found]:
        """Fetch all rows of ``places``, and return the best of them."""
        scores = np.empty((len(queries), len(places)), np.float32)
        for start in range(0, len(places), _BLOCK):
            block = self.vectors(places[start : start + _BLOCK])
            scores[:, start : start + _BLOCK] = queries.astype(np.float32, copy=False) @ block.T
        best = [largest(row, k) for row in scores]  # the same order of equals as in the exact store
        return [(places[chosen], row[chosen]) for chosen, row in zip(best, scores, strict=True)]

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        found = np.zeros((len(rows), self.width), np.float32)
        for start in range(0, len(rows), _BLOCK):
            wanted = rows[start : start + _BLOCK]
            with self._damage():
                table = self._table().take_offsets(wanted.tolist()).select(["row", "vector", "crc"]).to_arrow()
                # take_offsets counts rows as they lie in the table: a lost file would shift all rows behind it.
                if not np.array_equal(table["row"].to_numpy(), wanted):
                    raise DataError(f"{self.path} lacks rows of the index: it is damaged, build the index again")
                found[start : start + len(wanted)] = self._checked(table)
        return found

    def _checked(self, table: Any) -> np.ndarray:
        """Return the vectors (n, width) fp32 of rows that were read. Raises DataError where a checksum differs."""
        values = np.concatenate([chunk.flatten().to_numpy() for chunk in table["vector"].chunks])
        vectors = values.reshape(-1, self.width)
        rows = table["row"].to_numpy()
        bad = np.flatnonzero(_checksums(vectors, rows) != table["crc"].to_numpy())
        if len(bad):
            raise DataError(f"{self.path} is damaged in row {int(rows[bad[0]])}: build the index again")
        return np.asarray(vectors.astype(np.float32) + self._load_centre())

    def build_index(self, rows: int) -> bool:
        """Make the index, or let it take up the rows that came since, if they are many."""
        if rows < INDEXED_FROM:
            return False
        with self._damage():
            return self._make_index(rows)

    def _make_index(self, rows: int) -> bool:
        table = self._table()
        if (self._files / "_indices").is_dir():  # asking the table makes the library warn on stderr
            many = len(list((self._files / "data").iterdir())) > _PARTS
            if many:
                table.optimize()
            return many
        log.info("indexing %s rows (%s)", f"{rows:,}", self.kind)
        from lancedb import index

        options: dict[str, Any] = {"distance_type": self._metric}
        if self.kind == "ivf_pq":
            # A byte for four dimensions: with LanceDB's default of sixteen, re-ranking does not save the recall.
            parts = range(max(self.width // 4, 1), 0, -1)
            options["num_sub_vectors"] = next(count for count in parts if self.width % count == 0)
        table.create_index("vector", config=getattr(index, KINDS[self.kind].config)(**options))
        table.optimize()
        return True

    def cleanup(self) -> None:
        with disk_errors(self.path), self._damage():
            self._table(create=True).optimize(cleanup_older_than=timedelta(milliseconds=1))

    def _nearest(self, query: np.ndarray, k: int, rows: int, allowed: np.ndarray | None) -> Found | None:
        """Search by the index. Return None if not enough candidates are allowed even after asking for more."""
        table, query = self._table(), query.astype(np.float32, copy=False)
        there = rows if allowed is None else int(allowed.sum())
        wanted, asked = min(k, there), self._candidates(k, rows, there)
        for _ in range(_ATTEMPTS):
            found = (
                table.search(query - self._load_centre() if self._metric == "l2" else query)
                .distance_type(self._metric)
                .nprobes(_PROBES)
                .select(["row", "vector", "crc", "_distance"])
                .limit(asked)
                .to_arrow()
            )
            places = found["row"].to_numpy().astype(np.int64)
            keep = places < rows
            if allowed is not None:
                keep[keep] = allowed[places[keep]]
            if keep.sum() >= wanted:
                places, scores = places[keep], self._checked(found)[keep] @ query
                order = np.lexsort((places, -scores))[:k]
                return places[order], scores[order]
            asked *= 4
        return None

    def _candidates(self, k: int, rows: int, there: int) -> int:
        """Return how many candidates are re-ranked for ``k`` of the ``there`` allowed rows of all ``rows``."""
        # With a filter, so many more that as many allowed ones come.
        return KINDS[self.kind].refine * (k if there == rows else k + int(1.5 * k * rows / there))

    @property
    def _files(self) -> Path:
        return self.path / f"{_TABLE}.lance"

    def _table(self, *, create: bool = False) -> Any:
        if self._opened is None:
            arrow = self._arrow
            if not create and not self._files.is_dir():
                raise DataError(f"no rows in {self.path}: it is damaged, build the index again")
            vector = arrow.list_(self._number, self.width)
            columns = [("row", arrow.int64()), ("vector", vector), ("crc", arrow.uint32())]
            self._opened = self._database.create_table(_TABLE, schema=arrow.schema(columns), exist_ok=True)
        return self._opened


def _checksums(vectors: np.ndarray, rows: int | np.ndarray) -> np.ndarray:
    """Return a CRC-32 of each vector (n, width), begun with its row's number: LanceDB's pages carry none."""
    numbers = rows if isinstance(rows, np.ndarray) else np.arange(rows, rows + len(vectors))
    pairs = zip(numbers.tolist(), np.ascontiguousarray(vectors), strict=True)
    return np.fromiter((zlib.crc32(vector, number & 0xFFFFFFFF) for number, vector in pairs), np.uint32, len(vectors))
