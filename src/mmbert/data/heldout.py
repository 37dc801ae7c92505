"""Held-out text as fixed masked batches: the same masked tokens for every model with the same tokenizer.

Measuring hides every chosen token behind <mask>: in training a tenth of them stays as it is, and a model that may
read its answer off the page cannot be compared with one that may not (a table of frequencies, say).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmbert.data.mask import HasVocabulary, Vocabulary, generator, hide
from mmbert.data.permute import key_of, permute
from mmbert.packed import Packed
from mmbert.recipe import Evaluation

_SHORTEST = 8
"""A rest of a text with fewer tokens is not worth a sequence."""
_ENCODED = 64
"""Texts encoded at a time."""


class Encodes(HasVocabulary, Protocol):
    """The tokenizer methods that held-out batches need."""

    def encode_batch(self, texts: list[str]) -> Sequence[NDArray[np.uint32]]: ...


def heldout_batches(
    tokenizer: Encodes, texts: Mapping[str, Sequence[str]], evaluation: Evaluation, seed: int
) -> dict[str, Packed]:
    """Return one masked batch of at most ``tokens_per_language`` tokens for each language, as NumPy arrays.

    Texts come in an order shuffled by (seed, language): first the beginning of each, cut to the context, then the
    second part of each, and so on until the budget is used. Every batch has at least one label. Languages without a
    token of text are left out.
    """
    vocabulary = Vocabulary.of(tokenizer)
    batches: dict[str, Packed] = {}
    for language in sorted(texts):
        sequences = _sequences(tokenizer, texts[language], evaluation, key_of(seed, "heldout", language))
        if not sequences:
            continue
        packed = Packed.from_lists(sequences)
        bits = generator(seed, "heldout", language)
        shown, targets, labels = hide(packed.ids, packed.offsets, evaluation.mask_rate, bits, vocabulary)
        batches[language] = Packed(shown, packed.offsets, packed.longest, targets, labels)
    return batches


def _sequences(tokenizer: Encodes, texts: Sequence[str], evaluation: Evaluation, key: int) -> list[NDArray[np.int64]]:
    """Return sequences <bos> segment <eos>, within the token budget of one language."""
    left = evaluation.tokens_per_language
    sequences: list[NDArray[np.int64]] = []
    for segment in _segments(tokenizer, texts, evaluation.context - 2, key):
        if left < 3:
            break
        part = segment[: left - 2]
        if len(part):
            sequences.append(np.concatenate([[tokenizer.bos_id], part, [tokenizer.eos_id]]).astype(np.int64))
            left -= len(part) + 2
    return sequences


def _segments(tokenizer: Encodes, texts: Sequence[str], longest: int, key: int) -> Iterator[NDArray[np.uint32]]:
    """Yield the first segment of every text, then the second segments, and so on. Texts are encoded lazily."""
    documents: list[NDArray[np.uint32]] = []
    order = permute(np.arange(len(texts)), len(texts), key).tolist()
    for begin in range(0, len(order), _ENCODED):
        for document in tokenizer.encode_batch([texts[number] for number in order[begin : begin + _ENCODED]]):
            documents.append(document)
            yield document[:longest]
    for begin in range(longest, max((len(document) for document in documents), default=0), longest):
        for document in documents:
            if len(document) >= begin + _SHORTEST:
                yield document[begin : begin + longest]
