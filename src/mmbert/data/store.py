"""Prepared text on disk: a compressed JSON lines file for each language, with counts of kept and dropped documents.

    text/<source>/<language>.jsonl.zst        {"id", "text"} a line, to train on
    text/<source>/done/<task>.json            a finished part of the work: its counts and the files it wrote
    text/<source>/done/complete.json          what all of it was made from
    text/report.json                          counts of every source and language
    heldout/<source>/<language>.jsonl.zst     the same form, never trained on
    parallel/<language>.jsonl                 {"id", "text", "english"}: held-out messages with their source

The form is that of a JSONL source, so ``read`` reads it back, with its errors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import zstandard
from pydantic import BaseModel, ConfigDict, ValidationError

from mmbert.data.document import Document
from mmbert.data.sources.read import read
from mmbert.errors import DataError
from mmbert.files import PARTIAL, disk_errors, read_json, sync_file, sync_folder
from mmbert.recipe import Source

SUFFIX = ".jsonl.zst"

_BUFFER = 1 << 18
"""Bytes of a language held back before they are compressed and appended: 1,833 languages at once take 500 MB."""


class DocumentCounts(BaseModel):
    """Counts of the documents of one language in one source. ``bytes`` are UTF-8 bytes."""

    model_config = ConfigDict(extra="forbid")

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    heldout_documents: int = 0
    heldout_characters: int = 0
    dropped: dict[str, int] = {}
    """Reason -> documents."""

    def keep(self, text: str) -> None:
        """Count a document to train on."""
        self.documents += 1
        self.characters += len(text)
        self.bytes += len(text.encode())

    def hold_out(self, text: str) -> None:
        """Count a held-out document."""
        self.heldout_documents += 1
        self.heldout_characters += len(text)

    def drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def merge(self, other: DocumentCounts) -> None:
        for name in ("documents", "characters", "bytes", "heldout_documents", "heldout_characters"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.dropped = dict(Counter(self.dropped) + Counter(other.dropped))


class SourceReport(BaseModel):
    """Counts of one source by language, and the fingerprint of everything on which they depend."""

    model_config = ConfigDict(extra="forbid")

    fingerprint: str
    languages: dict[str, DocumentCounts] = {}

    def language(self, code: str) -> DocumentCounts:
        """Return the counts of a language, created if needed."""
        return self.languages.setdefault(code, DocumentCounts())

    def merge(self, other: SourceReport) -> None:
        for code, counts in other.languages.items():
            self.language(code).merge(counts)

    def sort(self) -> None:
        self.languages = dict(sorted(self.languages.items()))
        for counts in self.languages.values():
            counts.dropped = dict(sorted(counts.dropped.items()))


class Report(BaseModel):
    """``text/report.json``: sources in the recipe's order, languages sorted."""

    model_config = ConfigDict(extra="forbid")

    version: int = 1
    sources: dict[str, SourceReport] = {}

    @classmethod
    def load(cls, folder: Path) -> Report:
        """Load the report of a data folder. Raises DataError if no text was prepared there."""
        path = report_path(folder)
        if not path.is_file():
            raise DataError(f"no such file: {path}: run `mmbert data prepare` first")
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            raise DataError(f"{path} is damaged: delete it and run `mmbert data prepare` again") from error


def text_sizes(folder: Path) -> dict[tuple[str, str], int]:
    """Return (source, language) -> characters of training text."""
    return {
        (name, language): counts.characters
        for name, source in Report.load(folder).sources.items()
        for language, counts in source.languages.items()
        if counts.documents
    }


def report_path(folder: Path) -> Path:
    """Return the path of the counts of a data folder."""
    return folder / "text" / "report.json"


def text_folder(folder: Path, source: str, *, heldout: bool = False) -> Path:
    """Return the folder of the prepared text of a source."""
    return folder / ("heldout" if heldout else "text") / source


def done_path(folder: Path, source: str, task: str) -> Path:
    """Return the path of the mark of a finished task."""
    return text_folder(folder, source) / "done" / f"{task}.json"


def complete_path(folder: Path, source: str) -> Path:
    """Return the path of the mark of a finished source."""
    return done_path(folder, source, "complete")


def read_complete(folder: Path, source: str) -> dict[str, Any]:
    """Return what a finished source was made from; empty if it is not finished."""
    path = complete_path(folder, source)
    values: dict[str, Any] = read_json(path) if path.is_file() else {}
    return values


def read_texts(folder: Path, source: str, language: str, *, heldout: bool = False) -> Iterator[Document]:
    """Yield the prepared documents of one stream. Raises DataError naming a file that is missing, cut or corrupt."""
    path = text_folder(folder, source, heldout=heldout) / f"{language}{SUFFIX}"
    return read(source, Source(kind="jsonl", path=str(path), language=language))


class TextWriter:
    """Writes files of any number of languages at once; they get their final names when the writer is closed.

    Each file is a row of compressed frames. No file stays open between two of them, so a thousand languages need no
    thousand descriptors, and the bytes depend on nothing but the documents.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
        self._lines: dict[str, list[bytes]] = {}
        self._sizes: Counter[str] = Counter()
        self._begun: set[str] = set()

    def add(self, document: Document) -> None:
        """Append a document to its language."""
        self.write(document.language, document.id, document.text)

    def write(self, name: str, id: str, text: str) -> None:
        """Append a document to a file, named without the suffix."""
        line = orjson.dumps({"id": id, "text": text}) + b"\n"
        self._lines.setdefault(name, []).append(line)
        self._sizes[name] += len(line)
        if self._sizes[name] >= _BUFFER:
            self._flush(name)

    def close(self) -> list[str]:
        """Flush everything to disk and rename the files to their final names. Return their languages, sorted."""
        if not self._lines:
            return []
        with disk_errors(self.folder):
            for language in sorted(self._lines):
                self._flush(language)
                partial = self._partial(language)
                sync_file(partial)
                partial.replace(self.folder / f"{language}{SUFFIX}")
            sync_folder(self.folder)
        return sorted(self._lines)

    def _flush(self, language: str) -> None:
        lines = self._lines[language]
        if not lines and language in self._begun:
            return
        path = self._partial(language)
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab" if language in self._begun else "wb") as file:
                file.write(self._compressor.compress(b"".join(lines)))
        self._begun.add(language)
        self._lines[language] = []
        self._sizes[language] = 0

    def _partial(self, language: str) -> Path:
        return self.folder / f"{language}{SUFFIX}{PARTIAL}"
