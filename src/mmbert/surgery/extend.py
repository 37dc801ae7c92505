"""Add tokens for a language or script that a tokenizer splits into bytes or short tokens.

1. Characters that are spelled in bytes become tokens. (Merges of byte tokens would be obeyed by ``tokenizers``, but its
   byte-fallback decoder knows single bytes only: ``<0xE1><0x8E>`` would be decoded as these twelve characters.)
2. On the new text, cut by the old tokens and these characters, more merges are learned (``learn.py``), inside words.
3. They are appended to the list of merges. An appended merge comes after all older ones, so any text is first cut as
   before and then joined further: text in which no new pair stands side by side does not change at all. Where two old
   tokens do stand so, in any language, they are joined; ``keep`` names text in which this must not happen.
4. The row of a new token is the mean of the rows of what it replaces, and so is its bias in the decoder: where a model
   is to go on from in training, not yet something it has learned.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmbert.errors import DataError, TokenizerError
from mmbert.surgery.bpe import Bpe, is_wordlike
from mmbert.surgery.compare_tokenizers import batches
from mmbert.surgery.learn import Pair, learn_merges
from mmbert.surgery.tokenizer_json import is_space
from mmbert.surgery.vocabulary import Row, Size, open_vocabulary, rewrite
from mmbert.tokenizer.spelling import SPACE

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExtendReport:
    """The new tokens, and the sizes before and after."""

    characters: list[str]
    """New tokens that were spelled in bytes."""
    merges: list[Pair]
    """New tokens joined from others, in their order."""
    before: Size
    after: Size


def extend(
    model: str | Path, texts: Sequence[str], out: Path, *, tokens: int, keep: Iterable[str] = (), min_count: int = 2
) -> ExtendReport:
    """Write ``model`` with up to ``tokens`` more tokens, learned on ``texts``, to the folder ``out`` (atomic).

    model      a folder (masked language model, encoder, classifier, sentence-transformers) or a hub name
    texts      text of the new language, in memory
    keep       text that must be cut as before (but for characters that become tokens), read once
    min_count  how often a character or a pair must occur

    At most half of the new tokens are characters. Old ids do not change. Raises DataError for no text or where it
    gives no new token, TokenizerError and WeightsError for a model that cannot be extended.
    """
    source, bpe = open_vocabulary(model)
    if not isinstance(bpe, Bpe):
        raise TokenizerError(
            f"{source.encoder}: the tokenizer is no BPE but {bpe.kind}, to which no tokens can be added"
        )
    if not bpe.tokenizer.byte_ids:
        raise TokenizerError(f"{source.encoder}: the tokenizer has no byte fallback: there is nothing it cannot write")
    # Characters first: merges are learned on text in which these characters are tokens already.
    characters = new_characters(bpe, texts, limit=tokens // 2, min_count=min_count)
    spelled = Bpe(bpe.extended(characters, []), "the tokenizer with new characters") if characters else bpe
    merges = learn_merges(
        count_words(spelled, texts),
        tokens - len(characters),
        known=spelled.ids.keys(),
        refused=neighbours(spelled, keep),
        min_count=min_count,
    )
    if not characters and not merges:
        raise DataError(f"the text gives no new token that occurs {min_count} times: give more text")
    joined = ["".join(pair) for pair in merges]
    replaced = replaced_tokens(bpe, characters, merges)
    first = bpe.tokenizer.vocab_size
    new_rows: list[Row] = [*range(first), *(replaced[token] for token in (*characters, *joined))]
    # The embedding may have more rows than tokens (padding to a multiple): the surplus keeps its old rows.
    new_rows += range(len(new_rows), source.rows())  # rows that no token had, beyond those now given
    before, after = rewrite(source, out, bpe.extended([*characters, *joined], merges), new_rows)
    logger.info("added %d characters and %d merges in %s", len(characters), len(merges), out)
    return ExtendReport(characters, merges, before, after)


def new_characters(bpe: Bpe, texts: Iterable[str], *, limit: int, min_count: int = 2) -> list[str]:
    """Return the characters of the text that are spelled in bytes, those first that save most tokens."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    spelled: Counter[str] = Counter()
    for character, count in counts.items():
        for part in bpe.tokenizer.normalise(character):
            # The normaliser may split a character (NFD); what becomes a token is what the model is given.
            if part not in bpe.ids and not is_space(part):
                spelled[part] += count
    frequent = [character for character, count in spelled.items() if count >= min_count]
    # A character of n bytes took n tokens and now takes one: n - 1 saved each time it occurs.
    saving = {character: (len(character.encode()) - 1) * spelled[character] for character in frequent}
    return sorted(frequent, key=lambda character: (-saving[character], character))[:limit]


