"""The bytes of text behind each token of a vocabulary."""

from __future__ import annotations

import unicodedata
from collections.abc import Container, Mapping
from typing import Any

from tokenizers import models
from tokenizers.pre_tokenizers import ByteLevel

SPACE = "\u2581"
"""How SentencePiece writes a space."""

_PRINTABLE = {chr(byte): byte for byte in range(256) if chr(byte) in ByteLevel.alphabet()}
_OTHERS = zip(
    sorted({*ByteLevel.alphabet()} - {*_PRINTABLE}), sorted({*range(256)} - {*_PRINTABLE.values()}), strict=True
)
_BYTE_LEVEL = _PRINTABLE | dict(_OTHERS)
"""How a byte-level tokenizer writes bytes: a printable character of Latin-1 as itself, the others as U+0100 and on."""


def spelled_bytes(
    vocabulary: Mapping[str, int],
    *,
    specials: Container[int],
    added: Container[int],
    byte_tokens: Mapping[int, int],
    spacing: str,
    continuing: str = "",
) -> list[bytes]:
    """Return the bytes of each id, from 0 to the largest; none for special tokens and for ids without a token.

    vocabulary   token -> id, added tokens included
    specials     ids that stand for no text
    added        ids of tokens that are found in a text as they are
    byte_tokens  id -> byte, of the tokens of byte fallback
    spacing      normalizer and pre-tokenizer of the tokenizer.json, as JSON
    continuing   what WordPiece writes before tokens inside a word; the others have a space before them if they open one
    """
    found = [b""] * (max(vocabulary.values()) + 1)
    spaced, byte_level = SPACE in spacing, "ByteLevel" in spacing
    for token, index in vocabulary.items():
        if index in specials:
            continue
        if index in byte_tokens:
            found[index] = bytes([byte_tokens[index]])
        elif byte_level and index not in added:
            found[index] = bytes(_BYTE_LEVEL[character] for character in token if character in _BYTE_LEVEL)
        elif continuing and index not in added:
            within = token.startswith(continuing)
            text = token[len(continuing) :] if within else " " * opens_word(token) + token
            found[index] = text.encode()
        else:
            found[index] = (token.replace(SPACE, " ") if spaced else token).encode()
    return found


def falls_back_to_bytes(model: Any) -> bool:
    """Return whether a model spells what it does not know in the tokens ``<0x00>`` to ``<0xFF>``."""
    if isinstance(model, models.Unigram):  # the library says it nowhere else
        return b'"byte_fallback":true' in model.__getstate__()[-64:]
    return getattr(model, "byte_fallback", False) is True


def continuing_prefix(model: Any) -> str:
    """Return what a WordPiece model writes before a token inside a word; empty for other models."""
    return str(model.continuing_subword_prefix) if isinstance(model, models.WordPiece) else ""


def opens_word(token: str) -> bool:
    """Return whether a token of WordPiece begins a word that spaces stand around: no sign, and no Han character."""
    return token[:1].isalnum() and not unicodedata.name(token[0], "").startswith("CJK")
