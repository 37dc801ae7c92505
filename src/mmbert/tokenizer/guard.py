"""Guards against bad ``tokenizer.json`` files: Rust errors and panics, and rules that make texts explode in length."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mmbert.errors import TokenizerError, first_line

_MOST = 128
"""By what factor the rules of one file may lengthen a text, all of them together; a factor of real files is 3."""


@contextmanager
def no_panic(origin: str) -> Iterator[None]:
    """Turn a panic of the Rust library, which is no Exception, into a TokenizerError that names the file."""
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(
            f"{origin} makes the tokenizers library fail ({first_line(error)}): do not use it"
        ) from error


def unreadable(texts: Sequence[Any], start: int, error: Exception) -> TokenizerError:
    """Return what is wrong with the first text that cannot be encoded."""
    for number, text in enumerate(texts, start):
        if not isinstance(text, str):
            return TokenizerError(f"text {number} is {type(text).__name__}, not str")
        try:
            text.encode()
        except UnicodeEncodeError as fault:
            return TokenizerError(
                f"text {number} holds a lone surrogate at character {fault.start}: decode it as UTF-8 first"
            )
    return TokenizerError(f"cannot encode: {first_line(error)}")


def check_expansion(values: Any, origin: str) -> None:
    """Raise TokenizerError for a file whose rules could make millions of characters of one.

    Unicode's own forms are bounded (18 characters of one); what a file says itself is counted: the texts that Replace,
    Prepend and a table of SentencePiece put in, one rule after the other.
    """
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        factor = _factor(values.get(part) if isinstance(values, dict) else None)
        if factor > _MOST:
            what = f"its {part} makes up to {factor:,.0f} characters of one, at most {_MOST} are taken"
            raise TokenizerError(f"{origin} is not supported: {what}")
    model = values.get("model") if isinstance(values, dict) else None
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        text = model.get(key) if isinstance(model, dict) else None
        if isinstance(text, str) and len(text) > _MOST:
            raise TokenizerError(f"{origin} is not supported: its {key} has {len(text):,} characters")


def _factor(part: Any) -> float:
    """Return the largest factor by which a rule, or a sequence, lengthens a text. Unicode's own forms count as 1."""
    if not isinstance(part, dict):
        return 1.0
    kind = part.get("type")
    if kind == "Sequence":
        product = 1.0
        for rules in ("normalizers", "pretokenizers", "decoders"):
            for rule in part.get(rules) or ():
                product = min(product * _factor(rule), 1e12)
        return product
    if kind == "Replace":
        pattern = part.get("pattern")
        literal = pattern.get("String") if isinstance(pattern, dict) else None
        return max(1.0, len(str(part.get("content", ""))) / max(1, len(literal or "")))
    if kind == "Prepend":  # once a text
        return max(1.0, len(str(part.get("prepend", ""))) / 16)
    if kind == "Precompiled":
        return _longest_entry(part.get("precompiled_charsmap")) / 32
    return 1.0


def _longest_entry(table: Any) -> float:
    """Return the bytes of the longest text in a SentencePiece table (trie size, trie, zero-terminated texts)."""
    try:
        raw = base64.b64decode(table or "")
        (trie,) = struct.unpack_from("<I", raw)
    except (TypeError, ValueError, binascii.Error, struct.error):
        return 32.0  # the library says what is wrong with it
    return float(max(32, *map(len, raw[4 + trie :].split(b"\0"))))
