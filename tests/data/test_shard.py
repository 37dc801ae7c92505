"""Shards give back what was written, and whatever is damaged is named with a fix."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from mmbert.data.shard import Shard, ShardWriter, write_shard
from mmbert.errors import DataError

DOCUMENTS = [np.arange(5, 9, dtype=np.uint32), np.array([2**32 - 1], dtype=np.uint32), np.arange(7, dtype=np.uint32)]
FIX = "delete it and run `mmbert data prepare` again"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_shard(tmp_path / "00000.tokens", DOCUMENTS, {"source": "s"})
    return tmp_path / "00000.tokens"


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def fault(path: Path, *, verify: bool = False) -> str:
    def read() -> None:
        shard = Shard.open(path)
        if verify:
            shard.verify()

    with pytest.raises(DataError) as caught:
        read()
    return str(caught.value)


def test_round_trip(path: Path) -> None:
    shard = Shard.open(path)
    assert shard.tokens.dtype == np.dtype("<u4")
    assert shard.ends.dtype == np.dtype("<i8")
    assert isinstance(shard.tokens, np.memmap)
    assert shard.ends.tolist() == [4, 5, 12]
    assert shard.tokens.tolist() == np.concatenate(DOCUMENTS).tolist()
    assert path.read_bytes()[:8] == b"\x05\0\0\0\x06\0\0\0"
    assert shard.info["source"] == "s"
    assert (shard.info["tokens"], shard.info["documents"]) == (12, 3)
    shard.verify()
    assert Shard.open(path.with_suffix(".index")).tokens.tolist() == shard.tokens.tolist()


def test_cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])
    assert fault(path) == f"{path} has 44 bytes instead of 48: {FIX}"


def test_cut_index(path: Path) -> None:
    index = path.with_suffix(".index")
    whole = index.read_bytes()
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        index.write_bytes(whole[:length])
        message = fault(path)
        assert message.startswith(str(index))
        assert message.endswith(FIX)


def test_flipped_bits_anywhere_are_found(path: Path) -> None:
    index = path.with_suffix(".index")
    for file in (path, index):
        whole = file.read_bytes()
        for place in range(0, len(whole), 7):
            flip(file, place)
            message = fault(path, verify=True)
            assert str(path.with_suffix("")) in message
            assert "prepare` again" in message
            file.write_bytes(whole)
    Shard.open(path).verify()


def test_unknown_version(path: Path) -> None:
    index = path.with_suffix(".index")
    index.write_bytes(index.read_bytes().replace(b"shard 2\n", b"shard 3\n", 1))
    assert f"{index} has version 3, and only 1 and 2 can be read" in fault(path)
    index.write_bytes(b"something else\n\n")
    assert f"{index} is not the index of a shard" in fault(path)


def test_the_damaged_place_is_named(tmp_path: Path) -> None:
    path = tmp_path / "00000.tokens"
    write_shard(path, [np.full(700, number, dtype=np.uint32) for number in range(9)], {})
    flip(path, 4 * 2500)
    place = "tokens 2048 to 3071, documents 2 to 4"
    assert fault(path, verify=True) == f"{path} is damaged at {place} (its checksum does not match): {FIX}"


def test_version_1_is_read(path: Path) -> None:
    """It has no checksums of chunks."""
    index = path.with_suffix(".index")
    body = index.read_bytes()[: -32 - 4].replace(b"shard 2\n", b"shard 1\n", 1)
    index.write_bytes(body + hashlib.sha256(body).digest())
    shard = Shard.open(path)
    shard.verify()
    assert shard.ends.tolist() == [4, 5, 12]
    flip(path, 20)
    assert fault(path, verify=True) == f"{path} is damaged (its checksum does not match): {FIX}"


def test_missing_files(path: Path) -> None:
    path.unlink()
    assert fault(path) == f"no such file: {path}: run `mmbert data prepare` again"
    path.with_suffix(".index").unlink()
    assert "no such file" in fault(path)


def test_writer_divides_between_documents_only(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, {"text": "t"}, max_tokens=10)
    lengths = [4, 6, 1, 25, 3, 3]
    for number, length in enumerate(lengths):
        writer.add(np.full(length, number, dtype=np.uint32), 2 * length, 3 * length)
    writer.close()
    shards = [Shard.open(path) for path in sorted(tmp_path.glob("*.tokens"))]
    assert [np.diff(shard.ends, prepend=0).tolist() for shard in shards] == [[4, 6], [1], [25], [3, 3]]
    assert [shard.info["last"] for shard in shards] == [False, False, False, True]
    assert [(shard.info["characters"], shard.info["bytes"]) for shard in shards] == [
        (20, 30),
        (2, 3),
        (50, 75),
        (12, 18),
    ]
    tokens = np.concatenate([shard.tokens for shard in shards])
    assert tokens.tolist() == [number for number, length in enumerate(lengths) for _ in range(length)]


def test_going_on_writes_the_same_bytes(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    documents = [np.full(4, number, dtype=np.uint32) for number in range(6)]
    for folder, first in ((whole, 0), (parts, 2)):
        writer = ShardWriter(folder, {}, max_tokens=8, first=first)
        for document in documents[2 * first :]:
            writer.add(document, 1, 1)
        writer.close()
    assert sorted(path.name for path in parts.iterdir()) == ["00002.index", "00002.tokens"]
    for path in parts.iterdir():
        assert path.read_bytes() == (whole / path.name).read_bytes()
