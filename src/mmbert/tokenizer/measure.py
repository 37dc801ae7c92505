"""Measure how many tokens a tokenizer needs in each language."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mmbert.tokenizer.tokenizer import Tokenizer

_BATCH = 1 << 20
"""Characters encoded together."""


@dataclass(frozen=True, slots=True)
class Fertility:
    """The token statistics of one language. ``<bos>`` and ``<eos>`` are not counted."""

    language: str
    bytes_per_token: float
    """UTF-8 bytes; 1 would be no tokenizer at all. Scripts of two or three bytes a character start higher."""
    characters_per_token: float
    """Of use within one script, and where there are no spaces between words."""
    tokens_per_word: float
    """A word is what stands between white space, so this says little for Thai, Chinese or Japanese."""
    byte_fallback_rate: float
    """Part of the tokens that are single bytes of a character the vocabulary lacks."""
    unknown_rate: float
    """Part of the tokens that are <unk>, for what a vocabulary without byte fallback lacks."""
    tokens: int
    characters: int
    bytes: int


@dataclass(slots=True)
class _Sums:
    tokens: int = 0
    fallback: int = 0
    unknown: int = 0
    words: int = 0
    characters: int = 0
    bytes: int = 0


def measure(
    tokenizer: Tokenizer, texts: Iterable[tuple[str, str]], *, max_characters: int | None = None
) -> list[Fertility]:
    """Count over (language, text) pairs; worst first: the fewest bytes per token.

    max_characters  stop counting a language after so many; null: all
    Languages without a token are left out. Raises TokenizerError for what is not text.
    """
    is_byte = np.zeros(tokenizer.vocab_size, dtype=bool)
    is_byte[list(tokenizer.byte_tokens)] = True
    sums: defaultdict[str, _Sums] = defaultdict(_Sums)
    batch: list[tuple[str, str]] = []

    def count() -> None:
        for (language, text), ids in zip(batch, tokenizer.encode_batch([text for _, text in batch]), strict=True):
            of = sums[language]
            of.tokens += len(ids)
            of.fallback += int(is_byte[ids].sum())
            of.unknown += int((ids == tokenizer.unk_id).sum())
            of.words += len(text.split())
            of.bytes += len(text.encode())
        batch.clear()

    waiting = 0
    for language, text in texts:
        left = len(text) if max_characters is None else max_characters - sums[language].characters
        part = text[: max(left, 0)]
        if not part:
            continue
        sums[language].characters += len(part)
        batch.append((language, part))
        waiting += len(part)
        if waiting >= _BATCH:
            count()
            waiting = 0
    count()
    found = [_fertility(language, of) for language, of in sums.items() if of.tokens]
    return sorted(found, key=lambda fertility: (fertility.bytes_per_token, fertility.language))


def _fertility(language: str, of: _Sums) -> Fertility:
    return Fertility(
        language=language,
        bytes_per_token=of.bytes / of.tokens,
        characters_per_token=of.characters / of.tokens,
        tokens_per_word=of.tokens / max(of.words, 1),
        byte_fallback_rate=of.fallback / of.tokens,
        unknown_rate=of.unknown / of.tokens,
        tokens=of.tokens,
        characters=of.characters,
        bytes=of.bytes,
    )
