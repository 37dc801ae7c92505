"""Texts longer than the model reads, and vectors of passages.

* **windows**: the text is cut into overlapping parts that the model can read; each is embedded as a text of its own;
* **late chunking** (2409.04701): the model reads the whole text, and token vectors are averaged over each passage, so
  that a pronoun in one passage has the context of the name in another. A text longer than one pass is read in windows
  that overlap, and each token is taken from the window in which it is farther from the edge.

Spans are pairs of character positions, [start, end). Tokens are counted without <bos> and <eos>.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mmbert.errors import ConfigError, DataError

Span = tuple[int, int]

_END = "[.!?…。！？｡؟۔।॥։።፧፨။។༎།꓿]"
"""Signs that end a sentence. Thai and Lao have none, and their spaces do not mark sentences either."""

_ALONE = "[。！？｡།༎။։।॥]"
"""Those that need no space after them."""

_SENTENCE = re.compile(rf"(?<!{_END})(?:{_END}++[\"'”’»」』)\]]*+(?:\s++|$)|{_END}*{_ALONE})|\n\s*\n|\n")
"""Possessive quantifiers and the lookbehind try each run of signs once: linear time for any text."""
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")


@dataclass(frozen=True)
class Passages:
    """Passages of one text: character ``spans``, ``vectors`` (n, d)."""

    text: str
    spans: list[Span]
    vectors: np.ndarray

    @property
    def texts(self) -> list[str]:
        """The text of each passage."""
        return [self.text[start:end] for start, end in self.spans]

    def __len__(self) -> int:
        return len(self.spans)


@dataclass(frozen=True)
class Window:
    """Tokens ``start`` to ``end`` are read together; the results of ``first`` to ``last`` are used."""

    start: int
    end: int
    first: int
    last: int


def split_text(text: str, by: str) -> list[Span]:
    """Return the spans of passages by "sentence" or "paragraph", without white space around them."""
    pattern = {"sentence": _SENTENCE, "paragraph": _PARAGRAPH}[by]
    borders = [0, *(match.end() for match in pattern.finditer(text)), len(text)]
    return [span for start, end in pairwise(borders) if (span := _trimmed(text, start, end))]


def _trimmed(text: str, start: int, end: int) -> Span | None:
    part = text[start:end]
    bare = part.strip()
    left = start + len(part) - len(part.lstrip())
    return (left, left + len(bare)) if bare else None


def split_tokens(tokens: int, size: int, overlap: int = 0) -> list[Span]:
    """Return runs of ``size`` tokens, each sharing ``overlap`` with the next; the last may be shorter.

    Raises ConfigError for an overlap that is not smaller than the size.
    """
    if size < 1 or not 0 <= overlap < size:
        raise ConfigError(f"size {size} and overlap {overlap}: the size must be at least 1 and more than the overlap")
    last = max(tokens - overlap, 1)
    return [(start, min(start + size, tokens)) for start in range(0, last, size - overlap)]


def plan_windows(tokens: int, capacity: int, overlap: int) -> list[Window]:
    """Return overlapping windows; each token is taken from the one in which it is farther from the edge."""
    runs = split_tokens(tokens, capacity, overlap)
    middles = [(here[1] + following[0]) // 2 for here, following in pairwise(runs)]
    firsts, lasts = [0, *middles], [*middles, tokens]
    return [Window(*run, first, last) for run, first, last in zip(runs, firsts, lasts, strict=True)]


def token_spans(
    spans: Sequence[Span], characters: np.ndarray, where: str = "the text", *, length: int | None = None
) -> list[Span]:
    """Return the tokens of each passage: those whose centre lies in it, or else the one that covers its start.

    characters  (n, 2) characters of each token, ascending
    length      of the text. Default: to the end of its last token, behind which a normalizer may drop characters
    Raises DataError for a span that is empty or outside.
    """
    if not len(characters) or not len(spans):
        return [(0, 0) for _ in spans]
    length = int(characters[-1, 1]) if length is None else length
    borders = np.asarray(spans, np.int64).reshape(-1, 2)
    starts, ends = borders[:, 0], borders[:, 1]
    wrong = np.flatnonzero((starts < 0) | (starts >= ends) | (starts >= length))
    if len(wrong):
        start, end = borders[wrong[0]].tolist()
        raise DataError(f"passage ({start}, {end}) of {where} is empty or outside its {length} characters")
    centres = characters.sum(axis=1)  # twice the middle: whole numbers
    first, last = np.searchsorted(centres, 2 * starts), np.searchsorted(centres, 2 * ends)
    empty = first == last
    first[empty] = np.searchsorted(characters[:, 1], starts[empty], side="right")
    first = np.minimum(first, len(characters) - 1, out=first, where=empty)
    last[empty] = first[empty] + 1
    return list(zip(first.tolist(), last.tolist(), strict=True))


def character_span(run: Span, characters: np.ndarray) -> Span:
    """Return the characters of a run of tokens; (0, 0) for none."""
    start, end = run
    return (int(characters[start, 0]), int(characters[end - 1, 1])) if end > start else (0, 0)
