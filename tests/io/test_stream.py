"""A file is unpacked by what it holds, whatever its name; a cut one is an error; text is UTF-8 or has a mark."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.errors import DataError
from mmbert.io import stream
from mmbert.io.stream import decompress, open_file, read_text, split_lines, text_lines, utf8_chunks

PACK: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}
TEXT = "".join(f"Øll menniskju {number * 7919} eru fødd\n" for number in range(3000)).encode()
SKIPPABLE = struct.pack("<II", 0x184D2A50, 4) + b"\1\2\3\4"


def unpacked(data: bytes, size: int = 1 << 18, name: str = "a.gz") -> bytes:
    return b"".join(decompress((data[start : start + size] for start in range(0, len(data), size)), name))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5), st.sampled_from(list(PACK)), st.integers(1, 300))
def test_members_in_chunks_of_any_size(parts: list[bytes], kind: str, size: int) -> None:
    if kind == "plain":
        parts = [b"plain ", *parts]
    assert unpacked(b"".join(map(PACK[kind], parts)), size, "name says nothing") == b"".join(parts)


def test_members_of_several_kinds_and_padding() -> None:
    mixed = gzip.compress(b"a") + bytes(700) + zstandard.compress(b"b") + bz2.compress(b"c") + lzma.compress(b"d")
    assert unpacked(mixed) == b"abcd"
    assert unpacked(SKIPPABLE + zstandard.compress(b"a") + SKIPPABLE + zstandard.compress(b"b") + SKIPPABLE) == b"ab"


@pytest.mark.parametrize("kind", list(PACK)[1:])
def test_a_cut_file_is_never_read_as_far_as_it_goes(kind: str) -> None:
    data = PACK[kind](TEXT)
    for end in (*range(1, 12), len(data) // 2, len(data) - 5, len(data) - 1):
        with pytest.raises(DataError, match=r"^a\.gz is (cut short|corrupt).*: copy or download it again$"):
            unpacked(data[:end])
    with pytest.raises(DataError, match=r"^a\.gz is cut short: "):
        unpacked(PACK[kind](b"first") + data[: len(data) // 2])
    with pytest.raises(DataError, match="something else follows its compressed part"):
        unpacked(data + b"more")


def test_damage_is_named() -> None:
    for kind in list(PACK)[1:]:
        data = bytearray(PACK[kind](TEXT))
        data[len(data) // 2] ^= 0xFF
        with pytest.raises(DataError, match=r"is (corrupt|cut short)"):
            unpacked(bytes(data))
    with pytest.raises(DataError, match=r"a\.gz is cut short \(0 bytes\)"):
        unpacked(b"")
    with pytest.raises(DataError, match="begins neither as a compressed file nor as text"):
        unpacked(bytes(500))
    assert unpacked(b"", name="a.txt") == b""
    assert unpacked(b"BZh is how a text may begin") == b"BZh is how a text may begin"


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"PK\3\4rest", "a zip archive"),
        (b"PAR1\x15\4", "a Parquet file"),
        (b"\0\5\x16\7\0\2", "what macOS keeps beside it"),
    ],
)
def test_other_forms_are_named(head: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        unpacked(head * 9, name="a.csv")


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), st.integers(1, 7),
       st.sampled_from(["utf-8-sig", "utf-16", "utf-32"]))  # fmt: skip
def test_marks_tell_the_encoding(text: str, size: int, encoding: str) -> None:
    data = text.lstrip("\0").encode(encoding)  # UTF-16 with NUL first has the mark of UTF-32
    raw = io.BytesIO(data)
    raw.read1 = lambda _: raw.read(size)  # type: ignore[method-assign]
    found = b"".join(utf8_chunks(lambda: raw, "a.txt")).decode()
    assert found.removeprefix("\ufeff") == text.lstrip("\0").removeprefix("\ufeff")


def test_encodings(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        path.write_bytes("ø\u2028\x85\x0b\nb\r\n\n".encode(encoding))
        assert list(text_lines(path)) == ["ø\u2028\x85\x0b", "b", ""]
    path.write_bytes(b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n")  # put together
    assert list(text_lines(path)) == ["one", "two"]
    path.write_bytes("both".encode("utf-16") + b"\0")
    with pytest.raises(DataError, match=r"a\.txt is not UTF-16, as its beginning says"):
        read_text(path)
    for order in ("le", "be"):
        path.write_bytes("text".encode(f"utf-16-{order}"))
        with pytest.raises(DataError, match=r"a\.txt:1: this is UTF-16 without a byte order mark: convert"):
            read_text(path)
    path.write_bytes(b"one\ntwo \xe9\n")
    with pytest.raises(DataError, match=r"a\.txt:2: not UTF-8 at byte 5 of the line \(0xe9\): convert the file"):
        read_text(path)
    with pytest.raises(DataError, match=r"^no such file: .*none$"):
        read_text(tmp_path / "none")


def test_a_line_that_is_typed_is_not_waited_with() -> None:
    class Typed(io.BytesIO):
        asked = 0

        def read1(self, size: int | None = -1) -> bytes:
            self.asked += 1
            return self.readline()

    typed = Typed(b"a\nb\n")
    lines = split_lines(utf8_chunks(lambda: typed, "stdin"))
    assert next(lines) == b"a"
    assert typed.asked == 1


@pytest.mark.parametrize("kind", ["gzip", "zstd", "xz", "bzip2"])
def test_a_little_file_that_holds_gigabytes_is_unpacked_in_parts(kind: str) -> None:
    """Its content is never held as a whole, and progress is told while it is read, not at its end."""
    packed = PACK[kind](b"\0" * (48 << 20))
    told: list[int] = []
    parts = [(len(data), sum(told)) for data in decompress([packed], "bomb", told.append)]
    assert sum(size for size, _ in parts) == 48 << 20
    assert max(size for size, _ in parts) <= 1 << 20
    assert sum(told) == len(packed)
    if len(packed) > 1 << 13:
        assert any(0 < told_then < len(packed) for _, told_then in parts)


def test_a_line_without_end_is_an_error_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LONGEST", 1 << 20)
    path = tmp_path / "bomb.jsonl.zst"
    path.write_bytes(zstandard.compress(b'{"a": 1}\n\n' + b"x" * (1 << 27)))
    read: list[int] = []

    def lines() -> Iterator[bytes]:
        for chunk in utf8_chunks(lambda: open_file(path), str(path)):
            read.append(len(chunk))
            yield chunk

    with pytest.raises(DataError, match=rf"{path}:3: this line has more than 1 MiB"):
        list(split_lines(lines(), str(path)))
    assert sum(read) < 1 << 22
    with pytest.raises(DataError, match=f"{path}: the text, which is read as a whole, has more than 1 MiB"):
        read_text(path)
