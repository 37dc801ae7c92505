"""Words in a raw sentence: where each stands, and the token that begins it.

A tokenizer of Gemma's kind knows no words (``word_ids()`` says 0 for all), and words that are handed to it one by one
lose the space before them, which is part of their first token. So the raw sentence is encoded as it is, and gold words
are found in it by their characters. Where a data set has words only, the sentence is put together again (``join``).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

from mmbert.words import is_unspaced

Span = tuple[int, int]

_CLOSING = frozenset(".,;:!?)]}%…»”’،؛؟।॥።፣፤፥፦፧፡、。，．：；！？）」』】》")
_OPENING = frozenset("([{«“‘¿¡（「『【《")


def join_words(words: Sequence[str], how: str = "auto") -> tuple[str, list[Span]]:
    """Return a sentence of these words, and the characters of each.

    how  space: one between any two; none: nothing; auto: one, but none beside a letter of a script without spaces, nor
         before closing or after opening punctuation
    """
    text, spans = "", []
    for number, word in enumerate(words):
        if number and (how == "space" or (how == "auto" and _apart(text, word))):
            text += " "
        spans.append((len(text), len(text) + len(word)))
        text += word
    return text, spans


def find_words(text: str, words: Sequence[str]) -> list[Span] | None:
    """Return the characters of each word in the raw sentence, in order; None if one is not there.

    A treebank's words may not be: German ``zum`` is ``zu`` and ``dem`` there.
    """
    spans, end = [], 0
    for word in words:
        start = text.find(word, end)
        if start < 0 or text[end:start].strip():  # nothing but space may be passed over
            return None
        end = start + len(word)
        spans.append((start, end))
    return spans


def first_tokens(tokens: np.ndarray, words: Sequence[Span]) -> np.ndarray:
    """Return for each word the first token that has a character of it: (words,), -1 where there is none.

    tokens  (n, 2) characters of each token, ascending, the space before a word not in them
    Two words of a script without spaces may begin in one token.
    """
    if not len(tokens):
        return np.full(len(words), -1, np.int64)
    starts = np.array([start for start, _ in words], np.int64)
    ends = np.array([end for _, end in words], np.int64)
    solid = tokens[:, 0] < tokens[:, 1]
    # a token of nothing but space ends where it begins, and must not be taken for the word's
    reach = np.maximum.accumulate(np.where(solid, tokens[:, 1], 0))
    found = np.searchsorted(reach, starts, side="right")
    inside = np.minimum(found, len(tokens) - 1)
    there = (found < len(tokens)) & (tokens[inside, 0] < ends) & (starts < ends)
    return np.where(there, inside, -1)


def _apart(text: str, word: str) -> bool:
    if not text or not word:
        return False
    before, after = text[-1], word[0]
    if after in _CLOSING and len(word) == 1:
        return False
    if before in _OPENING:
        return False
    return not (is_unspaced(before) or is_unspaced(after) or _wide(before) or _wide(after))


def _wide(character: str) -> bool:
    """Return whether it is East Asian punctuation, as wide as a letter."""
    return unicodedata.category(character)[0] == "P" and unicodedata.east_asian_width(character) in "WF"
