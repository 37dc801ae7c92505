"""Rules that keep or drop a document. Reasons are counted for each language in ``text/report.json``.

The rules are few and know no language: whatever needs a word list or a model of a language does worst where text is
rarest. Thresholds are those of ``Cleaning`` in the recipe.
"""

from __future__ import annotations

import unicodedata

import numpy as np
from numpy.typing import NDArray

from mmbert.data.document import Document
from mmbert.recipe import Cleaning

INVALID = "invalid unicode"
SHORT = "too short"
SYMBOLS = "mostly symbols"
REPETITION = "mostly repetition"

_WORD_RUN = 64
"""One line's words are compared within runs of so many: in natural text the share of repeated words grows with length
(a novel on one line repeats 90 %), in a run of 64 it stays below a half in every language."""
_MIN_UNITS = 4
"""Fewer lines or words than this are not judged for repetition."""


def check(document: Document, cleaning: Cleaning) -> str | None:
    """The reason to drop ``document``, or None to keep it."""
    text = document.text
    if len(text.strip()) < cleaning.min_characters:
        return SHORT
    try:
        encoded = text.encode("utf-32-le")
    except UnicodeEncodeError:  # a lone surrogate: half a character, which no UTF-8 file can hold
        return INVALID
    visible, letters = _count(encoded)
    if visible - letters > cleaning.max_symbols * visible:
        return SYMBOLS
    if repetition(text) > cleaning.max_repetition:
        return REPETITION
    return None


def repetition(text: str) -> float:
    """Return the share of lines (of one line: of words within runs of 64) that are copies of earlier ones."""
    lines = list(filter(None, map(str.strip, text.split("\n"))))
    if len(lines) > 1:
        return 1 - len(set(lines)) / len(lines) if len(lines) >= _MIN_UNITS else 0.0
    words = text.split()
    if len(words) < _MIN_UNITS:
        return 0.0
    distinct = sum(len(set(words[start : start + _WORD_RUN])) for start in range(0, len(words), _WORD_RUN))
    return 1 - distinct / len(words)


def _count(encoded: bytes) -> tuple[int, int]:
    """Return the numbers of visible characters and of letters, marks and digits among them."""
    points = np.frombuffer(encoded, dtype="<u4")
    kinds = _KINDS[points]
    if kinds.max() == _UNKNOWN:
        for point in np.unique(points[kinds == _UNKNOWN]).tolist():
            _KINDS[point] = _kind(unicodedata.category(chr(point)))
        kinds = _KINDS[points]
    symbols, letters = (int(np.count_nonzero(kinds == kind)) for kind in (1, 2))
    return symbols + letters, letters


def _kind(category: str) -> int:
    if category[0] in "LMN":
        return 2
    return 0 if category[0] == "Z" or category in ("Cc", "Cf") else 1


_UNKNOWN = 3
_KINDS: NDArray[np.uint8] = np.full(0x110000, _UNKNOWN, dtype=np.uint8)
"""By code point: 0 space, control or format character; 1 symbol; 2 letter, mark or digit. Filled as they occur."""
