"""Choose and mask tokens: masked language modelling with 80/10/10 corruption.

Every token except <bos> and <eos> is chosen with the same probability. Of the chosen tokens, 80 % become <mask>, 10 % a
random token, and 10 % stay; the model predicts all of them. The choice is drawn from a counter-based generator whose
key is the place of the batch in the run. It therefore depends neither on ranks nor on threads, and the next epoch of a
text gets other masks. Random integers are compared with thresholds, so that all machines and versions agree.

With whole words, all tokens of a word share the random number of its first token.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mmbert.data.permute import digest_of
from mmbert.data.whole_words import WholeWords
from mmbert.errors import DataError

_RANGE = 1 << 32


class HasVocabulary(Protocol):
    """The tokenizer attributes that masking needs."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def pad_id(self) -> int: ...
    @property
    def eos_id(self) -> int: ...
    @property
    def bos_id(self) -> int: ...
    @property
    def unk_id(self) -> int: ...
    @property
    def mask_id(self) -> int: ...


@dataclass(frozen=True)
class Vocabulary:
    """The ids from which batches are made."""

    size: int
    pad: int
    eos: int
    bos: int
    unk: int
    mask: int

    @classmethod
    def of(cls, tokenizer: HasVocabulary) -> Vocabulary:
        """Return the vocabulary of a tokenizer."""
        t = tokenizer
        return cls(t.vocab_size, t.pad_id, t.eos_id, t.bos_id, t.unk_id, t.mask_id)

    @cached_property
    def is_special(self) -> NDArray[np.bool_]:
        """Return (size,) bool: True for the five ids that stand for no text."""
        table = np.zeros(self.size, dtype=np.bool_)
        table[[self.pad, self.eos, self.bos, self.unk, self.mask]] = True
        return table

    @cached_property
    def regular(self) -> NDArray[np.int64]:
        """Return the ids that may replace a token."""
        return np.flatnonzero(~self.is_special)


def generator(*key: str | int) -> np.random.Philox:
    """Return the random generator of a key, such as (seed, phase, draw, offset, bin)."""
    return np.random.Philox(key=int.from_bytes(digest_of("mask", *key), "little"))


def draw(offsets: NDArray[np.int32], bits: np.random.Philox) -> NDArray[np.uint32]:
    """Return one uniform 32-bit number for each token (T,); the largest for <bos> and <eos>, which are never chosen.

    Needs the lengths of the sequences only: so each rank counts the labels of all others without their text.
    """
    numbers = _uniform(int(offsets[-1]), bits)
    numbers[offsets[:-1]] = _RANGE - 1  # threshold() never exceeds this, so <bos> and <eos> are never chosen
    numbers[offsets[1:] - 1] = _RANGE - 1
    return numbers


def threshold(rate: float) -> int:
    """Return the number below which a token is chosen."""
    # Integers, so that no machine's rounding of a float decides whether a token is chosen.
    return min(round(rate * _RANGE), _RANGE - 1)


def count_labels(offsets: NDArray[np.int32], rate: float, bits: np.random.Philox) -> int:
    """Return how many tokens ``mask`` chooses with the same arguments, without whole words."""
    return int(np.count_nonzero(draw(offsets, bits) < threshold(rate)))


def mask(
    ids: NDArray[np.int64],
    offsets: NDArray[np.int32],
    rate: float,
    bits: np.random.Philox,
    vocabulary: Vocabulary,
    words: WholeWords | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Corrupt a packed batch: (ids to show, targets, labels); targets may be empty at a small rate.

    ids      (T,) sequences <bos> text <eos> end to end, left as they are
    offsets  (S + 1,) where they begin
    words    hide, replace or keep all tokens of a word together; None: each token for itself
    targets  (N,) ascending positions of the chosen tokens; labels (N,) their ids
    Raises DataError if a special token stands inside a text.
    """
    numbers = draw(offsets, bits)
    if words is not None:  # every token of a word takes the number of the first one, and so the same treatment
        numbers = numbers[words.starts(ids)]
    targets = np.flatnonzero(numbers < threshold(rate))
    labels = ids[targets]
    _check(labels, vocabulary)
    shown = ids.copy()
    # The number itself says what becomes of a token: the lowest 80 % of the chosen are hidden, the next 10 % replaced.
    chosen = numbers[targets]
    shown[targets[chosen < threshold(0.8 * rate)]] = vocabulary.mask
    replaced = targets[(chosen >= threshold(0.8 * rate)) & (chosen < threshold(0.9 * rate))]
    # (number * V) >> 32 maps a 32-bit number to 0 .. V - 1 without the bias and cost of a division.
    which = (_uniform(len(replaced), bits).astype(np.uint64) * np.uint64(len(vocabulary.regular))) >> np.uint64(32)
    shown[replaced] = vocabulary.regular[which.astype(np.int64)]
    return shown, targets, labels


def hide(
    ids: NDArray[np.int64], offsets: NDArray[np.int32], rate: float, bits: np.random.Philox, vocabulary: Vocabulary
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Mask for evaluation: as ``mask``, but every chosen token becomes <mask>, and at least one is chosen."""
    numbers = draw(offsets, bits)
    # Raise the limit to the lowest number if no number is below it: at least one token is then chosen.
    lowest = int(numbers.min(initial=_RANGE - 1))
    limit = max(threshold(rate), lowest + 1 if lowest < _RANGE - 1 else 0)
    targets = np.flatnonzero(numbers < limit)
    labels = ids[targets]
    _check(labels, vocabulary)
    shown = ids.copy()
    shown[targets] = vocabulary.mask
    return shown, targets, labels


def _check(labels: NDArray[np.int64], vocabulary: Vocabulary) -> None:
    """Raise DataError for special ids in a text: ranks count each other's labels from lengths alone."""
    if not len(labels):
        return
    if int(labels.max()) >= vocabulary.size:
        raise DataError(
            f"token {int(labels.max())} in the shards is beyond the vocabulary of {vocabulary.size}: prepare again"
        )
    special = labels[vocabulary.is_special[labels]]
    if len(special):
        raise DataError(
            f"special token {int(special[0])} stands inside a text of the shards: "
            "the tokenizer needs byte fallback; prepare again with one that has it"
        )


def _uniform(count: int, bits: np.random.Philox) -> NDArray[np.uint32]:
    """Return uniform 32-bit numbers (count,)."""
    # Philox makes 64-bit numbers; as little-endian pairs of 32 bits they are the same on every machine.
    raw = bits.random_raw(-(-count // 2))
    return np.asarray(raw, dtype="<u8").view("<u4")[:count].astype(np.uint32, copy=False)
