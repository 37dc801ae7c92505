"""What a student reads of each text, and the same characters for its teacher: the beginning, or windows of all of it.

Teacher and student have tokenizers of their own and read different numbers of tokens. If the student reads the first
128 tokens of a page, the teacher's logits for the whole page would teach it what it cannot see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmbert.finetuning.encode import pair_template
from mmbert.inference.chunking import plan_windows
from mmbert.inference.entities import trim_spans
from mmbert.inference.pairs import cut_pair
from mmbert.tokenizer.tokenizer import Tokenizer

Text = str | tuple[str, str]


@dataclass(frozen=True)
class Reading:
    """What the student reads of a row at once.

    row    number of the row
    ids    with special tokens
    text   the characters of these tokens; a pair where the row is one
    start  first character in the row's text, and ``end``, the one behind the last
    whole  whether it is all of the row
    """

    row: int
    ids: np.ndarray
    text: Text
    start: int
    end: int
    whole: bool = True


def read_texts(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str | None], max_tokens: int, doc_stride: int | None
) -> list[Reading]:
    """Return what is read of each text or pair, in order, at most ``max_tokens`` at once.

    doc_stride  tokens that two windows of a longer text share; None: it is truncated, as pairs are
    """
    template = pair_template(tokenizer)
    lefts = tokenizer.encode_spans(texts, specials=True)
    rights = tokenizer.encode_spans([pair or "" for pair in pairs], specials=True)
    found: list[Reading] = []
    for number, (text, pair, left, right) in enumerate(zip(texts, pairs, lefts, rights, strict=True)):
        if pair is not None:
            keep, keep_second = cut_pair(len(left[0]), len(right[0]), max_tokens - template.size)
            ids = template.join(left[0][:keep], right[0][:keep_second])
            both = (_first(text, *left, keep), _first(pair, *right, keep_second))
            found.append(Reading(number, ids, both, 0, len(both[0]), both == (text, pair)))
            continue
        for start, end in _runs(len(left[0]), max_tokens - 2, doc_stride):
            ids = np.concatenate([template.before, left[0][start:end], template.behind])
            if end - start == len(left[0]):
                found.append(Reading(number, ids, text, 0, len(text)))
                continue
            spans = trim_spans(text, left[1][start:end])
            first, last = int(spans[0, 0]), int(spans[-1, 1])
            if last > first:  # a window of white space says nothing
                found.append(Reading(number, ids, text[first:last], first, last, whole=False))
    return found


def _runs(tokens: int, capacity: int, doc_stride: int | None) -> list[tuple[int, int]]:
    """Return first token and the one behind the last of each window."""
    if tokens <= capacity or doc_stride is None:
        return [(0, min(tokens, capacity))]
    return [(window.start, window.end) for window in plan_windows(tokens, capacity, min(doc_stride, capacity // 2))]


def _first(text: str, ids: np.ndarray, spans: np.ndarray, keep: int) -> str:
    """Return the characters of the first ``keep`` tokens; all where none is left out."""
    return text if keep >= len(ids) else text[: int(spans[keep - 1, 1]) if keep else 0]


def touches(reading: Reading, span: tuple[int, int]) -> bool:
    """Return whether a window has a character of a span."""
    return reading.start < span[1] and span[0] < reading.end
