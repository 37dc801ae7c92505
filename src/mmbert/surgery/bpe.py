"""The byte-pair encoding in a ``tokenizer.json``: token dependencies, and the same file with fewer or more tokens.

How it encodes a word: start from characters (those that are no token: their bytes), and while any neighbours form a
merge of the list, join the earliest listed one, leftmost first. Two facts follow, on which trimming and extending rest:

1. Inside the span of a token of the result nothing outside mattered: no merge crossed its ends. So the token was made
   by the very merges that encode its own text, and these make the same intermediate tokens everywhere: its *path*.
2. A merge that a run never applied can be removed without changing that run: at every step the earliest merge that can
   be applied is still the earliest of fewer. So a text whose tokens and their paths are all kept is cut as before,
   whatever other merges are gone.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from mmbert.surgery.tokenizer_json import Json, TokenizerJson
from mmbert.tokenizer.spelling import SPACE
from mmbert.tokenizer.tokenizer import BYTE


class Bpe(TokenizerJson):
    """The tokens, ids and merges of a ``tokenizer.json`` with a plain BPE."""

    kind = "BPE"
    # Both facts above are proved for plain BPE only. Dropout or affixes would make the encoding of a token's own text
    # differ from its encoding inside a word.
    refused = ("continuing_subword_prefix", "end_of_word_suffix", "dropout")

    def __init__(self, content: str, origin: str, *, config: Json | None = None) -> None:
        super().__init__(content, origin, config=config)
        self.merges: list[tuple[str, str]] = [_pair(merge) for merge in self._content["model"]["merges"]]
        self._rank = {pair: rank for rank, pair in enumerate(self.merges)}

    def needs(self, token: str) -> set[int]:
        """Return the ids of a token and of the tokens on its path. Added tokens are found in a text as they are."""
        return {self.ids[part] for part in ({token} if token in self.added else self.path(token))}

    def always(self) -> list[str]:
        """Return the tokens that are kept whatever the text; without byte fallback, all single characters.

        They stand for bytes then (byte-level BPE).
        """
        kept = super().always()
        return kept if self.tokenizer.byte_ids else [*kept, *(token for token in self.ids if len(token) == 1)]

    def beside(self, counts: object, min_count: int) -> tuple[list[str], list[str]]:
        """Return nothing more: :meth:`always` has all characters, or bytes that spell them."""
        return [], []

    def path(self, token: str) -> set[str]:
        """Return the token and all intermediate tokens of its merges; the token alone if no merges make it."""
        # Quadratic in the length of a token, which is short.
        parts, seen = list(token), {token, *token}
        while len(parts) > 1:
            ranks = [self._rank.get(pair, len(self._rank)) for pair in pairwise(parts)]
            rank = min(ranks)  # the earliest merge of the list is applied first, as the library does
            if rank == len(self._rank):
                return {token}
            place = ranks.index(rank)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
            seen.add(parts[place])
        return seen

    def _restricted_model(self, new: Mapping[int, int]) -> Json:
        """Return the model with the kept tokens; every merge stays whose parts and product stay."""
        tokens = {token: new[index] for token, index in self.ids.items() if index in new}
        # Removing a merge that a text never applies does not change how the text is split (fact 2 above).
        merges = [pair for pair in self.merges if all(part in tokens for part in (*pair, "".join(pair)))]
        return self._model(tokens, merges)

    def extended(self, tokens: Sequence[str], merges: Iterable[tuple[str, str]]) -> str:
        """Return the ``tokenizer.json`` with more tokens, under the next ids, and more merges, after the others."""
        known = dict(self.ids)
        first = max(known.values()) + 1
        known.update({token: first + number for number, token in enumerate(tokens)})
        # New merges come last: a text is first split as before, and then its tokens are joined further.
        content = {**self._without_model(), "model": self._model(known, [*self.merges, *merges])}
        return json.dumps(content, ensure_ascii=False) + "\n"

    def _model(self, tokens: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> Json:
        """Return a model of another vocabulary, added tokens included: the library would renumber them otherwise."""
        vocab = dict(sorted(tokens.items(), key=lambda item: item[1]))
        return {**self._model_without("vocab", "merges"), "vocab": vocab, "merges": [list(pair) for pair in merges]}


def is_wordlike(token: str) -> bool:
    """Return whether a token is letters, marks and joiners after at most one space (or that space alone)."""
    body = token[1:] if token[:1] in (SPACE, " ") else token
    if BYTE.fullmatch(token) or not token:
        return False
    return all(unicodedata.category(character)[0] in "LM" or character in "\u200c\u200d" for character in body)


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    """Return a merge in either of its JSON forms: ``"a b"`` (old) or ``["a", "b"]`` (new)."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right
