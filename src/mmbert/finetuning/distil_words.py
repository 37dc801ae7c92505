"""Texts of words that are drawn from a vocabulary: what a corpus does not say, a teacher still knows.

A corpus of Bibles and stories leaves much of a vocabulary of 250,000 tokens unread, in other fields above all. Lists of
its words, of one script each, teach their meaning too. (Model2Vec, github.com/MinishLab/model2vec, distils a teacher's
vectors of single tokens; lists give more of them a text, and with company.)
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

from mmbert.data.permute import key_of
from mmbert.words import is_unspaced, word_spans

LEAST, MOST = 6, 20
"""Words of a text."""

_LETTERS = 3
"""Letters of the shortest word; shorter tokens are mostly pieces. A script without spaces has words of two."""


def word_texts(tokens: Sequence[str], count: int, seed: int) -> list[str]:
    """Return ``count`` texts of words from ``tokens`` (``Tokenizer.token_texts``); none if these have no words.

    The first word is drawn from all of them, the others from those of its script.
    """
    by_script: dict[str, list[str]] = {}
    for token in tokens:
        if word := _word_of(token):
            by_script.setdefault(unicodedata.name(word[0], "").partition(" ")[0], []).append(word)
    if not by_script:
        return []
    lists = list(by_script.values())
    sizes = np.array([len(words) for words in lists])
    draw = np.random.default_rng(key_of(seed, "vocabulary"))
    found = []
    for script in draw.choice(len(lists), size=count, p=sizes / sizes.sum()):
        chosen = draw.integers(sizes[script], size=draw.integers(LEAST, MOST, endpoint=True))
        found.append(" ".join(lists[script][index] for index in chosen))
    return found


def _word_of(token: str) -> str:
    """Return the word that a token is, without the space before it; nothing for pieces of words and for signs."""
    word = token.strip()
    if not word or not all(unicodedata.category(character)[0] in "LM" for character in word):
        return ""
    if is_unspaced(word[0]):
        return word if len(word) > 1 else ""
    whole = token[0] == " " and len(word) >= _LETTERS and len(word_spans(word)) == 1
    return word if whole else ""
