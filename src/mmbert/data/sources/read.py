"""The documents of any source as one stream.

``source_inputs`` lists the files of a source with their languages; ``read_input`` streams the documents of one, through
the readers of ``mmbert.io``. Whatever is wrong with a file is a DataError that names the file and the line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np

from mmbert.data.document import Document
from mmbert.data.sources.catalogs import read_catalogs
from mmbert.data.sources.hub_datasets import hub_errors, hub_inputs
from mmbert.data.sources.inputs import Input, canonical_code, local_inputs
from mmbert.data.sources.mds import MdsShard, unpack
from mmbert.errors import DataError
from mmbert.io.row_errors import Numbered, Row, RowFaults, as_name, no_text
from mmbert.io.rows import json_rows, parquet_rows
from mmbert.io.stream import BOM, LONGEST, Advance, decode, read_lines, too_long
from mmbert.recipe import Source

_BLANK = frozenset((*range(0x21), 0xC2, 0xE1, 0xE2, 0xE3, 0xEF))
"""First bytes of white space in UTF-8, and of a byte order mark: a line that begins with another is not blank."""


def read(source_name: str, source: Source, *, heldout: bool = False) -> Iterator[Document]:
    """Yield all documents of a source, or of its ``heldout`` text. Raises DataError with file and line."""
    if source.kind == "catalogs":
        yield from read_catalogs(source_name, source.packages)
        return
    yield from read_inputs(source_name, source, source_inputs(source_name, source, heldout=heldout))


def source_inputs(source_name: str, source: Source, *, heldout: bool = False) -> list[Input]:
    """Return the files of a source (none for ``catalogs``), sorted by language and name."""
    if source.kind == "catalogs":
        return []
    return (hub_inputs if source.kind == "hub" else local_inputs)(source_name, source, heldout=heldout)


def read_inputs(
    source_name: str, source: Source, inputs: list[Input], advance: Advance = lambda size: None
) -> Iterator[Document]:
    """Yield the documents of some files of a source, one after the other; bad rows are counted over all of them."""
    faults = RowFaults(f"sources.{source_name}", source.skip_bad_rows)
    for input in inputs:
        yield from read_input(source_name, source, input, advance, faults)
    faults.report()


def read_input(
    source_name: str,
    source: Source,
    input: Input,
    advance: Advance = lambda size: None,
    faults: RowFaults | None = None,
) -> Iterator[Document]:
    """Yield the documents of one file. Bad rows go to ``faults``, or without it are reported at the end of the file."""
    if faults is None:
        yield from read_inputs(source_name, source, [input], advance)
        return
    with hub_errors(source) if source.kind == "hub" else nullcontext():
        if input.form == "text":
            lines = _paragraphs(source_name, input, advance)
            yield from faults.keep(lines, partial(_paragraph, source_name, input))
        else:
            rows = _rows(source, input, advance, faults)
            yield from faults.keep(rows, _document_maker(source_name, source, input))


def _rows(source: Source, input: Input, advance: Advance, faults: RowFaults) -> Iterator[Numbered]:
    def choose(names: list[str]) -> list[str]:
        """Return the columns to read; without a text column all, since the message about the first row lists them."""
        wanted = (source.text_field, source.id_field, source.language_field)
        return [name for name in names if name in wanted] if source.text_field in names else names

    if input.form == "jsonl":
        return json_rows(read_lines(input.open, input.path, advance), input.path, faults)
    if input.form == "parquet":
        return parquet_rows(input.open, input.path, faults, choose, advance)
    shard = open_mds(input)
    advance(input.size)
    return enumerate(shard.rows(choose([column.name for column in shard.columns])))


def _document_maker(source_name: str, source: Source, input: Input) -> Callable[[Numbered], Document]:
    """Return what makes a document of a row; the options are looked up once, since rows are many."""
    text_field, id_field, known = source.text_field, source.id_field, input.language

    def make(numbered: Numbered) -> Document:
        number, row = numbered
        text = row.get(text_field)
        if not isinstance(text, str):
            fix = f"set sources.{source_name}.text_field, or .skip_bad_rows to pass over such rows"
            raise no_text(row, text_field, f"{input.path}:{number}", fix)
        language = known or _language(source_name, source, f"{input.path}:{number}", row)
        id = None if id_field is None else row.get(id_field)
        if id is None:
            return Document(text, f"{input.name}:{number}", language, source_name)
        # as text that any file can hold
        return Document(text, as_name(id).encode("utf-8", "backslashreplace").decode(), language, source_name)

    return make


def _language(source_name: str, source: Source, where: str, row: Row) -> str:
    assert source.language_field is not None, "files without a language need the field"
    code = row.get(source.language_field)
    if not isinstance(code, str):
        raise DataError(
            f"{where}: no language in field {source.language_field!r}, there are {', '.join(map(repr, row))}: "
            f"set sources.{source_name}.language_field"
        )
    return canonical_code(code, f"{where}, field {source.language_field!r}")


def _paragraphs(source_name: str, input: Input, advance: Advance) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the lines between lines of white space, with the number of the first."""
    if input.language is None:
        raise DataError(
            f"{input.path}: plain text has no fields: set sources.{source_name}.language, not language_field"
        )
    gathered: list[bytes] = []
    start = size = 0
    for number, line in enumerate(read_lines(input.open, input.path, advance), 1):
        if (line and line[0] not in _BLANK) or line.decode(errors="replace").lstrip(BOM).strip():
            start = start if gathered else number
            gathered.append(line)
            if (size := size + len(line)) > LONGEST:
                raise too_long(f"{input.path}:{start}", "the paragraph from here on")
        elif gathered:
            yield start, gathered
            gathered, size = [], 0
    if gathered:
        yield start, gathered


def _paragraph(source_name: str, input: Input, numbered: tuple[int, list[bytes]]) -> Document:
    """Return a document of the lines between blank lines, with the number of its first line as id."""
    number, lines = numbered
    text = decode(b"\n".join(lines), input.path, number)
    if "\r" in text or BOM in text:
        text = "\n".join(line.lstrip(BOM).rstrip("\r") for line in text.split("\n"))
    return Document(text, f"{input.name}:{number}", str(input.language), source_name)


def open_mds(input: Input) -> MdsShard:
    """Return an MDS shard: memory-mapped if it is a local uncompressed file, else read into memory."""
    assert input.shard is not None, "an input of this form has an entry in its index"
    if input.revision is None and input.path.endswith(".mds") and input.size:
        return MdsShard(
            unpack(np.memmap(Path(input.path), np.uint8, "r"), input.shard, input.path), input.shard, input.path
        )
    with input.open() as file:
        return MdsShard(unpack(file.read(), input.shard, input.path), input.shard, input.path)
