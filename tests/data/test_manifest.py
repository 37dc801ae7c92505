"""The manifest says what a folder holds, and refuses what is not that."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mmbert.data.manifest import Manifest, ShardInfo, StreamInfo
from mmbert.data.shard import write_shard
from mmbert.errors import DataError, TokenizerError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    info = write_shard(tmp_path / "web/fao_Latn/00000.tokens", [np.arange(6, dtype=np.uint32)], {})
    shard = ShardInfo(file="web/fao_Latn/00000.tokens", tokens=6, documents=1, sha256=info["sha256"])
    stream = StreamInfo(
        source="web", language="fao_Latn", tokens=6, documents=1, characters=20, bytes=22, shards=(shard,)
    )
    Manifest(tokenizer="0123456789abcdef", streams=(stream,)).save(tmp_path)
    return tmp_path


def fault(folder: Path, *, verify: bool = False) -> str:
    with pytest.raises(DataError) as caught:
        Manifest.load(folder, verify=verify)
    return str(caught.value)


def test_round_trip(folder: Path) -> None:
    manifest = Manifest.load(folder, verify=True)
    assert manifest.sizes() == {("web", "fao_Latn"): 6}
    assert manifest.tokens == 6
    assert manifest.streams[0].shards[0].file == "web/fao_Latn/00000.tokens"


def test_damaged_shards_are_found(folder: Path) -> None:
    path = folder / "web/fao_Latn/00000.tokens"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\x01")
    Manifest.load(folder)  # a cheap look compares lengths only
    assert fault(folder, verify=True).startswith(f"{path} is damaged")
    path.write_bytes(whole[:-1])
    assert fault(folder).startswith(f"{path} has 23 bytes instead of 24")
    path.unlink()
    assert fault(folder).startswith(f"no such file: {path}")


def test_a_shard_of_another_folder(folder: Path) -> None:
    write_shard(folder / "web/fao_Latn/00000.tokens", [np.arange(1, 7, dtype=np.uint32)], {})
    assert "is not the shard of" in fault(folder)


def test_missing_damaged_and_newer_manifests(folder: Path) -> None:
    path = folder / "manifest.json"
    whole = path.read_text()
    path.write_text(whole.replace('"tokens": ', '"tokens": 1', 1))
    assert fault(folder).startswith(f"{path} is damaged (its checksum does not match)")
    text = re.sub(r',\s*"crc32": \d+', "", whole)
    path.write_text(text.replace('"version": 1', '"version": 7'))
    assert fault(folder).startswith(f"{path} has version 7, only 1 can be read")
    path.write_text(text.replace('"documents"', '"dokuments"'))
    assert fault(folder).startswith(f"{path} is damaged at streams.0")
    path.unlink()
    assert fault(folder) == f"no such file: {path}: run `mmbert data prepare RECIPE --out {folder.parent}` first"


def test_another_tokenizer_is_refused_by_name(folder: Path) -> None:
    manifest = Manifest.load(folder)
    manifest.check_tokenizer("0123456789abcdef")
    told = "these shards were made with tokenizer 0123456789abcdef, this run's is fedcba9876543210"
    with pytest.raises(TokenizerError, match=told):
        manifest.check_tokenizer("fedcba9876543210")
