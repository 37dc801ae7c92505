"""Blocks come out as they were written, and damage that appears while they are read is named with its place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.data import reader
from mmbert.data.corpus import segments_between
from mmbert.data.manifest import ShardInfo
from mmbert.data.reader import Block, OpenFiles, ShardReader
from mmbert.data.shard import Shard, write_shard
from mmbert.errors import BadShard

FIX = "delete it and run `mmbert data prepare` again"


def write(path: Path, lengths: list[int]) -> ShardInfo:
    total = sum(lengths)
    documents = np.split(np.arange(5, 5 + total, dtype=np.uint32), np.cumsum(lengths)[:-1])
    info = write_shard(path, documents, {})
    return ShardInfo(file=path.name, **{key: info[key] for key in ("tokens", "documents", "sha256")})


def open_reader(folder: Path, info: ShardInfo, vocab_size: int = 2**32) -> ShardReader:
    return ShardReader(folder, info, OpenFiles(), vocab_size)


@pytest.fixture
def shard(tmp_path: Path) -> tuple[Path, ShardInfo]:
    """2,000 documents of 1 to 9 tokens, 10,000 in all."""
    return tmp_path, write(tmp_path / "00000.tokens", [1, 9, 4, 6] * 500)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=900), st.integers(16, 300))
def test_the_same_pieces_as_from_all_ends(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], context: int
) -> None:
    folder = tmp_path_factory.mktemp("shard")
    info = write(folder / "00000.tokens", lengths)
    whole, found = Shard.open(folder / info.file), open_reader(folder, info)
    for begin in range(0, info.tokens, context):
        end = min(begin + context, info.tokens)
        segments = segments_between(found.ends(begin, end), begin, end, context - 2)
        assert segments == segments_between(np.asarray(whole.ends), begin, end, context - 2)
        for start, stop in segments:
            assert np.array_equal(found.tokens(start, stop), whole.tokens[start:stop])


def test_a_block_is_read_once_and_when_needed(shard: tuple[Path, ShardInfo], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, info = shard
    source = open_reader(folder, info)
    block = Block(source, 3000, 3500)
    (folder / info.file).rename(folder / "away")
    with pytest.raises(BadShard, match="No such file or directory"):
        block[3000:3001]
    (folder / "away").rename(folder / info.file)
    assert block[3100:3103].tolist() == [3105, 3106, 3107]
    (folder / info.file).unlink()
    assert block[3497:3500].tolist() == [3502, 3503, 3504]


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def cut(path: Path, size: int) -> None:
    os.truncate(path, size)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: flip(path, 4 * 5000), "tokens 4096 to 5119, documents 819 to 1023 (the checksum does not match)"),
        (lambda path: cut(path, 4 * 4900), "tokens 4800 to 5299, documents 960 to 1059 ({path} is cut short)"),
        (lambda path: cut(path.with_suffix(".index"), 400), "tokens 4800 to 5299 ({index} is cut short)"),
    ],
    ids=["a flipped bit", "cut tokens", "cut index"],
)
def test_damage_while_reading(shard: tuple[Path, ShardInfo], damage: Callable[[Path], None], said: str) -> None:
    folder, info = shard
    path = folder / info.file
    source = open_reader(folder, info)
    source.tokens(4800, 5300)
    damage(path)
    with pytest.raises(BadShard) as caught:
        source.tokens(4800, 5300)
    said = said.format(path=path, index=path.with_suffix(".index"))
    assert str(caught.value) == f"{path} is damaged at {said}: {FIX}"
    assert caught.value.path == path
    if "checksum" in said:
        source.tokens(5120, 6000)  # elsewhere it is whole


def test_a_token_beyond_the_vocabulary_has_a_place(shard: tuple[Path, ShardInfo]) -> None:
    source = open_reader(*shard, vocab_size=7000)
    assert source.tokens(6000, 6995)[-1] == 6999
    with pytest.raises(BadShard, match=r"token 7002, document 1401 \(token 7007 is beyond"):
        source.tokens(6990, 7003)


def test_a_damaged_index_is_refused_at_once(shard: tuple[Path, ShardInfo]) -> None:
    folder, info = shard
    flip((folder / info.file).with_suffix(".index"), 5000)
    with pytest.raises(BadShard, match=r"00000\.index is damaged \(its checksum does not match\)"):
        open_reader(folder, info)


def test_few_files_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_OPEN", 3)
    infos = [write(tmp_path / f"{number:05d}.tokens", [5, 5]) for number in range(6)]
    before, files = len(os.listdir("/proc/self/fd")), OpenFiles()
    for _ in range(2):
        for info in infos:
            source = ShardReader(tmp_path, info, files, 2**32)
            assert source.tokens(4, 7).tolist() == [9, 10, 11]
            assert len(os.listdir("/proc/self/fd")) <= before + 3
    del files, source
    assert len(os.listdir("/proc/self/fd")) == before
