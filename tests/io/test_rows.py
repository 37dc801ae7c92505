"""The same rows in every form and compression are read alike by every reader, and what is wrong has its place."""

from __future__ import annotations

import bz2
import csv
import datetime
import gzip
import io
import json
import logging
import lzma
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from mmbert.cli.input import open_lines, read_records
from mmbert.data.sources.read import read
from mmbert.errors import DataError
from mmbert.finetuning.examples import read_examples
from mmbert.finetuning.labels import Fields, as_label
from mmbert.finetuning.recipe_data import DataSpec
from mmbert.io import delimited, stream
from mmbert.io import rows as rows_module
from mmbert.io.row_errors import RowFaults, as_name
from mmbert.io.rows import read_rows
from mmbert.recipe import Source

Rows = list[dict[str, Any]]
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data, ".gz": gzip.compress, ".zst": zstandard.compress, ".xz": lzma.compress, ".bz2": bz2.compress
}  # fmt: skip


def write(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def encoded(rows: Rows, form: str) -> bytes:
    if form == "json":
        return json.dumps(rows, ensure_ascii=False, indent=random.Random(len(rows)).choice([None, 1])).encode()
    if form in ("csv", "tsv"):
        names, text = list(rows[0]), io.StringIO()
        if form == "csv":
            csv.writer(text).writerows([names, *([row[name] for name in names] for row in rows)])
        else:
            cells = [names, *([row[name] or "" for name in names] for row in rows)]
            text.write("".join("\t".join(line) + "\n" for line in cells))
        return text.getvalue().encode()
    if form == "parquet":
        out = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(rows), out, row_group_size=2)
        return out.getvalue()
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def read_all(path: Path, **options: Any) -> Rows:
    return [row for _, row in read_rows(path, **options)]


TEXTS = st.text(
    st.one_of(
        st.sampled_from("\",;'{}[]\u2028\u0085\x0b\x1c\u00a0\u3000\ufeff\\/#"), st.characters(exclude_categories=["Cs"])
    ),
    min_size=1,
    max_size=12,
).map(lambda text: "a" + text.translate({9: None, 10: None, 13: None}))  # TSV holds neither tabs nor ends of lines
ROWS = st.lists(
    st.fixed_dictionaries({"text": TEXTS, "label": TEXTS, "more": st.none() | TEXTS}), min_size=1, max_size=4
)


@settings(deadline=None, max_examples=25)
@given(ROWS, st.sampled_from(list(PACK)), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_every_reader_reads_alike(rows: Rows, ending: str, encoding: str) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as made:
        for form in ("jsonl", "ndjson", "json", "csv", "tsv", "parquet"):
            data, name = encoded(rows, form), f"fao_Latn.{form}"
            if form != "parquet":
                data, name = PACK[ending](data.decode().encode(encoding)), name + ending.upper()
            path = write(Path(made), name, data)
            assert read_all(path) == rows
            found = read_examples(DataSpec(path=str(path)), "train", Fields(("text", "label"), ("more",))).rows
            assert [{**row, "more": row.get("more")} for row in found] == [
                {**row, "place": place["place"], "language": "fao_Latn"} for row, place in zip(rows, found, strict=True)
            ]
            assert [line.value for line in open_lines(str(path))] == rows
            assert [record["text"] for record in read_records([str(path)], "text", "id")] == [r["text"] for r in rows]
            if form not in ("csv", "tsv"):
                kind = "parquet" if form == "parquet" else "jsonl"
                documents = read("s", Source.model_validate({"kind": kind, "path": str(path)}))
                assert [document.text for document in documents] == [row["text"] for row in rows]


def test_compression_is_told_by_the_content(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": "b"}]
    for ending, pack in PACK.items():
        for name in ("x.csv", "x.csv.gz", "x.CSV.GZ", "x.csv.zst", "x.csv.bz2"):
            assert read_all(write(tmp_path, name, pack(encoded(rows, "csv")))) == rows, (ending, name)


def test_files_that_were_put_together(tmp_path: Path) -> None:
    one, mark = b'{"text": "one"}\n', b"\xef\xbb\xbf"
    for pack in PACK.values():
        path = write(tmp_path, "a.jsonl", pack(mark + one) + pack(mark + one))
        assert read_all(path) == [{"text": "one"}] * 2
    table = mark + b"text,label\na,b\n"
    with pytest.raises(
        DataError, match=r"a\.csv:3: the names of the columns again, .*: if the file was cut|remove the"
    ):
        read_all(write(tmp_path, "a.csv", table + table))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", ",text,label\n0,hello,a\n1,,\n"),
        ("a.csv", "text,label,\nhello,a,\n"),
        ("a.csv", "text,label\nhello,a,\n,,\n"),
        ("a.tsv", "\ttext\tlabel\n0\thello\ta\n"),
        ("a.csv", "text,,label\nhello,x,a\n\n\r\n"),
        ("a.csv", "text,label,,\nhello,a\n"),
        ("a.csv", 'text,label\r\n"hello",a\r\n'),
        ("a.csv", '\n\ntext,label\n"hello","a"'),
        ("a.csv", " ,text,label\n,hello,a"),
    ],
)
def test_columns_without_a_name(tmp_path: Path, name: str, data: str) -> None:
    assert read_all(write(tmp_path, name, data))[0] == {"text": "hello", "label": "a"}


