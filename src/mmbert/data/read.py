"""Raw text of any source as a stream of documents.

``source_inputs`` lists the files of a source with their languages; ``read_input`` streams the documents of one, through
the readers of ``mmbert.io``. Whatever is wrong with a file is a DataError that names the file and the line.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from mmbert.data.catalogs import read_catalogs
from mmbert.data.document import Document
from mmbert.data.hub import hub_errors, hub_inputs
from mmbert.data.inputs import Input, house_code, local_inputs
from mmbert.data.mds import MdsShard, unpack
from mmbert.errors import DataError
from mmbert.io.faults import Numbered, RowFaults, as_name, text_of
from mmbert.io.rows import json_rows, parquet_rows
from mmbert.io.stream import BOM, Advance, decode, split_lines, utf8_chunks
from mmbert.recipe import Source


def read(source_name: str, source: Source, *, heldout: bool = False) -> Iterator[Document]:
    """All documents of a source, or of its ``heldout`` text. Raises DataError naming file and line of what is wrong."""
    if source.kind == "catalogs":
        yield from read_catalogs(source_name, source.packages)
        return
    yield from read_inputs(source_name, source, source_inputs(source_name, source, heldout=heldout))


def source_inputs(source_name: str, source: Source, *, heldout: bool = False) -> list[Input]:
    """The files of a source (none for ``catalogs``), sorted by language and name."""
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
    """The documents of one file. Bad rows are told to ``faults``; without it they are reported at the file's end."""
    if faults is None:
        yield from read_inputs(source_name, source, [input], advance)
        return
    with hub_errors(source) if source.kind == "hub" else nullcontext():
        if input.form == "text":
            yield from _text(source_name, input, advance, faults)
        else:
            yield from faults.keep(
                _rows(source, input, advance, faults), lambda row: _document(source_name, source, input, *row)
            )


def _rows(source: Source, input: Input, advance: Advance, faults: RowFaults) -> Iterator[Numbered]:
    def choose(names: list[str]) -> list[str]:
        """Of columns; all of them where there is no text, since the message about the first row names them."""
        wanted = (source.text_field, source.id_field, source.language_field)
        return [name for name in names if name in wanted] if source.text_field in names else names

    if input.form == "jsonl":
        return json_rows(split_lines(utf8_chunks(input.open, input.path, advance)), input.path, faults)
    if input.form == "parquet":
        return parquet_rows(input.open, input.path, faults, choose, advance)
    shard = open_mds(input)
    advance(input.size)
    return enumerate(shard.rows(choose([column.name for column in shard.columns])))


def _document(source_name: str, source: Source, input: Input, number: int, row: dict[str, Any]) -> Document:
    where = f"{input.path}:{number}"
    text = text_of(
        row, source.text_field, where, f"set sources.{source_name}.text_field, or .skip_bad_rows to pass over such rows"
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
    return as_name(value).encode("utf-8", "backslashreplace").decode()


def _text(source_name: str, input: Input, advance: Advance, faults: RowFaults) -> Iterator[Document]:
    """Documents between blank lines; each is named by its first line's number."""
    if input.language is None:
        raise DataError(
            f"{input.path}: plain text has no fields: set sources.{source_name}.language, not language_field"
        )
    yield from faults.keep(
        _paragraphs(input, advance),
        lambda lines: Document(
            "\n".join(decode(line, input.path, number).rstrip("\r") for number, line in lines),
            f"{input.name}:{lines[0][0]}",
            str(input.language),
            source_name,
        ),
    )


def _paragraphs(input: Input, advance: Advance) -> Iterator[list[tuple[int, bytes]]]:
    """Yield the numbered lines between lines of white space."""
    gathered: list[tuple[int, bytes]] = []
    for number, line in enumerate(split_lines(utf8_chunks(input.open, input.path, advance)), 1):
        if not _is_blank(line):
            gathered.append((number, line))
        elif gathered:
            yield gathered
            gathered = []
    if gathered:
        yield gathered


def _is_blank(line: bytes) -> bool:
    first = line.strip()[:1]
    return not first or (first >= b"\x80" and not line.decode(errors="replace").lstrip(BOM).strip())


def open_mds(input: Input) -> MdsShard:
    """A shard of the form ``mds``: mapped into memory if it lies here uncompressed, else read into it."""
    assert input.shard is not None, "an input of this form has an entry in its index"
    if input.revision is None and input.path.endswith(".mds") and input.size:
        return MdsShard(
            unpack(np.memmap(Path(input.path), np.uint8, "r"), input.shard, input.path), input.shard, input.path
        )
    with input.open() as file:
        return MdsShard(unpack(file.read(), input.shard, input.path), input.shard, input.path)
