"""Records for an index, out of files: lines, JSON lines, and folders of texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmbert.cli.lines import STDIN, Line, open_lines
from mmbert.errors import DataError

_TEXTS = (".txt", ".text", ".md")
_LINES = (".jsonl", ".ndjson")


def read_records(paths: list[str], text_field: str, id_field: str) -> Iterator[dict[str, Any]]:
    """Records of files, in their order.

    A line is a record, named by its place (``FILE:NUMBER``); blank ones are left out. Of a line that is a JSON object
    one field is the text, one the id (its place, without one), and the others are metadata. Of a folder every text file
    is a record, named by its path within, and every file of JSON lines is read as such, at any depth.
    Raises DataError, naming file and line.
    """
    for path in paths:
        place = Path(path)
        if path != STDIN and place.is_dir():
            yield from _read_folder(place, text_field, id_field)
        else:
            yield from _read_lines(path, text_field, id_field)


def _read_folder(folder: Path, text_field: str, id_field: str) -> Iterator[dict[str, Any]]:
    found = False
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix in _TEXTS:
            found = True
            text = _read_text(path)
            if text.strip():
                yield {"id": path.relative_to(folder).as_posix(), "text": text}
        elif Path(path.name.removesuffix(".gz").removesuffix(".zst")).suffix in _LINES:
            found = True
            yield from _read_lines(str(path), text_field, id_field)
    if not found:
        raise DataError(f"no {', '.join((*_TEXTS, *_LINES))} in {folder}")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start + 1}: convert it first") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _read_lines(path: str, text_field: str, id_field: str) -> Iterator[dict[str, Any]]:
    for line in open_lines(path):
        if isinstance(line.value, dict):
            yield _record(line, text_field, id_field)
        elif line.value.strip():
            yield {"id": line.where, "text": line.value}


def _record(line: Line, text_field: str, id_field: str) -> dict[str, Any]:
    text = line.text(text_field)
    assert isinstance(line.value, dict)
    if not text.strip():
        raise DataError(f"{line.where}: its {text_field} is empty: leave the line out, or choose another --text-field")
    name = line.value.get(id_field, line.where)
    metadata = {key: value for key, value in line.value.items() if key not in (text_field, id_field)}
    return {"id": name, "text": text, "metadata": metadata}
