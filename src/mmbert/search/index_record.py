"""A record of an index: id, text and metadata, validated before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from mmbert.errors import DataError

Id = str | int

_FIELDS = ("id", "text", "metadata")


@dataclass(frozen=True)
class IndexRecord:
    """A validated record. ``number`` is its key in SQLite, -1 if it is not stored yet."""

    id: Id
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
    number: int = -1

    def same_content(self, other: IndexRecord) -> bool:
        """Return whether text and metadata are the same."""
        return self.text == other.text and self.metadata == other.metadata


def read_record(record: Any, place: int) -> IndexRecord:
    """Return a mapping with ``id``, ``text`` and perhaps ``metadata`` as a record; ``place``: its number for messages.

    Raises DataError.
    """
    if not isinstance(record, Mapping):
        raise DataError(f"record {place} is {type(record).__name__}: expected a dict with id, text and metadata")
    missing = [name for name in _FIELDS[:2] if name not in record]
    if missing:
        raise DataError(f"record {place} has no {' and no '.join(missing)}: a record has id, text and metadata")
    name, text, metadata = record["id"], record["text"], record.get("metadata")
    where = f"record {place} (id {name!r})"
    other = [key for key in record if key not in _FIELDS]
    if other:
        raise DataError(f"{where} has the field {other[0]!r}: put it into its metadata")
    check_id(name, where)
    if not isinstance(text, str):
        raise DataError(f"{where}: its text is {type(text).__name__}, not text")
    if not text.strip():
        raise DataError(f"{where} has no text: leave it out")
    _check_unicode(text, where)
    return IndexRecord(name, text, _metadata({} if metadata is None else metadata, where))


def check_id(name: Any, where: str) -> None:
    """Raises DataError for what is no id."""
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise DataError(f"{where}: its id is {type(name).__name__}, not text or a whole number")
    if isinstance(name, int) and not -(2**63) <= name < 2**63:
        raise DataError(f"{where}: its id has more than 64 bits: write it as text")
    if isinstance(name, str):
        _check_unicode(name, where)


def _check_unicode(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where} holds a lone surrogate: decode it as UTF-8 first") from error


def _metadata(metadata: Any, where: str) -> dict[str, Any]:
    """Return metadata as JSON gives it back. Raises DataError for what JSON cannot hold."""
    if not isinstance(metadata, dict):
        raise DataError(f"{where}: its metadata is {type(metadata).__name__}, not a dict")
    try:
        found: dict[str, Any] = orjson.loads(orjson.dumps(metadata))
    except (TypeError, ValueError) as error:  # orjson's errors are these
        raise DataError(f"{where}: its metadata cannot be written as JSON ({error})") from error
    return found
