"""Raw text of any source as a stream of documents.

(1) ``source_inputs`` lists the files of a source with their languages; (2) ``read_input`` streams the documents of one,
through (3) ``_chunks``, which decompresses, and a reader for each form: ``_jsonl``, ``_text``, ``_parquet``, ``_mds``.
Whatever is wrong with a file is a DataError that names the file and the line.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import zstandard

from mmbert.data.catalogs import read_catalogs
from mmbert.data.document import Document
from mmbert.data.hub import hub_errors, hub_inputs
from mmbert.data.inputs import Input, house_code, local_inputs
from mmbert.data.mds import MdsShard, unpack
from mmbert.errors import DataError, MissingExtra
from mmbert.recipe import Source

Advance = Callable[[int], None]
"""Is told of bytes read."""

_CHUNK = 1 << 18
_ROWS = 1024
"""Rows of Parquet held at a time."""


def read(source_name: str, source: Source, *, heldout: bool = False) -> Iterator[Document]:
    """All documents of a source, or of its ``heldout`` text. Raises DataError naming file and line of what is wrong."""
    if source.kind == "catalogs":
        yield from read_catalogs(source_name, source.packages)
        return
    for input in source_inputs(source_name, source, heldout=heldout):
        yield from read_input(source_name, source, input)


def source_inputs(source_name: str, source: Source, *, heldout: bool = False) -> list[Input]:
    """The files of a source (none for ``catalogs``), sorted by language and name."""
    if source.kind == "catalogs":
        return []
    return (hub_inputs if source.kind == "hub" else local_inputs)(source_name, source, heldout=heldout)


def read_input(
    source_name: str, source: Source, input: Input, advance: Advance = lambda size: None
) -> Iterator[Document]:
    """The documents of one file."""
    with hub_errors(source) if source.kind == "hub" else nullcontext():
        if input.form == "text":
            yield from _text(source_name, input, advance)
            return
        for number, row in _READERS[input.form](source, input, advance):
            yield _document(source_name, source, input, number, row)


def _document(source_name: str, source: Source, input: Input, number: int, row: dict[str, Any]) -> Document:
    where = f"{input.path}:{number}"
    text = row.get(source.text_field)
    if not isinstance(text, str):
        if source.text_field in row:
            raise DataError(f"{where}: field {source.text_field!r} holds {json.dumps(text)[:40]}, not text")
        raise DataError(
            f"{where}: no field {source.text_field!r}, there are {', '.join(map(repr, row)) or 'none'}: "
            f"set sources.{source_name}.text_field"
        )
    language = input.language
    if language is None:
        assert source.language_field is not None, "files without a language need the field"
        code = row.get(source.language_field)
        if not isinstance(code, str):
            raise DataError(
                f"{where}: no language in field {source.language_field!r}, there are {', '.join(map(repr, row))}: "
                f"set sources.{source_name}.language_field"
            )
        language = house_code(code, f"{where}, field {source.language_field!r}")
    id = row.get(source.id_field) if source.id_field is not None else None
    return Document(text, f"{input.name}:{number}" if id is None else _identity(id), language, source_name)


def _identity(value: object) -> str:
    """An id as text that any file can hold."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def _jsonl(source: Source, input: Input, advance: Advance) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(split_lines(_chunks(input, advance)), 1):
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:  # a blank line, half a surrogate, NaN, or a fault: the other one says which
            if (row := _parse(input, number, line)) is None:
                continue
        if not isinstance(row, dict):
            raise DataError(f"{input.path}:{number}: not a JSON object with named fields: {line.decode()[:40]}")
        yield number, row


def _parse(input: Input, number: int, line: bytes) -> Any:
    """What orjson does not take, with Python's own reader; None for a blank line. Raises DataError."""
    text = _decode(input, number, line)
    if not text or text.isspace():
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{input.path}:{number}: not JSON ({error}): mend or remove the line") from error
    except RecursionError as error:
        raise DataError(f"{input.path}:{number}: JSON nested too deeply: mend or remove the line") from error


def _text(source_name: str, input: Input, advance: Advance) -> Iterator[Document]:
    """Documents between blank lines; each is named by its first line's number."""
    if input.language is None:
        raise DataError(
            f"{input.path}: plain text has no fields: set sources.{source_name}.language, not language_field"
        )
    gathered: list[str] = []
    start = 0
    for number, line in _lines(input, advance):
        if line.strip():
            start = start if gathered else number
            gathered.append(line.rstrip("\r"))
        elif gathered:
            yield Document("\n".join(gathered), f"{input.name}:{start}", input.language, source_name)
            gathered = []
    if gathered:
        yield Document("\n".join(gathered), f"{input.name}:{start}", input.language, source_name)