def test_cells(tmp_path: Path) -> None:
    long, limit = "word " * 28_000, csv.field_size_limit()
    data = f'text,label\n"{long}",a\n"two\r\nlines, ""and"" more","b"\n5" pipe,c\n"",d\n" x ",\n'
    numbered = list(read_rows(write(tmp_path, "a.csv", data)))
    assert [(number, row["text"]) for number, row in numbered] == [
        (2, long), (3, 'two\r\nlines, "and" more'), (5, '5" pipe'), (6, None), (7, " x ")
    ]  # fmt: skip
    assert csv.field_size_limit() == limit
    assert read_all(write(tmp_path, "a.tsv", f'text\tlabel\n{long}\t"a"\n'))[0] == {"text": long, "label": '"a"'}


JSON = '{"text": "a"}\n'
BAD_ROWS = {
    "more cells": ("a.csv", "text,label\na,b\nc,d,e\nf,g\n", "a.csv:3: more values than the 2 columns"),
    "fewer cells": ("a.tsv", "text\tlabel\na\tb\nc\nf\tg\n", r"a.tsv:3: fewer values than the 2 columns .*: fix or"),
    "stray mark": ("a.csv", 'text,label\na,b\n"c"d,e\nf,g\n', r"a.csv:3: \"d,e\" follows a closing quotation mark"),
    "not UTF-8": ("a.csv", b'text,label\na,b\n"c\n\xe9",e\nf,g\n', "a.csv:4: not UTF-8 at byte 1 of the line"),
    "not JSON": ("a.jsonl", JSON + "{\n" + JSON, r"a.jsonl:2: not JSON .*: fix or remove the line"),
    "JSON at the end": ("a.jsonl", JSON * 2 + '{"te', r"a.jsonl:3: not JSON .*: if the file was cut here, copy it"),
    "no object": ("a.jsonl", JSON + "[1]\n" + JSON, r"a.jsonl:2: \[1\] is not a JSON object"),
    "not UTF-8 in JSON": ("a.jsonl", JSON.encode() * 2 + b'{"text": "\xff"}\n', "a.jsonl:3: not UTF-8 at byte 11"),
    "in a list": ("a.json", '[{"text": "a"}, 7, {"text": "a"}]', "a.json:2: 7 is not a JSON object"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD_ROWS))
def test_bad_rows_stop_or_are_counted(tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture) -> None:
    name, data, said = BAD_ROWS[case]
    path = write(tmp_path, name, data)
    with pytest.raises(DataError, match=said):
        read_all(path)
    faults = RowFaults("data.train", skip=True)
    with caplog.at_level(logging.WARNING, "mmbert"):
        assert len(list(faults.keep(read_rows(path, faults), lambda row: row))) == 2
        faults.report()
    assert f"data.train: 1 bad rows of 3 passed over; the first: {tmp_path}/{name}:" in caplog.text


