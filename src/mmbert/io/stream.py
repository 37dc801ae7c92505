"""The bytes of a file as lines of UTF-8 text: decompressed by content, with errors that name the place.

Each step is a generator: ``read_chunks`` -> ``decompress`` -> UTF-8 -> ``split_lines``. A file that is cut short is an
error, never read as far as it goes. UTF-16 and UTF-32 are read where a byte order mark tells them.
"""

from __future__ import annotations

import bz2
import codecs
import lzma
import os
import stat
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from mmbert.errors import DataError
from mmbert.io.find import PACKED

Open = Callable[[], AbstractContextManager[BinaryIO]]
Advance = Callable[[int], None]
"""Is told of bytes read."""

BOM = "\ufeff"
NEWLINE = b"\n"
AGAIN = "copy or download it again"

LONGEST = 1 << 28
"""Bytes of a line, of a cell or paragraph of several lines, or of a small file at most: 256 MiB, a hundred long novels.

A few kilobytes of compressed file may hold gigabytes. What is longer is an error, before it fills the memory.
"""

_CHUNK = 1 << 18
_PART = 1 << 11
"""Bytes of a compressed file unpacked at once: of zstd, whose output alone has no limit, they are 64 MiB at most."""
_OUTPUT = 1 << 20
"""Bytes handed on at once of what a compressed file holds."""
_SKIPPABLE = tuple(bytes([0x50 + number]) + b"\x2a\x4d\x18" for number in range(16))
"""Frames of zstd that hold no data; pzstd begins a file with one."""
_BZIP2 = tuple(b"BZh%d" % level + magic for level in range(1, 10) for magic in (b"1AY&SY", b"\x17rE8P\x90"))
"""With the first block or the end of the stream: a text may well begin with ``BZh``."""
_UNPACKERS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": partial(zlib.decompressobj, wbits=31),
    **dict.fromkeys(
        (b"\x28\xb5\x2f\xfd", *_SKIPPABLE), lambda: zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
    ),
    b"\xfd7zXZ\0": partial(lzma.LZMADecompressor, lzma.FORMAT_XZ),
    **dict.fromkeys(_BZIP2, bz2.BZ2Decompressor),
}
"""How a compressed file begins -> a new decompressor of one member or frame."""
_Zstd = type(zstandard.ZstdDecompressor().decompressobj())
_OTHERS = {
    b"PK\x03\x04": "a zip archive (or an Excel workbook)", b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive", b"\x04\x22\x4d\x18": "compressed with lz4", b"PAR1\x15": "a Parquet file",
    b"\x00\x05\x16\x07": "not the file but what macOS keeps beside it", b"\x89HDF\r\n": "an HDF5 file",
    b"\x93NUMPY": "a NumPy file", b"ARROW1\0": "an Arrow file", b"SQLite format 3\0": "an SQLite database",
}  # fmt: skip
"""How files begin that are no text."""
_LONGEST = max(map(len, (*_UNPACKERS, *_OTHERS)))
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
"""Byte order marks, those of UTF-32 first: one of UTF-16 begins it."""


