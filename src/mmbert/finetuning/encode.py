"""Texts and pairs of texts as token ids for training, encoded as ``transformers`` and our predictors encode them:
strings of special tokens become those tokens, and the longer text of a pair is truncated first."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from mmbert.inference.pairs import Template, cut_pair
from mmbert.tokenizer.tokenizer import Tokenizer

log = logging.getLogger(__name__)


def pair_template(tokenizer: Tokenizer) -> Template:
    """Return ``<bos> a <eos> b <eos>``, the form that :meth:`Tokenizer.save` writes."""
    bos, eos = np.array([tokenizer.bos_id], np.uint32), np.array([tokenizer.eos_id], np.uint32)
    return Template(bos, eos, eos)


def encode_texts(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str | None], max_tokens: int
) -> tuple[list[np.ndarray], int]:
    """Return the ids of each text or pair, and how many were truncated."""
    template = pair_template(tokenizer)
    lefts = tokenizer.encode_batch(texts, specials=True)
    rights = tokenizer.encode_batch([pair or "" for pair in pairs], specials=True)
    rows, cut = [], 0
    for left, right, pair in zip(lefts, rights, pairs, strict=True):
        if pair is None:
            cut += len(left) > max_tokens - 2
            rows.append(np.concatenate([template.before, left[: max_tokens - 2], template.behind]))
        else:
            keep, keep_second = cut_pair(len(left), len(right), max_tokens - template.size)
            cut += keep + keep_second < len(left) + len(right)
            rows.append(template.join(left[:keep], right[:keep_second]))
    return rows, cut


def log_truncation(role: str, cut: int, count: int, max_tokens: int) -> None:
    """Log how many texts were truncated, if any."""
    if cut:
        log.info("%s: %d of %d texts are longer than training.max_tokens %d and cut", role, cut, count, max_tokens)