BAD_FILES = {
    "cut list": ("a.json", '[{"text": "a"}, {"te', r"a.json is not a JSON list .*the list has no end: copy"),
    "list": ("a.json", '[{"text": "a"} {}]', r"a.json is not a JSON list .*: fix it"),
    "open mark": ("a.csv", 'text,label\n"a,b\nc,d\n', "a.csv:2: a quotation mark is opened here and never closed"),
    "two columns": ("a.csv", "text,text\na,b\n", "a.csv has two columns 'text': rename or remove one"),
    "carriage returns": ("a.csv", "text,label\ra,b\rc,d", r"a.csv:1: its lines end in \\r alone"),
    "Excel": ("a.csv", b"PK\x03\x04etc", r"a.csv is a zip archive \(or an Excel workbook\)"),
    "no Parquet": ("a.parquet", "text", r"a.parquet is corrupt or no Parquet, after row 0 \(.*\): copy or download"),
    "cut": ("a.csv.zst", zstandard.compress(b"text,label\n" + b"a,b\n" * 9000)[:-4], "a.csv.zst is cut short: copy or"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD_FILES))
def test_bad_files_always_stop(tmp_path: Path, case: str) -> None:
    name, data, said = BAD_FILES[case]
    path = write(tmp_path, name, data)
    for skip in (False, True):
        with pytest.raises(DataError, match=said):
            read_all(path, faults=RowFaults("x", skip))


def test_where_all_rows_are_bad_the_cause_is_another(tmp_path: Path) -> None:
    path = write(tmp_path, "fao_Latn.jsonl", '{"body": "a"}\n' * 3)
    source = Source(kind="jsonl", path=str(path), skip_bad_rows=True)
    with pytest.raises(DataError, match=r"all 3 rows are bad, the first: .*:1: no field 'text', there are 'body'"):
        list(read("s", source))
    with pytest.raises(DataError, match=r"all 3 rows are bad, .*:1: no column for 'text'"):
        read_examples(DataSpec(path=str(path), skip_bad_rows=True), "train", Fields(("text",)))


