"""Tokenise long texts in bounded parts: only their beginning or end, or all of them part by part.

A text is cut before a space that follows another character: no token of a common vocabulary crosses such a border, and
the text on one side does not change the tokens of the other. If there is no space for long (Chinese, Thai, one letter a
million times), the text is cut anywhere and the tokens next to the cut are discarded: the merges of byte-pair encoding
and the paths of a unigram model rarely reach farther than a few tokens. So the ids are those of the whole text. (One
thing differs: what lacks a token for thousands of characters is one <unk> in Unigram and WordPiece, here one a part.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from mmbert.cancellation import check_cancelled, is_watched

Encoded = tuple[np.ndarray, np.ndarray]
"""Ids of a text, and the characters of each."""

EncodeSome = Callable[[Sequence[str], int], list[Encoded]]
"""Texts and the number of the first of them -> their ids and spans."""

EncodeBatch = Callable[..., list[np.ndarray]]
"""``Tokenizer.encode_batch`` of some tokenizer."""

_CHUNK = 2048
"""Texts handed to Rust at once: enough for all threads, little memory for what it returns."""

_WATCHED = 1 << 18
"""Characters handed to Rust at once by work that can be cancelled: about 80 ms."""

PART = 1 << 16
"""Characters tokenised at once, of one text: about 20 ms."""

_LONG = 2 * PART

_REACH = 1024
"""Characters in which a space is looked for."""

_MARGIN = 48
"""Tokens beside a cut that are not used."""

_AGAIN = 8
"""Tokens before a border with which the next part begins."""

_PER_TOKEN = 8
"""Characters that are first read for each token that is wanted; most scripts have three to five."""


def chunks(texts: Sequence[Any]) -> Iterator[tuple[int, list[Any]]]:
    """Yield texts in chunks for one call of Rust, with the place of the first of each."""
    most = _WATCHED if is_watched() else math.inf
    chunk: list[Any] = []
    start, characters = 0, 0
    for place, text in enumerate(texts):
        length = len(text) if isinstance(text, str) else 0
        if chunk and (len(chunk) == _CHUNK or characters + length > most):
            yield start, chunk
            chunk, start, characters = [], place, 0
        chunk.append(text)
        characters += length
    if chunk:
        yield start, chunk


def encode_all(encode: EncodeSome, texts: Sequence[Any], first: int) -> list[Encoded]:
    """Return ids and spans of each text, of long ones part by part. ``first``: number of the first text."""
    found: list[Encoded] = []
    for long, group in groupby(enumerate(texts, first), lambda item: isinstance(item[1], str) and len(item[1]) > _LONG):
        numbers, some = zip(*group, strict=True)
        if not long:
            found += encode(some, numbers[0])
            continue
        for number, text in zip(numbers, some, strict=True):
            parts = list(encode_parts(encode, text, number))
            found.append((np.concatenate([ids for ids, _ in parts]), np.concatenate([own for _, own in parts])))
    return found


def encode_ends(
    encode: EncodeBatch, texts: Sequence[str], tokens: int, *, first: int = 0, end: bool = False
) -> list[np.ndarray]:
    """Return ids of each text, special strings read as such; of a long text its first ``tokens``, or more of them.

    end  its last instead
    first, errors: as of :meth:`Tokenizer.encode_batch`
    """
    size = _PER_TOKEN * tokens + _REACH
    parts = [_end(text, size) if end else _beginning(text, size) for text in texts]
    rows = encode(parts, specials=True, first=first)
    for index, text in enumerate(texts):
        part, longer = parts[index], size
        while len(part) < len(text) and len(rows[index]) < tokens + _MARGIN:  # few tokens: many spaces, mostly
            longer *= 4
            part = _end(text, longer) if end else _beginning(text, longer)
            (rows[index],) = encode([part], specials=True, first=first + index)
        if len(part) < len(text):
            rows[index] = rows[index][_MARGIN:] if end else rows[index][:-_MARGIN]
    return rows


def is_whole(text: str, tokens: int) -> bool:
    """Return whether :func:`encode_ends` gives all ids of a text, so that their number is its length."""
    return len(text) <= _PER_TOKEN * tokens + 2 * _REACH


def _beginning(text: str, size: int) -> str:
    if len(text) <= size + _REACH:
        return text
    place = text.find(" ", size, size + _REACH)
    return text[: place if place > 0 and not text[place - 1].isspace() else size]


def _end(text: str, size: int) -> str:
    if len(text) <= size + _REACH:
        return text
    place = text.rfind(" ", len(text) - size - _REACH, len(text) - size)
    return text[place if place > 0 and not text[place - 1].isspace() else len(text) - size :]


def encode_parts(encode: EncodeSome, text: str, number: int = 0) -> Iterator[Encoded]:
    """Yield ids and spans of a long text part by part; a part begins where a token of the one before it ended.

    A border between two tokens of the whole text is one between those of each side by itself, and the other way round
    but for the last tokens of a part: they are read again with the next one. That begins a few tokens before the
    border, for tokenizers that put a space before a text.
    """
    start = border = 0
    while True:
        check_cancelled()
        part = text[start : start + PART]
        ((ids, spans),) = encode([part], number)
        kept = int(np.searchsorted(spans[:, 0], border - start)) if border > start else 0
        if border > start and (kept == len(spans) or spans[kept, 0] != border - start):
            start = border  # its tokens stand otherwise
            continue
        ids, spans = ids[kept:], spans[kept:]
        if start + len(part) >= len(text):
            yield ids, spans + start
            return
        end = _resume(part, spans)
        yield (ids[:end], spans[:end] + start) if end else (ids, spans + start)
        if not end:  # no token ends there: a tokenizer that knows nothing of it
            start = border = start + len(part)
        else:
            start, border = start + int(spans[max(0, end - _AGAIN), 0]), start + int(spans[end, 0])


def _resume(part: str, spans: np.ndarray) -> int:
    """Return the first token of a part that is left to the next one: where there is, one at the beginning of a word.

    That is one that begins with a space, or else one behind white space: WordPiece leaves that out.
    """
    last = len(spans) - _MARGIN
    nearby = range(last, max(last - _REACH, last // 2), -1)
    for index in nearby:
        place = int(spans[index, 0])
        if place and part[place] == " " and not part[place - 1].isspace():
            return index
    for index in nearby:
        place = int(spans[index, 0])
        if place and part[place - 1].isspace() and spans[index - 1, 1] < place:
            return index
    for index in range(last, 0, -1):
        # between characters: not those of one in bytes, nor a space that was put before it
        if spans[index - 1, 0] < spans[index, 0] and spans[index - 1, 1] <= spans[index, 0]:
            return index
    return 0