def _parquet(source: Source, input: Input, advance: Advance) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "data") from error
    wanted = [field for field in (source.text_field, source.id_field, source.language_field) if field is not None]
    number = 0
    try:
        with input.open() as raw:
            file = parquet.ParquetFile(raw)
            columns = [name for name in file.schema_arrow.names if name in wanted]
            if source.text_field not in columns:
                columns = file.schema_arrow.names  # the message about the first row names them all
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(_ROWS, row_groups=[group], columns=columns):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
                advance(input.size // file.num_row_groups)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"{input.path} is corrupt or no Parquet, after row {number} ({reason}): fetch it again"
        ) from error


def _mds(source: Source, input: Input, advance: Advance) -> Iterator[tuple[int, dict[str, Any]]]:
    fields = (source.text_field, source.id_field, source.language_field)
    shard = open_mds(input)
    wanted = [field for field in fields if field is not None]
    if source.text_field not in (column.name for column in shard.columns):
        wanted = [column.name for column in shard.columns]  # the message about the first row names them all
    yield from enumerate(shard.rows(wanted))
    advance(input.size)


def open_mds(input: Input) -> MdsShard:
    """A shard of the form ``mds``: mapped into memory if it lies here uncompressed, else read into it."""
    assert input.shard is not None, "an input of this form has an entry in its index"
    if input.revision is None and input.path.endswith(".mds") and input.size:
        return MdsShard(
            unpack(np.memmap(Path(input.path), np.uint8, "r"), input.shard, input.path), input.shard, input.path
        )
    with input.open() as file:
        return MdsShard(unpack(file.read(), input.shard, input.path), input.shard, input.path)


def _lines(input: Input, advance: Advance) -> Iterator[tuple[int, str]]:
    """Numbered lines, without their ends; only ``\\n`` divides them (a text may hold U+2028)."""
    for number, line in enumerate(split_lines(_chunks(input, advance)), 1):
        yield number, _decode(input, number, line)


def _decode(input: Input, number: int, line: bytes) -> str:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{input.path}:{number}: not UTF-8 at byte {error.start + 1} of the line (0x{line[error.start]:02x}): "
            "convert the file or remove the line"
        ) from error
    return text.removeprefix("\ufeff") if number == 1 else text


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their ends, out of chunks that are cut anywhere."""
    parts: list[bytes] = []  # of a line that goes on
    for chunk in chunks:
        first, newline, rest = chunk.partition(b"\n")
        parts.append(first)
        if newline:
            yield b"".join(parts)
            *lines, last = rest.split(b"\n")
            yield from lines
            parts = [last]
    if last := b"".join(parts):
        yield last


def _chunks(input: Input, advance: Advance) -> Iterator[bytes]:
    return decompress(_raw_chunks(input, advance), input.name, input.path)


def decompress(chunks: Iterator[bytes], name: str, path: str) -> Iterator[bytes]:
    """What a file holds, by the end of its name: ``.gz``, ``.zst``, else as it is. ``path`` names it in errors.

    Raises DataError for one that is corrupt or cut short.
    """
    if name.endswith(".gz"):
        return _decompress(chunks, partial(zlib.decompressobj, wbits=31), path)
    if name.endswith(".zst"):
        decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
        return _decompress(chunks, decompressor.decompressobj, path)
    return chunks


def _raw_chunks(input: Input, advance: Advance) -> Iterator[bytes]:
    try:
        with input.open() as file:
            while chunk := file.read(_CHUNK):
                yield chunk
                advance(len(chunk))
    except OSError as error:
        raise DataError(f"cannot read {input.path}: {error.strerror or error}") from error


def _decompress(chunks: Iterable[bytes], new: Callable[[], Any], path: str) -> Iterator[bytes]:
    """Members (gzip) or frames (zstd) one after the other. zstandard's own reader takes a cut file for a whole one."""
    stream: Any = None
    try:
        for chunk in chunks:
            rest = chunk
            while rest:
                stream = stream or new()
                if data := stream.decompress(rest):
                    yield data
                rest = b""
                if stream.eof:
                    rest, stream = stream.unused_data.lstrip(b"\0"), None
    except (zlib.error, zstandard.ZstdError) as error:
        raise DataError(f"{path} is corrupt ({error}): copy or download it again") from error
    if stream is not None:
        raise DataError(f"{path} is cut short: copy or download it again")


_READERS = {"jsonl": _jsonl, "parquet": _parquet, "mds": _mds}