def open_file(path: str | Path) -> BinaryIO:
    """Open a file to read. Raises DataError."""
    try:
        return Path(path).open("rb")
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def read_chunks(open: Open, path: str) -> Iterator[bytes]:
    """Yield what a file holds, as it comes: a line that is typed is not waited with. Raises DataError.

    A file on disk is read a chunk ahead, so that it is closed before its last chunk is used, whoever stops in there.
    """
    held = b""
    try:
        with open() as file:
            # read1 returns what has come; read would wait for a whole chunk of a pipe.
            read, ahead = getattr(file, "read1", file.read), _on_disk(file)
            while chunk := read(_CHUNK):
                if not ahead:
                    yield chunk
                    continue
                if held:
                    yield held
                held = chunk
        if held:
            yield held
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _on_disk(file: BinaryIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except (AttributeError, OSError):  # what has no number: a file in an object store, or in memory
        return False


def decompress(chunks: Iterable[bytes], path: str, advance: Advance = lambda size: None) -> Iterator[bytes]:
    """Yield the content of a file, unpacked by how it begins: gzip, zstd, xz, bzip2 in any number of members, or as is.

    ``advance`` is told of bytes of the file as they are used, not as they are read.
    Raises DataError for a file that is corrupt, cut short, or of a form that is not text.
    """
    stream = iter(chunks)
    # The content decides, not the name: downloads are often unpacked on the way, and names then lie.
    head = _head(stream, (*_UNPACKERS, *_OTHERS), _LONGEST)
    new = _unpacker(head)
    if new is None:
        _refuse(head, path)
        for chunk in chain([head], stream):
            yield chunk
            advance(len(chunk))
        return
    member: Any = new()
    rest = head
    while True:
        try:
            rest = yield from _unpack(member, rest, advance)
        except (zlib.error, lzma.LZMAError, OSError, EOFError, zstandard.ZstdError) as error:
            raise DataError(f"{path} is corrupt ({error}): {AGAIN}") from error
        if member.eof:
            rest = rest.lstrip(b"\0")  # zeros that fill a block of a tape
            while len(rest) < _LONGEST and (chunk := next(stream, b"")):
                rest = (rest + chunk).lstrip(b"\0")
            if not rest:
                return
            # Members follow each other in files of bgzip and pzstd, and where two .gz files were put together.
            if (new := _unpacker(rest)) is None:
                raise DataError(f"{path} is corrupt (something else follows its compressed part): {AGAIN}")
            member = new()
        # A member without its end is an error, also where all of its lines were readable so far.
        elif not (rest := next(stream, b"")):
            raise DataError(f"{path} is cut short: {AGAIN}")


def _unpack(member: Any, data: bytes, advance: Advance) -> Generator[bytes, None, bytes]:
    """Yield what a decompressor makes of some bytes, in parts. Return the bytes behind the end of its member."""
    # zstandard's decompressobj takes no limit of its output; small parts of input bound it instead.
    limited = not isinstance(member, _Zstd)
    place = 0
    while not member.eof:
        part = data[place : place + _PART]
        place += len(part)
        while True:
            output = member.decompress(part, _OUTPUT) if limited else member.decompress(part)
            for at in range(0, len(output), _OUTPUT):
                yield output[at : at + _OUTPUT]
            # zlib hands back the input that its limit left; lzma and bz2 keep theirs, and are asked again with none.
            part = getattr(member, "unconsumed_tail", b"")
            if member.eof or not limited or (not part and len(output) < _OUTPUT):
                break
        advance(_PART if place < len(data) else len(data) % _PART or _PART)
        if place >= len(data):
            break
    return member.unused_data + data[place:] if member.eof else b""


def _head(stream: Iterator[bytes], magics: Iterable[bytes], size: int) -> bytes:
    """Take the first chunk, and more as long as fewer than ``size`` bytes could begin one of the ``magics``."""
    head = next(stream, b"")
    while len(head) < size and any(head.startswith(magic[: len(head)]) for magic in magics):
        if not (chunk := next(stream, b"")):
            break
        head += chunk
    return head


def _unpacker(head: bytes) -> Callable[[], Any] | None:
    return next((new for magic, new in _UNPACKERS.items() if head.startswith(magic)), None)


def _refuse(head: bytes, path: str) -> None:
    """Raise DataError for what is not compressed and cannot be text, or only begins to be what the name says."""
    for magic, form in _OTHERS.items():
        if head.startswith(magic):
            raise DataError(f"{path} is {form}: convert it to a form that is read here, or leave it out")
    if path.lower().endswith(PACKED[1:]) and not head.startswith(tuple(_MARKS)):
        # Fewer bytes than a signature, and they begin one: a download that stopped at once.
        if any(magic.startswith(head) for magic in _UNPACKERS):
            raise DataError(f"{path} is cut short ({len(head)} bytes): {AGAIN}")
        try:
            codecs.getincrementaldecoder("utf-8")().decode(head[:64])
            is_text = b"\0" not in head[:64]
        except UnicodeDecodeError:
            is_text = False
        if not is_text:
            raise DataError(f"{path} is corrupt (it begins neither as a compressed file nor as text): {AGAIN}")


def _to_utf8(chunks: Iterator[bytes], path: str) -> Iterator[bytes]:
    # The mark of UTF-32-LE begins with that of UTF-16-LE, so four bytes are needed to tell them.
    head = _head(chunks, _MARKS, 4)
    encoding = next((encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), None)
    if encoding is None:
        # Every second byte 0: ASCII text in UTF-16, which would pass as UTF-8 with a NUL behind each letter.
        for zeros, others in ((head[1:8:2], head[:8:2]), (head[:8:2], head[1:8:2])):
            if len(head) >= 4 and not any(zeros) and all(others):
                raise DataError(f"{path}:1: this is UTF-16 without a byte order mark: convert the file to UTF-8")
        yield head
        yield from chunks
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        yield decoder.decode(head).encode()
        for chunk in chunks:
            yield decoder.decode(chunk).encode()
        # Raises if half a character is left at the end.
        decoder.decode(b"", final=True)
    except UnicodeError as error:
        raise DataError(f"{path} is not {encoding.upper()}, as its beginning says ({error}): {AGAIN}") from error


def utf8_chunks(open: Open, path: str, advance: Advance = lambda size: None) -> Iterator[bytes]:
    """Yield a file's text in UTF-8, cut anywhere. Raises DataError."""
    return _to_utf8(decompress(read_chunks(open, path), path, advance), path)


def split_lines(chunks: Iterable[bytes], path: str = "the text") -> Iterator[bytes]:
    """Yield lines without their ends, out of chunks that are cut anywhere; only ``\\n`` divides them.

    Raises DataError, with the place, for a line of more than LONGEST bytes.
    """
    parts: list[bytes] = []  # of a line that goes on
    size, number = 0, 1
    for chunk in chunks:
        # Only \n: str.splitlines would also divide at U+2028 and form feeds, which JSON strings may hold.
        first, newline, rest = chunk.partition(b"\n")
        parts.append(first)
        size += len(first)
        # Before the line is complete: a decompressed file without any \n must not fill the memory.
        if size > LONGEST:
            raise too_long(f"{path}:{number}", "this line")
        if newline:
            yield b"".join(parts)
            *lines, last = rest.split(b"\n")
            yield from lines
            number += 1 + len(lines)
            parts, size = [last], len(last)
    if last := b"".join(parts):
        yield last


def read_lines(open: Open, path: str, advance: Advance = lambda size: None) -> Iterator[bytes]:
    """Yield the lines of a file as :func:`split_lines` does, decompressed and in UTF-8. Raises DataError."""
    return split_lines(utf8_chunks(open, path, advance), path)


def too_long(where: str, what: str) -> DataError:
    """Return the error for more text at once than LONGEST bytes."""
    return DataError(
        f"{where}: {what} has more than {LONGEST >> 20} MiB, the limit: a compressed file may hold far more than its "
        "size says; divide it, or leave it out"
    )


def join(chunks: Iterable[bytes], path: str, separator: bytes = b"", most: int | None = None) -> bytes:
    """Return chunks as one. Raises DataError for more than ``most`` bytes (default: LONGEST)."""
    parts, size = [], 0
    for chunk in chunks:
        size += len(chunk) + len(separator)
        if size > (LONGEST if most is None else most):
            raise too_long(path, "the text, which is read as a whole,")
        parts.append(chunk)
    return separator.join(parts)


def decode(data: bytes, path: str, number: int = 1) -> str:
    """Return a line, or several from line ``number`` on, as text without a byte order mark at its beginning.

    Files that were put together may have one anywhere. Raises DataError with the place of what is not UTF-8.
    """
    try:
        return data.decode().lstrip(BOM)
    except UnicodeDecodeError as error:
        # ``data`` may be several lines, so the line of the error is counted up to its byte.
        before = data[: error.start]
        place = f"{path}:{number + before.count(NEWLINE)}"
        raise DataError(
            f"{place}: not UTF-8 at byte {error.start - before.rfind(NEWLINE)} of the line "
            f"(0x{data[error.start]:02x}): convert the file or remove the line"
        ) from error


def text_lines(path: str | Path) -> Iterator[str]:
    """Yield the lines of a file, without their ends (``\\n`` or ``\\r\\n``)."""
    for number, line in enumerate(read_lines(partial(open_file, path), str(path)), 1):
        yield decode(line, str(path), number).removesuffix("\r")


def begins_with_mark(path: Path) -> bool:
    """Return whether a file begins with a byte order mark, which many libraries do not take in JSON."""
    with open_file(path) as file:
        return file.read(4).startswith((BOM.encode(), *_MARKS))


def read_text(path: str | Path) -> str:
    """Return the text of a small file. Raises DataError."""
    return decode(join(utf8_chunks(partial(open_file, path), str(path)), str(path)), str(path))
