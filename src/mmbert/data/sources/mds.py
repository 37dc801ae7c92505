"""MosaicML's shard format (MDS), that of the released training data: rows of named columns.

    index.json              {"version": 2, "shards": [{"format": "mds", "samples", "compression", "zip_data",
                            "raw_data": {"basename", "bytes", "hashes"}, "column_names", "column_encodings", ...}]}
    shard.00000.mds[.zstd]  u32 samples, u32 offsets[samples + 1], JSON that repeats the columns, the samples
    a sample                u32 size of each column that has no fixed one, then the bytes of all columns

Read after mosaicml-streaming 0.13 (``streaming/base/format/mds``), without it. Raw shards are mapped into memory,
compressed ones (zstd) are unpacked into it. Lengths are compared with the index, and hashes where it has any.
A dataset with a column of kind ``pkl`` is refused: unpickling runs whatever code the file holds.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmbert.errors import DataError
from mmbert.io.stream import decompress, join

logger = logging.getLogger(__name__)

INDEX = "index.json"
SUFFIXES = (".mds", ".mds.zstd", ".mds.zst")

_FIX = "copy or download it again"
_SHAPES = ("u1", "<u2", "<u4", "<u8")
"""Types of the sizes in the shape of an array, by the code in its first byte."""
_TYPES = {8: "u1", 9: "i1", 16: "<u2", 17: "<i2", 18: "<f2", 32: "<u4", 33: "<i4", 34: "<f4", 64: "<u8", 65: "<i8",
          66: "<f8"}  # fmt: skip
"""Types of values, by the code in the first byte of an array whose column names none."""
_NAMED = {
    "uint8": "u1", "int8": "i1", "uint16": "<u2", "int16": "<i2", "uint32": "<u4", "int32": "<i4", "uint64": "<u8",
    "int64": "<i8", "float16": "<f2", "float32": "<f4", "float64": "<f8",
}  # fmt: skip

Entry = dict[str, Any]
"""One shard, as ``index.json`` describes it."""


class MdsColumn(NamedTuple):
    """A column: its name, its encoding, and the bytes of its values; None for values of varying length."""

    name: str
    encoding: str
    size: int | None


def listed(indexes: Mapping[str, Any]) -> dict[tuple[str, str], Entry]:
    """Return (raw path, compressed path or the same) -> entry of every shard in the indexes of a dataset.

    indexes  path of an ``index.json`` -> its JSON; one may list the shards of folders below, whose indexes say the same
    Raises DataError for one that is damaged, of another version, or of a dataset that cannot be read.
    """
    entries: dict[tuple[str, str], Entry] = {}
    for path in sorted(indexes, key=lambda path: (path.count("/"), path)):
        folder = PurePosixPath(path).parent
        try:
            if indexes[path]["version"] != 2:
                raise DataError(f"{path} is of version {indexes[path]['version']}, and only 2 can be read")
            for entry in indexes[path]["shards"]:
                _check_entry(entry, path)
                names = (entry["raw_data"]["basename"], (entry["zip_data"] or entry["raw_data"])["basename"])
                entries[str(folder / names[0]), str(folder / names[1])] = entry
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} is damaged or no index of MDS shards ({error!r}): {_FIX}") from error
    return entries


def _check_entry(entry: Entry, path: str) -> None:
    if entry["format"] != "mds":
        raise DataError(f"{path}: shards of the form {entry['format']} cannot be read, only mds")
    if (compression := entry["compression"]) and compression.partition(":")[0] != "zstd":
        raise DataError(f"{path}: shards compressed with {compression} cannot be read: unpack them, or use zstd")
    columns(entry, path)
    for key, value in (("samples", entry["samples"]), ("bytes", entry["raw_data"]["bytes"])):
        if not isinstance(value, int) or value < 0:
            raise ValueError(f"{key} is {value}")


def columns(entry: Mapping[str, Any], where: str) -> list[MdsColumn]:
    """Return the columns of a shard. Raises DataError for one that would have to be unpickled."""
    parts = (entry["column_names"], entry["column_encodings"], entry["column_sizes"])
    found = [MdsColumn(*column) for column in zip(*parts, strict=True)]
    for column in found:
        if column.encoding == "pkl":
            raise DataError(
                f"{where}: column {column.name!r} is pickled (pkl), and unpickling can run any code: "
                "write the dataset without it"
            )
    return found


def choose(paths: Iterable[str], known: Mapping[tuple[str, str], Entry]) -> dict[str, Entry]:
    """Return the shards to read among the files of a dataset, sorted; raw ones are preferred to compressed copies.

    Raises DataError for a shard that an index lists and that is not there, and for one in no index.
    """
    there = {path for path in paths if path.endswith(SUFFIXES)}
    if stray := sorted(there - {path for pair in known for path in pair}):
        raise DataError(f"{stray[0]} is in no {INDEX}: {_FIX}, together with its index")
    chosen = {}
    for raw, packed in sorted(known):
        name = raw if raw in there else packed
        if name not in there:
            raise DataError(f"no such file: {raw}, which {INDEX} lists: {_FIX}")
        chosen[name] = known[raw, packed]
    return chosen


def unpack(data: bytes | NDArray[np.uint8], entry: Entry, path: str) -> NDArray[np.uint8]:
    """Return the raw shard out of a file's content, (bytes,) uint8, checked against the index. Raises DataError."""
    content = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else np.asarray(data)
    if path.endswith(".mds"):
        return _checked(content, entry["raw_data"], path)
    content = _checked(content, entry["zip_data"], path)
    raw = join(decompress([content.tobytes()], path), path, most=entry["raw_data"]["bytes"])
    return _checked(np.frombuffer(raw, np.uint8), entry["raw_data"], f"{path}, unpacked,")


