"""Files here, on an object store or on the hub, by fsspec: the shards of an input, and the folder of the results.

A place is a path, or a URL such as ``s3://bucket/folder`` or ``hf://datasets/USER/NAME``. Files are whole or absent:
on a disk by ``atomic_file``, on an object store because an upload appears when it is complete.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import orjson

from mmbert.errors import ConfigError, DataError
from mmbert.files import atomic_file
from mmbert.io.find import bare_name, find_files, is_hidden
from mmbert.io.remote import as_typed, file_system, is_remote, open_place, store_errors
from mmbert.io.rows import TABLES, TEXTS

_STAMPS = ("ETag", "etag", "blob_id", "md5Hash", "mtime", "LastModified", "updated")
"""What stores say of a file's content, the surest first."""


@dataclass(frozen=True)
class Shard:
    """One file of the input."""

    name: str
    """Relative to the folder that all inputs have in common, with ``/``."""
    place: str
    size: int
    """In bytes."""
    stamp: str
    """Changes when the content does."""

    def open(self) -> BinaryIO:
        """Open the file to read; of a remote one, what is read is fetched. Raises DataError."""
        return open_place(self.place)


def find_shards(inputs: Iterable[str]) -> list[Shard]:
    """Return the files of all inputs (files, folders, globs, URLs), sorted by name. Raises DataError, ConfigError."""
    found = {file.place: file for place in inputs for file in _files(place)}
    if len({place.partition("://")[0] if "://" in place else "" for place in found}) > 1:
        raise ConfigError("the inputs are in several stores: run the command once for each, with a folder of its own")
    root = _common([str(PurePosixPath(place).parent) for place in found])
    shards = [
        Shard(PurePosixPath(place).relative_to(root).as_posix(), place, file.size, file.stamp)
        for place, file in found.items()
    ]
    return sorted(shards, key=lambda shard: shard.name)


def _common(folders: list[str]) -> PurePosixPath:
    parts = [PurePosixPath(folder).parts for folder in folders]
    same = 0
    while all(len(each) > same and each[same] == parts[0][same] for each in parts):
        same += 1
    return PurePosixPath(*parts[0][:same])


def _files(place: str) -> Iterator[Shard]:
    if not is_remote(place):
        for local in find_files(place, (*TABLES, *TEXTS), "INPUT")[1]:
            stat = local.stat()
            yield Shard(local.name, str(local.absolute()), stat.st_size, str(stat.st_mtime_ns))
        return
    with store_errors(place):
        fs, path = file_system(place)
        fs.invalidate_cache()  # others write there too
        if any(character in path for character in "*?["):
            listed = fs.glob(path, detail=True)
        else:
            listed = fs.find(path, detail=True)
        one = list(listed) == [path]
        for name, info in sorted(listed.items()):
            inner = name.removeprefix(path).lstrip("/")
            if info.get("type") == "file" and (one or (bare_name(name).endswith((*TABLES, *TEXTS)) and
                                                       not is_hidden(inner))):  # fmt: skip
                stamp = next((str(info[key]) for key in _STAMPS if info.get(key)), "")
                yield Shard(name, str(fs.unstrip_protocol(name)), int(info.get("size") or 0), stamp)
    if not listed:
        raise DataError(f"no file at {place} (INPUT)")


@dataclass(frozen=True)
class ResultFolder:
    """The folder that a run writes, here or on an object store."""

    place: str

    @classmethod
    def at(cls, place: str) -> ResultFolder:
        """Return the folder at a path or URL, a path as an absolute one."""
        return cls(as_typed(place) if is_remote(place) else str(Path(place).absolute()))

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Open a file to write, which appears, complete, when the block ends without an error."""
        if not is_remote(self.place):
            with atomic_file(Path(self.place) / name) as file:
                yield file
            return
        with tempfile.NamedTemporaryFile(prefix="mmbert-") as file:
            yield cast(BinaryIO, file)
            file.flush()
            with store_errors(self.place):
                fs, path = file_system(f"{self.place}/{name}")
                fs.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
                fs.put_file(file.name, path)

    def names(self) -> set[str]:
        """Return the relative names of all files."""
        if not is_remote(self.place):
            root = Path(self.place)
            return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
        with store_errors(self.place):
            fs, path = file_system(self.place)
            fs.invalidate_cache()
            return {name.removeprefix(path).lstrip("/") for name in fs.find(path)}

    def open(self, name: str) -> BinaryIO:
        """Open a file to read. Raises DataError."""
        return open_place(f"{self.place}/{name}")

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        if not is_remote(self.place):
            (Path(self.place) / name).unlink(missing_ok=True)
            return
        with store_errors(self.place):
            fs, path = file_system(f"{self.place}/{name}")
            if fs.exists(path):
                fs.rm_file(path)

    def read_json(self, name: str) -> Any:
        """Return the content of a JSON file. Raises DataError."""
        with self.open(name) as file:
            try:
                return orjson.loads(file.read())
            except ValueError as error:
                raise DataError(f"{self.place}/{name} is not JSON ({error}): delete it or restore it") from error

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file for people to read."""
        with self.writing(name) as file:
            file.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
