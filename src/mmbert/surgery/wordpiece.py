"""The WordPiece model of a ``tokenizer.json`` (BERT and the encoders that came from it) with fewer tokens.

It cuts a word from the left, each time taking the longest token that fits; where none does, the whole word is [UNK].
Two facts follow, on which trimming rests:

1. The token that was the longest of all is the longest of fewer. So a word whose tokens are all kept is cut as before.
2. A word that was [UNK] stays it if the tokens are kept that were tried before nothing did fit. (Without them another
   way may fit: longer tokens can hold a character that is no token by itself.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmbert.surgery.tokenizer_json import Json, TokenizerJson

_MOST_KNOWN = 2**18
"""Words that are remembered, so that they are not looked at again."""


class WordPiece(TokenizerJson):
    """The tokens of a WordPiece model."""

    kind = "WordPiece"
    refused = ()

    def __init__(self, content: str, origin: str, *, config: Json | None = None) -> None:
        super().__init__(content, origin, config=config)
        self._model = self._content["model"]
        self._vocab: dict[str, int] = self._model["vocab"]
        self._longest = max(map(len, self._vocab))
        self._tried: set[int] = set()
        """Ids of what was tried in words that are [UNK]."""
        self._known: set[str] = set()
        """Words whose ids are among them, or that are cut to their end."""

    def look_at(self, text: str, ids: np.ndarray) -> None:
        """Remember what is tried in the words of a text that are [UNK]."""
        if self.tokenizer.unk_id in ids:
            words = {*self.tokenizer.split_words(text)} - self._known
            if len(self._known) > _MOST_KNOWN:
                self._known.clear()
            self._known |= words
            for word in words:
                self._tried |= self._taken_in_vain(word)

    def beside(self, counts: np.ndarray, min_count: int) -> tuple[list[str], list[str]]:
        """Return tokens to keep beside those of the text; among the others, what is tried in words that are [UNK]."""
        required, others = super().beside(counts, min_count)
        return required, [*(token for token, index in self._vocab.items() if index in self._tried), *others]

    def character(self, token: str) -> str:
        """Return the character that a token is, at the beginning of a word or within one."""
        return super().character(token.removeprefix(self.tokenizer.continuing_prefix) or token)

    def _taken_in_vain(self, word: str) -> set[int]:
        """Return the ids of the tokens that are taken before nothing fits; none for a word that is cut to its end."""
        if len(word) > self._model.get("max_input_chars_per_word", 100):
            return set()  # is [UNK] for its length
        taken: set[int] = set()
        start, prefix = 0, ""
        while start < len(word):
            ends = range(min(len(word), start + self._longest), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self._vocab), None)
            if end is None:
                return taken
            taken.add(self._vocab[prefix + word[start:end]])
            start, prefix = end, self.tokenizer.continuing_prefix
        return set()

    def _restricted_model(self, new: Mapping[int, int]) -> Json:
        kept: dict[str, Any] = {token: new[index] for token, index in self._vocab.items() if index in new}
        return {**self._model_without("vocab"), "vocab": dict(sorted(kept.items(), key=lambda item: item[1]))}