def _checked(content: NDArray[np.uint8], data: Mapping[str, Any], path: str) -> NDArray[np.uint8]:
    if len(content) != data["bytes"]:
        raise DataError(f"{path} has {len(content)} bytes instead of {data['bytes']}: {_FIX}")
    for algorithm, digest in (data.get("hashes") or {}).items():
        if (hasher := _hasher(algorithm)) is not None and hasher(content) != digest:
            raise DataError(f"{path} is damaged (its {algorithm} does not match): {_FIX}")
    return content


@cache
def _hasher(algorithm: str) -> Callable[[NDArray[np.uint8]], str] | None:
    """Return a function bytes -> hexadecimal digest; None for an algorithm that is not installed."""
    if algorithm in hashlib.algorithms_available:
        return lambda content: hashlib.new(algorithm, content.tobytes()).hexdigest()
    try:
        import xxhash

        new = getattr(xxhash, algorithm)
    except (ImportError, AttributeError):
        logger.info("MDS shards have hashes by %s, which is not installed: only lengths are compared", algorithm)
        return None
    return lambda content: new(content.tobytes()).hexdigest()


class MdsShard:
    """The samples of one shard, decoded one at a time.

    content  (bytes,) uint8, the raw shard
    entry    what the index says of it
    path     for messages

    Raises DataError if the shard's own head is damaged or does not agree with the index.
    """

    def __init__(self, content: NDArray[np.uint8], entry: Entry, path: str) -> None:
        self.path = path
        self.columns = columns(entry, path)
        self._content = content
        samples = int(content[:4].view("<u4")[0]) if len(content) >= 4 else -1
        start = 4 * (samples + 2)
        if samples != entry["samples"] or start > len(content):
            raise DataError(f"{path} holds {samples} samples instead of {entry['samples']}: {_FIX}")
        self._offsets = content[4:start].view("<u4").astype(np.int64)
        if (
            self._offsets[0] < start
            or self._offsets[-1] != len(content)
            or (len(self._offsets) > 1 and np.diff(self._offsets).min() < 0)
        ):
            raise DataError(f"{path} is damaged (its samples do not fill it): {_FIX}")
        try:
            head = json.loads(content[start : self._offsets[0]].tobytes())
        except ValueError as error:
            raise DataError(f"{path} is damaged (its head is not JSON): {_FIX}") from error
        if columns(head, path) != self.columns:
            raise DataError(f"{path} has other columns than {INDEX} says: {_FIX}")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def rows(self, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the ``wanted`` columns of every sample; names that are no column are left out. Raises DataError."""
        chosen = [column for column in self.columns if column.name in wanted]
        for index in range(len(self)):
            places = self._places(index)
            yield {
                column.name: self._decode(column, self._content[slice(*places[column.name])], index)
                for column in chosen
            }

    def _places(self, index: int) -> dict[str, tuple[int, int]]:
        """Return column -> (start, end) of its value."""
        start, end = int(self._offsets[index]), int(self._offsets[index + 1])
        variable = sum(column.size is None for column in self.columns)
        place = start + 4 * variable
        if place > end:
            raise self._damaged(index)
        sizes = iter(self._content[start:place].view("<u4").tolist())
        places = {}
        for column in self.columns:
            size = next(sizes) if column.size is None else column.size
            places[column.name] = (place, place + size)
            place += size
        if place != end:
            raise self._damaged(index)
        return places

    def _decode(self, column: MdsColumn, value: NDArray[np.uint8], index: int) -> Any:
        try:
            return decode(column.encoding, value)
        except NotImplementedError as error:
            raise DataError(f"{self.path}: column {column.name!r} is of the kind {column.encoding}: {error}") from error
        except (ValueError, IndexError, KeyError) as error:
            raise self._damaged(index, f"column {column.name!r}: {error}") from error

    def _damaged(self, index: int, why: str = "its columns do not fill it") -> DataError:
        return DataError(f"{self.path}, sample {index}, is damaged ({why}): {_FIX}")


def decode(encoding: str, value: NDArray[np.uint8]) -> Any:
    """Return a value from its bytes: text, JSON, a number, an array. Raises NotImplementedError for other kinds."""
    kind, *details = encoding.split(":")
    if kind == "str":
        return value.tobytes().decode()
    if kind == "json":
        return json.loads(value.tobytes())
    if kind == "bytes":
        return value.tobytes()
    if kind == "int":
        return int(value.view("<i8")[0])
    if kind in _NAMED:
        return value.view(_NAMED[kind])[0].item()
    if kind == "ndarray":
        return _array(value, *details)
    raise NotImplementedError("it cannot be read here")


def _array(value: NDArray[np.uint8], dtype: str | None = None, shape: str | None = None) -> NDArray[Any]:
    """Return an array of ``ndarray``, ``ndarray:uint32`` or ``ndarray:uint32:4,8``; the value holds the rest."""
    if dtype is None:
        code, value = int(value[0]), value[1:]
        name = _TYPES[code]
    else:
        name = _NAMED[dtype]
    if shape is not None:
        return value.view(name).reshape([int(size) for size in shape.split(",")])
    axes, kind = int(value[0]) >> 2, np.dtype(_SHAPES[int(value[0]) & 3])
    end = 1 + axes * kind.itemsize
    sizes = value[1:end].view(kind)
    return value[end:].view(name).reshape([int(size) for size in sizes])
