"""Compare two tokenizers on texts: documents with the same tokens, and bytes per token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from mmbert.errors import DataError
from mmbert.tokenizer.tokenizer import Tokenizer

_BATCH = 256
"""Documents encoded at once."""


@dataclass(frozen=True)
class Comparison:
    """The same texts with two tokenizers. Tokens are counted without <bos> and <eos>."""

    documents: int
    same: int
    """Documents cut into the very same tokens."""
    bytes: int
    """Of UTF-8."""
    before: int
    """Tokens."""
    after: int
    kept: int
    """Of the tokens before, those that there still are."""

    @property
    def kept_share(self) -> float:
        return self.kept / self.before

    @property
    def same_share(self) -> float:
        return self.same / self.documents

    @property
    def bytes_per_token(self) -> tuple[float, float]:
        """Return the bytes per token before and after."""
        return self.bytes / self.before, self.bytes / self.after


def compare(before: Tokenizer, after: Tokenizer, texts: Iterable[str]) -> Comparison:
    """Cut texts with both tokenizers. Raises DataError if there is nothing to cut."""
    new_id = {after.id_to_token(index): index for index in range(after.vocab_size)}
    table = np.array([new_id.get(before.id_to_token(index), -1) for index in range(before.vocab_size)])
    documents = same = size = old_tokens = new_tokens = kept = 0
    for batch in batches(texts):
        for text, old, new in zip(batch, before.encode_batch(batch), after.encode_batch(batch), strict=True):
            documents += 1
            # Ids are compared through the strings of their tokens, since trimming and extending renumber them.
            moved = table[old]
            same += bool(np.array_equal(moved, new))
            # -1: the token is gone, so its text is now spelled by other tokens.
            kept += int((moved >= 0).sum())
            size += len(text.encode())
            old_tokens += len(old)
            new_tokens += len(new)
    if not old_tokens:
        # Every share below divides by these tokens.
        raise DataError("no text to compare tokenizers on: is the file empty, or of other languages?")
    return Comparison(documents, same, size, old_tokens, new_tokens, kept)


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield lists of texts to encode at once, without empty texts."""
    rest = (text for text in texts if text)
    while batch := list(islice(rest, _BATCH)):
        yield batch
