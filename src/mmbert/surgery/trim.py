"""Make a smaller model that keeps only the tokens of some languages, with the same output for their text.

What is kept: the tokens that the given text and the folder's prompts are cut into, and what these need (``bpe.py``,
``unigram.py``, ``wordpiece.py``); all bytes, so that any text can still be written, or else single characters; special,
other added and named tokens; white space; ASCII characters. Ids are given anew in the old order, so that five specials
at the beginning keep 0 to 4. What is then guaranteed, for any text at all: if every token that the old tokenizer cuts
it into is kept, the new one cuts it alike, and the model computes the same numbers. Other text is cut into more,
smaller tokens, down to bytes or <unk>, where it was cut into a token that is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmbert.errors import ConfigError, DataError
from mmbert.surgery.compare_tokenizers import batches
from mmbert.surgery.tokenizer_json import TokenizerJson
from mmbert.surgery.vocabulary import Size, open_vocabulary, rewrite

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrimReport:
    """The tokens that a trim kept, and the sizes before and after."""

    documents: int
    """Read."""
    tokens: int
    """They were cut into."""
    covered: int
    """Of these, are kept."""
    seen: int
    """Different tokens in the text."""
    before: Size
    after: Size


def trim(
    model: str | Path, texts: Iterable[str], out: Path, *, min_count: int = 1, max_tokens: int | None = None
) -> TrimReport:
    """Write ``model`` with the tokens that ``texts`` need to the folder ``out`` (Hugging Face form, atomic).

    model       a folder (masked language model, encoder, classifier, sentence-transformers) or a hub name, of
                ModernBERT, BERT, RoBERTa or XLM-RoBERTa
    texts       text of the languages to keep, read once
    min_count   how often a token must occur in it
    max_tokens  size of the new vocabulary at most: the most frequent tokens that fit with what they need

    Raises ConfigError if ``max_tokens`` is below what every model needs, DataError for no text, TokenizerError and
    WeightsError for a model that cannot be trimmed.
    """
    source, vocabulary = open_vocabulary(model)
    documents, counts = count_tokens(vocabulary, texts)
    named = source.token_names() | tokens_of(vocabulary, source.prompts())
    named |= {vocabulary.tokenizer.id_to_token(index) or "" for index in source.fixed_ids()}
    kept = select(vocabulary, counts, min_count=min_count, max_tokens=max_tokens, named=named)
    content = vocabulary.restricted(kept)
    before, after = rewrite(source, out, content, kept)
    covered = int(counts[kept].sum())
    logger.info("kept %d of %d tokens in %s", len(kept), vocabulary.tokenizer.vocab_size, out)
    return TrimReport(documents, int(counts.sum()), covered, int((counts > 0).sum()), before, after)


def count_tokens(vocabulary: TokenizerJson, texts: Iterable[str]) -> tuple[int, np.ndarray]:
    """Return the number of documents, and how often each token occurs (V,). Raises DataError if there is no text."""
    tokenizer = vocabulary.tokenizer
    counts = np.zeros(tokenizer.vocab_size, dtype=np.int64)
    documents = 0
    for batch in batches(texts):
        documents += len(batch)
        # Encoded without <bos> and <eos>: added tokens are kept anyway, whatever their count.
        rows = tokenizer.encode_batch(batch)
        counts += np.bincount(np.concatenate(rows), minlength=len(counts))
        for text, ids in zip(batch, rows, strict=True):
            vocabulary.look_at(text, ids)
    if not documents:
        raise DataError("no text to trim by: is the file empty, or of other languages?")
    return documents, counts


def tokens_of(vocabulary: TokenizerJson, texts: list[str]) -> set[str]:
    """Return the tokens that texts are cut into."""
    rows = vocabulary.tokenizer.encode_batch(texts)
    return {vocabulary.tokenizer.id_to_token(index) or "" for row in rows for index in row.tolist()}


def select(
    vocabulary: TokenizerJson,
    counts: np.ndarray,
    *,
    min_count: int = 1,
    max_tokens: int | None = None,
    named: Iterable[str] = (),
) -> list[int]:
    """Return the ids to keep, ascending: required ones, frequent ones, and all that these need.

    ``counts`` (V,) says how often each token occurs. ``named`` tokens are kept too, if the tokenizer has them. Raises
    ConfigError if ``max_tokens`` is too small for what must be kept.
    """
    required, others = vocabulary.beside(counts, min_count)
    always = [*vocabulary.always(), *required, *(token for token in named if token in vocabulary.ids)]
    kept = {index for token in always for index in vocabulary.needs(token)}
    if max_tokens is not None and max_tokens < len(kept):
        what = "specials, spaces, ASCII, and bytes or the characters of the text"
        raise ConfigError(f"max_tokens is {max_tokens}: {what} alone are {len(kept)}")
    names = {index: token for token, index in vocabulary.ids.items()}
    order = np.lexsort((np.arange(len(counts)), -counts))  # most frequent first, then by id
    for index in order[counts[order] >= max(min_count, 1)].tolist():
        # a token is useless without the intermediate tokens of its merges
        needed = vocabulary.needs(names[index]) - kept
        if max_tokens is not None and len(kept) + len(needed) > max_tokens:
            break  # stop here rather than skip: a rarer token must not be kept when a more frequent one is not
        kept |= needed
    rest = [index for token in dict.fromkeys(others) if (index := vocabulary.ids[token]) not in kept]
    kept.update(rest if max_tokens is None else rest[: max_tokens - len(kept)])
    return sorted(kept)