def test_skipping_in_every_reader(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = ['{"text": "a", "id": 1.0}', '{"text": null}', "{", '{"text": NaN}', '{"text": 5}', '{"text": "b", "id": 2}']
    path = write(tmp_path, "fao_Latn.jsonl", "\n".join(rows))
    documents = list(read("s", Source(kind="jsonl", path=str(tmp_path), skip_bad_rows=True)))
    assert [(document.id, document.text) for document in documents] == [("1", "a"), ("2", "b")]
    assert "sources.s: 4 bad rows of 6 passed over; the first: " in caplog.text
    records = list(read_records([str(path)], "text", "id", skip_bad_rows=True))
    assert [(record["id"], record["text"]) for record in records] == [(1, "a"), (2, "b")]
    spec = DataSpec(path=str(path), skip_bad_rows=True)
    assert [row["text"] for row in read_examples(spec, "train", Fields(("text",))).rows] == ["a", 5, "b"]
    text = write(tmp_path, "a.txt", b"one\n\xff\n\nthree\n")
    assert [line.value for line in open_lines(str(text), faults=RowFaults("x", True))] == ["one", "", "three"]
    paragraphs = Source(kind="text", path=str(text), language="fao", skip_bad_rows=True)
    assert [document.text for document in read("s", paragraphs)] == ["three"]


class TestParquet:
    def test_what_is_no_text_is_named(self, tmp_path: Path) -> None:
        values = {"bytes": b"abc", "date": datetime.date(2024, 1, 1), "list": ["a"], "struct": {"a": 1}, "int": 3}
        for name, value in values.items():
            path = tmp_path / f"fao_Latn.{name}.parquet"
            parquet.write_table(pyarrow.table({"text": [value]}), path)
            with pytest.raises(DataError, match=rf"{name}\.parquet:1: field 'text' holds .*, not text: set sources\.s"):
                list(read("s", Source(kind="parquet", path=str(path))))
            with pytest.raises(DataError, match=rf"{name}\.parquet:1: text is {type(value).__name__}, not text"):
                [line.text() for line in open_lines(str(path))]

    def test_cells_that_python_cannot_hold(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        early = pyarrow.array([0, -(10**6), 1], pyarrow.int32()).cast(pyarrow.date32())
        broken = pyarrow.array([b"a", b"\xff", b"c"]).view(pyarrow.string())
        parquet.write_table(pyarrow.table({"text": ["a", "b", "c"], "date": early}), path)
        assert read_all(path, choose=lambda names: ["text"]) == [{"text": "a"}, {"text": "b"}, {"text": "c"}]
        with pytest.raises(DataError, match=r"a\.parquet:2: column 'date' holds a date32\[day\] that cannot be read"):
            read_all(path)
        parquet.write_table(pyarrow.table({"text": broken}), path)
        with pytest.raises(DataError, match=r"a\.parquet:2: column 'text' holds a string that cannot be read"):
            read_all(path)
        assert [row["text"] for row in read_all(path, faults=RowFaults("x", True))] == ["a", "c"]

    def test_columns(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        table = pyarrow.table([["a"], ["b"]], names=["text", "text"])
        parquet.write_table(table, path)
        with pytest.raises(DataError, match=r"a\.parquet has two columns 'text'"):
            read_all(path)
        parquet.write_table(pyarrow.table({"__index_level_0__": [5], "text": ["a"], "label": [float("nan")]}), path)
        assert read_all(path) == [{"text": "a", "label": None}]


def test_numbers(tmp_path: Path) -> None:
    big = 123456789012345678901234567890
    data = f'{{"text": "a", "id": {big}}}\n{{"text": "b", "id": 7.0, "x": NaN}}\n{{"text": "c", "id": 1e3}}\n'
    path = write(tmp_path, "fao_Latn.jsonl", data)
    assert read_all(path)[0]["id"] == big
    assert read_all(path)[1]["x"] is None
    assert [document.id for document in read("s", Source(kind="jsonl", path=str(path)))] == [str(big), "7", "1000"]
    assert [as_name(value) for value in (1, 1.0, True, "1.0", 1.5, float("inf"))] == [
        "1",
        "1",
        "true",
        "1.0",
        "1.5",
        "inf",
    ]
    assert [as_label(value) for value in (1, 1.0, "1.0", "-2.00", "1.05", "v1.0", False)] == [
        "1", "1", "1", "-2", "1.05", "v1.0", "false"
    ]  # fmt: skip


def test_words_are_divided_by_the_space_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", "tokens\ttags\n10\u00a0000 Øll\u3000um  b \tO O O\n")
    fields = Fields(("tokens", "tags"), (), ("tokens", "tags"))
    (row,) = read_examples(DataSpec(path=str(path)), "train", fields).rows
    assert (row["tokens"], row["tags"]) == (["10\u00a0000", "Øll\u3000um", "b"], ["O", "O", "O"])


def test_lines_of_small_files(tmp_path: Path) -> None:
    from mmbert.data.counts import read_counts
    from mmbert.evaluation.retrieval import read_pairs
    from mmbert.evaluation.summary import read_tiers
    from mmbert.files import read_json
    from mmbert.recipe import Counts
    from mmbert.recipe_file import read_languages

    mark = "\ufeff"
    assert read_languages(tmp_path, str(write(tmp_path, "l.txt", mark + "eng_Latn # a\nfao_Latn\n"))) == [
        "eng_Latn",
        "fao_Latn",
    ]
    table = write(tmp_path, "t.tsv", mark + "code\ttier\neng_Latn\tlarge\nfao_Latn\tsmall\n")
    assert read_languages(tmp_path, "t.tsv#tier=small") == ["fao_Latn"]
    assert read_tiers(table) == {"eng_Latn": "large", "fao_Latn": "small"}
    write(tmp_path, "c.tsv", mark + "# comment\nlanguage\ttokens\nfao_Latn\t4\nfra_Latn\t\n")
    assert read_counts(tmp_path, Counts(file="c.tsv", column="tokens", drawn_at=0.5)) == {"fao_Latn": 16.0}
    assert read_json(write(tmp_path, "c.json", (mark + '{"a": 1}').encode("utf-16"))) == {"a": 1}
    pairs = "".join(json.dumps({"text": f"orð {i}", "english": f"word {i}"}) + "\n" for i in range(12))
    folder = tmp_path / "parallel"
    folder.mkdir()
    write(folder, "fao_Latn.jsonl.zst", zstandard.compress((mark + pairs).encode()))
    write(folder, "._fao_Latn.jsonl", "\0")
    assert len(read_pairs(folder, 100)["fao_Latn"]) == 12


def test_places_in_every_reader(tmp_path: Path) -> None:
    row, junk = '{"text": "a", "label": "b"}\n', b"\0\5\x16\7\0\2\0\0Mac OS X        \xff\xfe"
    root = tmp_path / "[2024] data"
    for name in ("fao_Latn/train.jsonl", "fra_Latn/TRAIN.JSONL"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write(root, name, row)
    for name in (
        "._x.jsonl",
        "fao_Latn/._train.jsonl",
        "__MACOSX/fao_Latn/train.jsonl",
        ".ipynb_checkpoints/train.jsonl",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write(root, name, junk)
    for place in (str(root), f"{root}/*/*.[jJ]*"):
        documents = list(read("s", Source(kind="jsonl", path=place)))
        assert [document.language for document in documents] == ["fao_Latn", "fra_Latn"]
        found = read_examples(DataSpec(path=place), "train", Fields(("text", "label")))
        assert found.languages == ["fao_Latn", "fra_Latn"]
    assert [record["text"] for record in read_records([str(root)], "text", "id")] == ["a", "a"]


def test_damaged_parquet_with_checksums_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = {"text": [f"text number {number} of words" for number in range(2000)], "label": list(range(2000))}
    parquet.write_table(pyarrow.table(rows), path, write_page_checksum=True)
    whole, wanted = path.read_bytes(), list(read_rows(path))
    draw, named = random.Random(0), 0
    for _ in range(80):
        content = bytearray(whole)
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        try:
            assert list(read_rows(path)) == wanted
        except DataError:
            named += 1
    assert named > 60


@pytest.mark.parametrize(
    ("name", "head", "said"),
    [
        ("a.jsonl", b'{"a": 1}\n', "2: this line has more than 1 MiB"),
        ("a.json", b'[{"a": 1},\n', " the text, which is read as a whole, has more than 1 MiB"),
        ("a.csv", b'a,b\n"', "2: the cell that a quotation mark opens here has more than 1 MiB"),
    ],
)
def test_more_than_memory_should_hold_is_an_error_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, head: bytes, said: str
) -> None:
    for module in (stream, delimited):
        monkeypatch.setattr(module, "LONGEST", 1 << 20)
    monkeypatch.setattr(rows_module, "LONGEST", 1 << 18)
    path = tmp_path / name
    tail = b"x" * (1 << 22) if name == "a.jsonl" else (b"x" * 1000 + b"\n") * (1 << 12)
    path.write_bytes(zstandard.compress(head + tail))
    with pytest.raises(DataError, match=f"{path}:{said}"):
        list(read_rows(path))


def test_lines_of_text_are_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress("\ufeffone\r\n\n \n  Τι κάνεις; \nlast".encode()))
    assert list(read_rows(path)) == [(1, {"text": "one"}), (4, {"text": "Τι κάνεις;"}), (5, {"text": "last"})]
    path.write_bytes(gzip.compress(b"one\n\xff\n"))
    with pytest.raises(DataError, match=r"a\.txt\.gz:2: not UTF-8 at byte 1"):
        list(read_rows(path))


def test_a_file_is_closed_before_its_last_rows_are_used(tmp_path: Path) -> None:
    """Whoever stops in the middle of them leaves no open file behind."""
    path, opened = tmp_path / "a.jsonl", []
    path.write_text('{"text": "a"}\n{"text": "b"}\n')

    def open_it() -> Any:
        opened.append(path.open("rb"))
        return opened[-1]

    rows = read_rows(path, opened=open_it)
    assert next(rows)[1] == {"text": "a"}
    assert opened[0].closed
    assert next(rows)[1] == {"text": "b"}
