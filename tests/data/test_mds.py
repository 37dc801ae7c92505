"""MDS shards: what was written is read, raw or compressed; whatever is wrong is one line that names file and sample."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import mds_writer
import numpy as np
import pytest

from mmbert.data.sources import mds
from mmbert.data.sources.inputs import local_inputs
from mmbert.data.sources.read import open_mds, read
from mmbert.errors import DataError
from mmbert.recipe import Source

COLUMNS = {
    "id": "str", "input_ids": "ndarray:uint32", "score": "float32", "count": "int", "grid": "ndarray:uint16:2,3",
    "any": "ndarray", "note": "json", "raw": "bytes",
}  # fmt: skip


def rows(count: int = 250) -> list[dict[str, Any]]:
    return [
        {
            "id": f"føroyskt/{i}",
            "input_ids": np.arange(i % 7, i, dtype=np.uint32) if i > 7 else np.array([i], np.uint32),
            "score": i / 4,
            "count": -i,
            "grid": np.full((2, 3), i, np.uint16),
            "any": np.full((i % 3, 2), i, np.float16),
            "note": {"i": [i]},
            "raw": bytes([i % 256]) * (i % 5),
        }
        for i in range(count)
    ]


def source(path: Path | str, **options: object) -> Source:
    return Source.model_validate({"kind": "mds", "path": str(path), "language": "fao_Latn", **options})


def shards(path: Path, **options: object) -> list[mds.MdsShard]:
    return [open_mds(file) for file in local_inputs("s", source(path, **options))]


def fault(path: Path, column: str = "input_ids") -> str:
    with pytest.raises(DataError) as caught:
        [list(shard.rows([column])) for shard in shards(path)]
    message = str(caught.value)
    assert "\n" not in message
    return message


def change_index(folder: Path, **values: object) -> None:
    index = json.loads((folder / "index.json").read_text())
    index["shards"][0] |= values
    (folder / "index.json").write_text(json.dumps(index))


class TestReading:
    @pytest.mark.parametrize("compression", [None, "zstd", "zstd:7"])
    def test_all_kinds_of_columns(self, tmp_path: Path, compression: str | None) -> None:
        wanted = rows()
        mds_writer.write_mds(tmp_path, COLUMNS, wanted, compression=compression, hashes=("sha1", "md5"))
        found = [row for shard in shards(tmp_path) for row in shard.rows(list(COLUMNS))]
        assert len(found) == len(wanted) == 250
        for row, expected in zip(found, wanted, strict=True):
            for name in ("input_ids", "grid", "any"):
                assert row[name].dtype == expected[name].dtype
                np.testing.assert_array_equal(row[name], expected[name])
            assert all(row[name] == expected[name] for name in ("id", "score", "count", "note", "raw"))
        assert [len(shard) for shard in shards(tmp_path)] == [100, 100, 50]

    def test_a_raw_shard_is_mapped(self, tmp_path: Path) -> None:
        mds_writer.write_mds(tmp_path, COLUMNS, rows(10))
        (shard,) = shards(tmp_path)
        (tmp_path / "shard.00000.mds").chmod(0o400)
        base = shard._content
        while not isinstance(base, np.memmap):
            assert base.base is not None, "the content was copied"
            base = base.base
        assert Path(base.filename) == tmp_path / "shard.00000.mds"

    def test_raw_shards_are_read_before_their_compressed_copies(self, tmp_path: Path) -> None:
        mds_writer.write_mds(tmp_path, COLUMNS, rows(10), compression="zstd")
        zipped = shards(tmp_path)[0]
        (tmp_path / "shard.00000.mds").write_bytes(zipped._content.tobytes())
        assert [shard.path for shard in shards(tmp_path)] == [f"{tmp_path}/shard.00000.mds"]

    def test_an_index_at_the_root_lists_folders(self, tmp_path: Path) -> None:
        merged = []
        for name in ("a", "b"):
            index = mds_writer.write_mds(tmp_path / name, {"text": "str"}, [{"text": name}])
            merged += index["shards"]
            merged[-1]["raw_data"]["basename"] = f"{name}/shard.00000.mds"
            (tmp_path / name / "index.json").unlink()
        (tmp_path / "index.json").write_text(json.dumps({"version": 2, "shards": merged}))
        assert [d.text for d in read("s", source(tmp_path))] == ["a", "b"]
        assert [d.text for d in read("s", source(f"{tmp_path}/*/shard.00000.mds"))] == ["a", "b"]

    def test_text_becomes_documents(self, tmp_path: Path) -> None:
        texts = [{"text": f"Øll menniskju {i}", "id": f"udhr/{i}", "lang": "fo" if i % 2 else "fr"} for i in range(5)]
        mds_writer.write_mds(tmp_path / "fao_Latn-tokenized-chunked", dict.fromkeys(texts[0], "str"), texts)
        by_folder = list(read("s", source(tmp_path, language=None)))
        assert [(d.language, d.id, d.text) for d in by_folder] == [("fao_Latn", r["id"], r["text"]) for r in texts]
        by_field = read("s", source(tmp_path, language=None, language_field="lang", id_field=None))
        assert [(d.language, d.id) for d in by_field][:2] == [
            ("fra", "fao_Latn-tokenized-chunked/shard.00000.mds:0"),
            ("fao", "fao_Latn-tokenized-chunked/shard.00000.mds:1"),
        ]
        with pytest.raises(DataError, match=r"0: no field 'body', there are 'id', 'lang', 'text': set .*text_field"):
            list(read("s", source(tmp_path, text_field="body")))

    def test_a_folder_that_names_no_language(self, tmp_path: Path) -> None:
        mds_writer.write_mds(tmp_path / "arxiv-sampled-decay", {"text": "str"}, [{"text": "a"}])
        with pytest.raises(DataError, match=r"gives no language .*: put it into a folder named as fao_Latn, or set"):
            local_inputs("s", source(tmp_path, language=None))


class TestFaults:
    def test_pickled_columns_are_refused_by_name(self, tmp_path: Path) -> None:
        data = pickle.dumps(Path("x"))
        mds_writer.write_mds(tmp_path, {"text": "str", "meta": "pkl"}, [{"text": "a", "meta": data}])
        assert "column 'meta' is pickled (pkl), and unpickling can run any code" in fault(tmp_path)

    @pytest.mark.parametrize("compression", [None, "zstd"])
    def test_cut_and_flipped(self, tmp_path: Path, compression: str | None) -> None:
        mds_writer.write_mds(tmp_path, COLUMNS, rows(20), compression=compression, hashes=("sha1",))
        path = tmp_path / ("shard.00000.mds" + (".zstd" if compression else ""))
        whole = path.read_bytes()
        path.write_bytes(whole[:-5])
        assert fault(tmp_path) == (
            f"{path} has {len(whole) - 5} bytes instead of {len(whole)}: copy or download it again"
        )
        path.write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
        assert fault(tmp_path) == f"{path} is damaged (its sha1 does not match): copy or download it again"
        path.unlink()
        assert fault(tmp_path).endswith("holds no file ending in .mds, .mds.zstd, .mds.zst (sources.s.path)")

    def test_damage_that_no_hash_shows(self, tmp_path: Path) -> None:
        mds_writer.write_mds(tmp_path, COLUMNS, rows(20))
        path = tmp_path / "shard.00000.mds"
        whole = path.read_bytes()
        offset = int.from_bytes(whole[4 * 5 : 4 * 6], "little")  # of sample 4: its first length grows
        path.write_bytes(whole[:offset] + bytes([whole[offset] + 1]) + whole[offset + 1 :])
        assert fault(tmp_path).startswith(f"{path}, sample 4, is damaged (its columns do not fill it)")
        place = whole.index("føroyskt/3".encode())
        path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        assert fault(tmp_path, "id").startswith(f"{path}, sample 3, is damaged (column 'id': 'utf-8' codec")
        path.write_bytes(bytes([21]) + whole[1:])
        assert fault(tmp_path).startswith(f"{path} holds 21 samples instead of 20")
        path.write_bytes(whole[:8] + b"\xff\xff\xff" + whole[11:])
        assert fault(tmp_path).startswith(f"{path} is damaged (its samples do not fill it)")

    def test_index_and_shards_disagree(self, tmp_path: Path) -> None:
        mds_writer.write_mds(tmp_path, COLUMNS, rows(20), per_shard=10)
        (tmp_path / "shard.00001.mds").rename(tmp_path / "shard.00007.mds")
        assert fault(tmp_path).startswith(f"{tmp_path}/shard.00007.mds is in no index.json")
        (tmp_path / "shard.00007.mds").unlink()
        assert fault(tmp_path).startswith(f"no such file: {tmp_path}/shard.00001.mds, which index.json lists")
        mds_writer.write_mds(tmp_path, COLUMNS, rows(20), per_shard=10)
        change_index(tmp_path, column_names=["x", *sorted(COLUMNS)[1:]])
        assert fault(tmp_path).startswith(f"{tmp_path}/shard.00000.mds has other columns than index.json says")

    @pytest.mark.parametrize(
        ("values", "told"),
        [
            ({"format": "json"}, "shards of the form json cannot be read"),
            ({"compression": "br:4"}, "shards compressed with br:4 cannot be read"),
            ({"samples": "many"}, "is damaged or no index of MDS shards (ValueError('samples is many'))"),
            ({"raw_data": {}}, "is damaged or no index of MDS shards (KeyError('basename'))"),
        ],
    )
    def test_indexes_that_cannot_be_read(self, tmp_path: Path, values: dict[str, object], told: str) -> None:
        mds_writer.write_mds(tmp_path, COLUMNS, rows(3))
        change_index(tmp_path, **values)
        if "raw_data" in values:
            change_index(tmp_path, raw_data={"bytes": 3})
        assert told in fault(tmp_path)

    def test_other_versions_and_kinds(self, tmp_path: Path) -> None:
        mds_writer.write_mds(tmp_path, COLUMNS, rows(3))
        with pytest.raises(NotImplementedError):
            mds.decode("jpeg", np.zeros(3, np.uint8))
        (tmp_path / "index.json").write_text('{"version": 3, "shards": []}')
        assert fault(tmp_path) == f"{tmp_path}/index.json is of version 3, and only 2 can be read"
        (tmp_path / "index.json").write_text("[]")
        assert fault(tmp_path).startswith(f"{tmp_path}/index.json is damaged or no index of MDS shards")
