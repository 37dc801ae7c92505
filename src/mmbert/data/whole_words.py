"""Group tokens into words, so that they are masked together (whole-word masking, arXiv 1906.08101).

Shards hold ids without the text. What can be told of an id is how its own text begins and ends, and two tokens side by
side are of one word where a letter, mark or digit meets another. In scripts without spaces between words each token is
a word of its own: a tokenizer of Gemma's kind cuts them into words or less.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmbert.words import is_of_word

LONGEST = 16
"""Tokens of a word. What is longer, such as a run of bytes, is cut: a mask over a whole sentence asks for nothing."""


class WholeWords:
    """The words of a tokenizer's tokens.

    texts  (V,) the text of each id; empty for special tokens, U+FFFD for a token that is a part of a character
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._opens = np.array([_inside(text[:1]) for text in texts], dtype=np.bool_)
        self._closes = np.array([_inside(text[-1:]) for text in texts], dtype=np.bool_)

    def starts(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return for each token (T,) the place where its word begins; special tokens are words of their own."""
        places = np.arange(len(ids))
        begins = np.ones(len(ids), dtype=np.bool_)
        begins[1:] = ~(self._closes[ids[:-1]] & self._opens[ids[1:]])
        first = np.maximum.accumulate(np.where(begins, places, 0))
        return places - (places - first) % LONGEST


def _inside(character: str) -> bool:
    """Return whether a word may go on at this character."""
    return character == "\ufffd" or is_of_word(character)
