"""Texts and pairs of texts as token ids for training: special strings read as such, cut at the longest, as the facades
and ``transformers`` read the saved folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from mmbert.inference.pairs import Template, cut_pair
from mmbert.tokenizer.tokenizer import Tokenizer

log = logging.getLogger(__name__)


def pair_template(tokenizer: Tokenizer) -> Template:
    """``<bos> a <eos> b <eos>``, the form that :meth:`Tokenizer.save` writes."""
    bos, eos = np.array([tokenizer.bos_id], np.uint32), np.array([tokenizer.eos_id], np.uint32)
    return Template(bos, eos, eos)


def encode_texts(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str | None], max_tokens: int
) -> tuple[list[np.ndarray], int]:
    """Ids of each text, or pair where there is a second one; and how many were cut."""
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
    """A log line about texts that were too long."""
    if cut:
        log.info("%s: %d of %d texts are longer than training.max_tokens %d and cut", role, cut, count, max_tokens)
