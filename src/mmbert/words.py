"""Split text in any script into words, as far as its characters tell them apart.

A tokenizer of Gemma's kind knows no words: its tokens carry the space before them, and all of a text is its word 0.
What counts here as a word is a run of letters, marks and digits, with a hyphen, apostrophe or the like inside
(``Jean-Pierre``, ``U.S``), or a run of other signs. Scripts that put no spaces between words (Han, Kana, Thai, Lao,
Khmer, Burmese, ...) do not tell theirs: there each character with its marks stands for itself.
"""

from __future__ import annotations

import re
import unicodedata

import numpy as np

_UNSPACED = (
    "CJK", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR", "TAI ",
    "NEW TAI", "YI ", "BALINESE", "JAVANESE", "TANGUT",
)  # fmt: skip
"""How the names of letters begin in scripts without spaces."""

_JOINERS = frozenset("'’ʼ-‐‑.·&@/:")
"""Signs that may stand inside a word."""

_WORD = re.compile("w[wm]*(?:j[w][wm]*)*|um*|[pjm]+")


def number_words(text: str) -> np.ndarray:
    """Return the word of each character (n,) int64, counted from 0; -1 for space."""
    kinds = text.translate(_KINDS)
    words = np.full(len(text), -1, np.int64)
    for number, match in enumerate(_WORD.finditer(kinds)):
        words[match.start() : match.end()] = number
    return words


def word_spans(text: str) -> list[tuple[int, int]]:
    """Return the characters [start, end) of each word, in order."""
    return [match.span() for match in _WORD.finditer(text.translate(_KINDS))]


def _kind(character: str) -> str:
    """Return s: space, w: letter or digit, u: letter of an unspaced script, m: mark, j: joiner, p: other sign."""
    category = unicodedata.category(character)
    if character.isspace() or character == "\u200b":
        return "s"
    if category[0] == "L":
        return "u" if unicodedata.name(character, "").startswith(_UNSPACED) else "w"
    if category[0] == "N" or category == "Pc":
        return "w"
    if category[0] == "M" or category == "Cf":
        return "m"
    return "j" if character in _JOINERS else "p"


class _Kinds(dict[int, str]):
    """The kind of each character by its code, looked up as characters occur."""

    def __missing__(self, code: int) -> str:
        self[code] = kind = _kind(chr(code))
        return kind


_KINDS = _Kinds()


def is_of_word(character: str) -> bool:
    """Return whether a character is a letter, mark or digit of a spaced script; False for no character."""
    return character.translate(_KINDS) in ("w", "m")


def is_unspaced(character: str) -> bool:
    """Return whether a character is a letter of a script without spaces between words."""
    return character.translate(_KINDS) == "u"
