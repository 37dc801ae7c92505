"""Sources of every form become documents, and whatever is wrong with a file is one line with its place."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path

import pytest
import zstandard

from mmbert.data.sources.hub_datasets import HubFile, hub_errors, remote_inputs, select, split_of
from mmbert.data.sources.read import read, read_input
from mmbert.errors import DataError, MissingExtra
from mmbert.recipe import Source

FAROESE = "Øll menniskju eru fødd fræls."
FIX = "set sources.s.text_field, or .skip_bad_rows to pass over such rows"
FRENCH = "Tous les êtres humains naissent libres."


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def documents(path: Path | str, kind: str = "jsonl", **options: object) -> list[tuple[str, str, str]]:
    source = Source.model_validate({"kind": kind, "path": str(path), **options})
    return [(document.language, document.id, document.text) for document in read("s", source)]


def fault(path: Path | str, kind: str = "jsonl", **options: object) -> str:
    with pytest.raises(DataError) as caught:
        documents(path, kind, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


class TestJsonl:
    @pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
    def test_plain_and_compressed_read_alike(self, tmp_path: Path, suffix: str) -> None:
        rows = [{"id": i, "text": f"{FAROESE} {i}\u2028"} for i in range(9000)]
        data = lines(*rows)
        assert len(data) > 2 * 2**18  # several chunks, whose borders cut lines and characters
        half = len(data) // 2  # compressed in two members, as a file that was appended to
        pack = {"": lambda b: b, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[suffix]
        (tmp_path / f"fao_Latn.jsonl{suffix}").write_bytes(pack(data[:half]) + pack(data[half:]))
        assert documents(tmp_path) == [("fao_Latn", str(i), f"{FAROESE} {i}\u2028") for i in range(9000)]

    def test_order_does_not_depend_on_the_file_system(self, tmp_path: Path) -> None:
        for name in ("fra_Latn", "fao_Latn", "b/fao_Latn", "a/fra_Latn"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / f"{name}.jsonl").write_bytes(lines({"id": name, "text": name}))
        (tmp_path / "languages.tsv").write_text("not text to train on")
        expected = ["b/fao_Latn", "fao_Latn", "a/fra_Latn", "fra_Latn"]
        assert [id for _, id, _ in documents(tmp_path)] == expected
        assert [id for _, id, _ in documents(f"{tmp_path}/*/*.jsonl")] == ["b/fao_Latn", "a/fra_Latn"]
        assert [id for _, id, _ in documents(tmp_path / "fra_Latn.jsonl")] == ["fra_Latn"]

    def test_language_by_option_field_name_and_folder(self, tmp_path: Path) -> None:
        (tmp_path / "fr.jsonl").write_bytes(lines({"text": FRENCH, "lang": "fo"}))
        deep = tmp_path / "data" / "fao_Latn" / "train"
        deep.mkdir(parents=True)
        (deep / "0001.jsonl").write_bytes(lines({"text": FAROESE}))
        assert [language for language, _, _ in documents(tmp_path)] == ["fao_Latn", "fra"]
        assert documents(tmp_path / "fr.jsonl", language_field="lang")[0][0] == "fao"
        assert documents(tmp_path / "fr.jsonl", language="deu_Latn")[0][0] == "deu_Latn"

    def test_documents_without_an_id_are_named_by_file_and_line(self, tmp_path: Path) -> None:
        data = b"\xef\xbb\xbf" + lines({"body": "a"}) + b"\n\r\n" + lines({"body": "b"})
        (tmp_path / "fao_Latn.jsonl").write_bytes(data)
        found = documents(tmp_path, text_field="body")
        assert [(id, text) for _, id, text in found] == [("fao_Latn.jsonl:1", "a"), ("fao_Latn.jsonl:4", "b")]

    def test_a_lone_surrogate_is_read_for_cleaning_to_drop(self, tmp_path: Path) -> None:
        (tmp_path / "fao_Latn.jsonl").write_bytes(b'{"text": "\\ud800", "id": "\\udc00"}\n')
        assert documents(tmp_path) == [("fao_Latn", "\\udc00", "\ud800")]


class TestFaults:
    def test_missing(self, tmp_path: Path) -> None:
        assert f"no such file or folder: {tmp_path}/none (sources.s.path)" in fault(tmp_path / "none")
        assert "holds no file ending in .jsonl" in fault(tmp_path)
        assert "no file matches" in fault(f"{tmp_path}/*.jsonl")

    @pytest.mark.parametrize("suffix", [".gz", ".zst"])
    def test_cut_and_corrupt_archives(self, tmp_path: Path, suffix: str) -> None:
        rows = lines(*({"text": f"{FAROESE} {i * 7919}"} for i in range(2000)))
        data = gzip.compress(rows) if suffix == ".gz" else zstandard.ZstdCompressor(write_checksum=True).compress(rows)
        path = tmp_path / f"fao_Latn.jsonl{suffix}"
        path.write_bytes(data[: len(data) // 2])
        assert fault(tmp_path) == f"{path} is cut short: copy or download it again"
        path.write_bytes(data[:-3])
        assert fault(tmp_path) == f"{path} is cut short: copy or download it again"
        place = -8 if suffix == ".gz" else -2  # in the checksum
        path.write_bytes(bytes([*data[:place], data[place] ^ 1, *data[place + 1 :]]))
        assert fault(tmp_path).startswith(f"{path} is corrupt")
        path.write_bytes(data[: 2 - (suffix == ".zst")])
        assert fault(tmp_path).startswith(f"{path} is cut short")
        path.write_bytes(b"\xff" + data[1:])
        assert fault(tmp_path).startswith(f"{path} is corrupt (it begins neither")
        path.write_bytes(data + b"more")
        assert fault(tmp_path).startswith(f"{path} is corrupt (something else follows")

    def test_invalid_utf8(self, tmp_path: Path) -> None:
        path = tmp_path / "fao_Latn.jsonl"
        path.write_bytes(lines({"text": "a"}) + b'{"text": "\xd8ll"}\n')
        assert fault(tmp_path).startswith(f"{path}:2: not UTF-8 at byte 11 of the line (0xd8)")

    def test_not_json(self, tmp_path: Path) -> None:
        path = tmp_path / "fao_Latn.jsonl"
        path.write_bytes(lines({"text": "a"}) + b'{"text": \n')
        assert fault(tmp_path).startswith(f"{path}:2: not JSON")
        path.write_bytes(b"[1]\n")
        assert fault(tmp_path).startswith(f"{path}:1: 1 is not a JSON object")

    def test_missing_and_wrong_text_field(self, tmp_path: Path) -> None:
        path = tmp_path / "fao_Latn.jsonl"
        path.write_bytes(lines({"text": "a"}, {"content": "b", "url": "c"}))
        assert fault(tmp_path) == f"{path}:2: no field 'text', there are 'content', 'url': {FIX}"
        path.write_bytes(lines({"text": None}))
        assert fault(tmp_path) == f"{path}:1: field 'text' holds null, not text: {FIX}"

    def test_unknown_languages_name_the_nearest(self, tmp_path: Path) -> None:
        path = tmp_path / "french.jsonl"
        path.write_bytes(lines({"text": FRENCH, "lang": "french"}))
        assert fault(tmp_path).startswith(f"{path}: the file's name gives no language")
        assert "did you mean fra (French)?" in fault(tmp_path)
        message = fault(tmp_path, language_field="lang")
        assert message.startswith(f"{path}:1, field 'lang': unknown language code 'french': did you mean fra")
        assert "no language in field 'code', there are 'text', 'lang'" in fault(tmp_path, language_field="code")
        assert fault(tmp_path, language="french").startswith("sources.s.language: unknown language code")


class TestText:
    def test_documents_stand_between_blank_lines(self, tmp_path: Path) -> None:
        (tmp_path / "fao_Latn.txt").write_bytes(b"\n\none\r\ntwo\n \n\nthree\n")
        (tmp_path / "fra_Latn.txt.gz").write_bytes(gzip.compress(FRENCH.encode()))
        assert documents(tmp_path, "text") == [
            ("fao_Latn", "fao_Latn.txt:3", "one\ntwo"),
            ("fao_Latn", "fao_Latn.txt:7", "three"),
            ("fra_Latn", "fra_Latn.txt.gz:1", FRENCH),
        ]

    def test_it_has_no_fields(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text(FRENCH)
        assert "set sources.s.language" in fault(tmp_path, "text", language_field="lang")


class TestParquet:
    @staticmethod
    def table(**columns: list[object]) -> bytes:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        buffer = io.BytesIO()
        parquet.write_table(pyarrow.table(columns), buffer, row_group_size=2)
        return buffer.getvalue()

    def test_rows_become_documents(self, tmp_path: Path) -> None:
        data = self.table(text=["a", "b", "c"], id=["x", None, "z"], lang=["fo", "fr", "fo"], other=[1, 2, 3])
        (tmp_path / "0.parquet").write_bytes(data)
        found = documents(tmp_path, "parquet", language_field="lang")
        assert found == [("fao", "x", "a"), ("fra", "0.parquet:2", "b"), ("fao", "z", "c")]

    def test_faults(self, tmp_path: Path) -> None:
        path = tmp_path / "fao_Latn.parquet"
        path.write_bytes(self.table(body=["a"], url=["b"]))
        assert fault(tmp_path, "parquet").startswith(f"{path}:1: no field 'text', there are 'body', 'url'")
        path.write_bytes(path.read_bytes()[:-20])
        assert fault(tmp_path, "parquet").startswith(f"{path} is corrupt or no Parquet")

    def test_without_pyarrow_the_extra_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "fao_Latn.parquet").write_bytes(b"")
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(MissingExtra, match=r"pyarrow is not installed: pip install 'mmbert\[data\]'"):
            documents(tmp_path, "parquet")


class TestHub:
    FINEWEB = (
        "README.md",
        "data/fao_Latn/train/000_00000.parquet",
        "data/fao_Latn/train/000_00001.parquet",
        "data/fao_Latn/test/000_00000.parquet",
        "data/fao_Latn_removed/train/000_00000.parquet",
        "data/fra_Latn/train/000_00000.parquet",
    )

    def test_names_of_files_tell_split_and_configuration(self) -> None:
        assert split_of("data/fao_Latn/test/000_00000.parquet") == "test"
        assert split_of("fo/validation-00000-of-00001.parquet") == "validation"
        assert split_of("data/fao_Latn/000.parquet") is None
        paths = ["data/fao_Latn/train/000_00000.parquet", "fo/train-00000-of-00001.parquet", "nn.jsonl.gz"]
        assert list(select(paths, (), "train")) == ["fao_Latn", "fo", "nn"]

    def test_selection(self) -> None:
        paths = list(self.FINEWEB)
        assert select(paths, ("fao_Latn",), "train") == {"fao_Latn": paths[1:3]}
        assert select(paths, ("fao_Latn",), "test") == {"fao_Latn": paths[3:4]}
        assert list(select(paths, (), "train")) == ["fao_Latn", "fao_Latn_removed", "fra_Latn"]
        with pytest.raises(DataError, match=r"no configuration fao_Latin .* did you mean fao_Latn\?"):
            select(paths, ("fao_Latin",), "train")

    def test_without_configs_those_named_as_languages_are_read(self) -> None:
        files = [HubFile(path, 1, "x") for path in self.FINEWEB]
        source = Source(kind="hub", path="org/set")
        chosen = remote_inputs("s", source, files, lambda path: io.BytesIO())
        assert [(file.language, file.name) for file in chosen] == [
            ("fao_Latn", self.FINEWEB[1]),
            ("fao_Latn", self.FINEWEB[2]),
            ("fra_Latn", self.FINEWEB[5]),
        ]
        with pytest.raises(DataError, match=r"org/set is named as a language \(data\): set sources\.s\.language"):
            remote_inputs("s", source, [HubFile("data/train-0.parquet", 1, "x")], lambda path: io.BytesIO())

    def test_reads_through_a_file_system(self, tmp_path: Path) -> None:
        fsspec = pytest.importorskip("fsspec")
        files = {
            "data/fao_Latn/train/0.parquet": TestParquet.table(text=["a", "b"], id=["1", "2"]),
            "data/fao_Latn/test/0.parquet": TestParquet.table(text=["c"], id=["3"]),
            "data/fra_Latn/train/0.jsonl.gz": gzip.compress(lines({"text": "d", "id": "4"})),
        }
        for name, data in files.items():
            (tmp_path / name).parent.mkdir(parents=True)
            (tmp_path / name).write_bytes(data)
        filesystem = fsspec.filesystem("file")
        found = filesystem.find(str(tmp_path), detail=True)
        listing = [HubFile(path[len(str(tmp_path)) + 1 :], info["size"], "x") for path, info in found.items()]
        source = Source(kind="hub", path="org/set", heldout="test")

        def texts(heldout: bool) -> list[tuple[str, str]]:
            chosen = remote_inputs(
                "s", source, listing, lambda path: filesystem.open(f"{tmp_path}/{path}", "rb"), heldout=heldout
            )
            return [(d.language, d.text) for file in chosen for d in read_input("s", source, file)]

        assert texts(heldout=False) == [("fao_Latn", "a"), ("fao_Latn", "b"), ("fra_Latn", "d")]
        assert texts(heldout=True) == [("fao_Latn", "c")]

    def test_its_errors_are_one_line(self) -> None:
        from huggingface_hub.errors import OfflineModeIsEnabled

        source = Source(kind="hub", path="org/set", revision="v1")
        told = r"^cannot read the dataset org/set at v1 from the hub: offline \(check the name"
        with pytest.raises(DataError, match=told), hub_errors(source):
            raise OfflineModeIsEnabled("offline\nsecond line")