def count_words(bpe: Bpe, texts: Iterable[str]) -> Counter[tuple[str, ...]]:
    """Runs of tokens that merges may join, as often as they occur: one word's, with the space before it.

    A run ends where a token begins with a space, and at digits, signs, bytes and added tokens.
    """
    names = {index: token for token, index in bpe.ids.items()}
    runs: Counter[bytes] = Counter()
    for ids, inside, opens in _marked(bpe, texts):
        # A run begins at a mergeable token that opens a word or follows one that is not mergeable.
        begins = inside & (opens | ~np.append(False, inside[:-1]))
        breaks = np.flatnonzero(begins | ~inside)
        starts = np.flatnonzero(begins)
        stops = breaks[np.searchsorted(breaks, starts, side="right")]
        content, size = ids.tobytes(), ids.itemsize
        runs.update(
            content[start * size : stop * size] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        )
    return Counter({tuple(names[i] for i in np.frombuffer(run, np.int64).tolist()): n for run, n in runs.items()})


def neighbours(bpe: Bpe, texts: Iterable[str]) -> set[Pair]:
    """Return all pairs of neighbouring tokens in such runs."""
    names = {index: token for token, index in bpe.ids.items()}
    pairs: set[int] = set()
    for ids, inside, opens in _marked(bpe, texts):
        together = inside[:-1] & inside[1:] & ~opens[1:]
        # A pair of ids as one integer of 64 bits, so that NumPy finds the distinct ones.
        pairs.update(np.unique((ids[:-1] << 32 | ids[1:])[together]).tolist())
    return {(names[pair >> 32], names[pair & 0xFFFF_FFFF]) for pair in pairs}


def _marked(bpe: Bpe, texts: Iterable[str]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield ids of many texts end to end (int64), which of them merges may join, and which begin with a space.

    Behind each text stands an id that is no token and joins nothing.
    """
    size = bpe.tokenizer.vocab_size
    inside, opens = np.zeros(size + 1, dtype=bool), np.zeros(size + 1, dtype=bool)
    for token, index in bpe.ids.items():
        inside[index] = is_wordlike(token) and token not in bpe.added
        opens[index] = token[:1] in (SPACE, " ")
    end = np.array([size], dtype=np.uint32)
    for batch in batches(texts):
        ids = np.concatenate([part for row in bpe.tokenizer.encode_batch(batch) for part in (row, end)]).astype(
            np.int64
        )
        yield ids, inside[ids], opens[ids]


def replaced_tokens(bpe: Bpe, characters: Iterable[str], merges: Iterable[Pair]) -> dict[str, tuple[int, ...]]:
    """Return new token -> ids of the old tokens that it replaces, in order; for a character these are its bytes."""
    old_ids: dict[str, tuple[int, ...]] = {}
    for character in characters:
        spelled = tuple(bpe.tokenizer.byte_ids[byte] for byte in character.encode())
        unk = bpe.tokenizer.unk_id
        old_ids[character] = (unk,) if unk in spelled else spelled  # without a token for a byte, there is one for all
    for left, right in merges:
        parts = [old_ids[part] if part in old_ids else (bpe.ids[part],) for part in (left, right)]
        old_ids[left + right] = parts[0] + parts[1]
    return old_ids
