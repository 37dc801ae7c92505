"""Two texts in one sequence, joined by the template of the tokenizer: ``<bos> a <eos> b <eos>`` or another one.

A pair that is too long is cut as in transformers (``longest_first``): the longer text first, until both have the same
length, then both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmbert.errors import TokenizerError
from mmbert.inference.checks import check_pair
from mmbert.inference.load import Loaded
from mmbert.tokenizer.long_texts import encode_ends, is_whole


@dataclass(frozen=True)
class Template:
    """The special tokens before, between and behind two texts, uint32."""

    before: np.ndarray
    between: np.ndarray
    behind: np.ndarray

    @property
    def size(self) -> int:
        """Number of special tokens."""
        return len(self.before) + len(self.between) + len(self.behind)

    def join(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the sequence of two texts' ids."""
        return np.concatenate([self.before, first, self.between, second, self.behind])


def read_template(loaded: Loaded) -> Template:
    """Return how ``tokenizer.json`` joins two texts. Raises TokenizerError unless the first is before the second."""
    found = loaded.tokenizer.encode_written("a", "b")
    ids, texts = np.array(found.ids, np.uint32), found.sequence_ids
    places = [[index for index, text in enumerate(texts) if text == which] for which in (0, 1)]
    first, second = places
    runs = all(place and place == list(range(place[0], place[-1] + 1)) for place in places)
    if not runs or first[-1] > second[0]:
        raise TokenizerError(
            f"{loaded.tokenizer.origin} joins two texts as {' '.join(found.tokens)}: expected the first one first"
        )
    return Template(ids[: first[0]], ids[first[-1] + 1 : second[0]], ids[second[-1] + 1 :])


def cut_pair(first: int, second: int, room: int) -> tuple[int, int]:
    """Return the lengths that two texts of ``first`` and ``second`` tokens keep, as tokenizers cuts since 0.23.3."""
    if first + second <= room:
        return first, second
    short, long = min(first, second), max(first, second)
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short = room // 2
        long = short + room % 2
    return (short, long) if first <= second else (long, short)


def pair_encoder(
    loaded: Loaded, prompt: str = "", *, noted: Callable[[int, int, int], None] | None = None
) -> Callable[[Sequence[Any], int], list[np.ndarray]]:
    """Return a function from texts and pairs to ids, cut at the model's limit; special strings become special tokens.

    prompt  is put before a text, and before the first of a pair
    noted   called with the number of each text, its tokens, and the number of special tokens around them
    Raises DataError for what is neither a text nor two.
    """
    tokenizer, longest, template = loaded.tokenizer, loaded.max_tokens, read_template(loaded)
    bos, eos = np.array([tokenizer.bos_id], np.uint32), np.array([tokenizer.eos_id], np.uint32)

    def encode(items: Sequence[Any], start: int) -> list[np.ndarray]:
        firsts: list[Any] = []
        seconds: list[Any] = []
        for number, item in enumerate(items, start):
            if isinstance(item, str):
                firsts.append(item)
                seconds.append("")
            else:
                first, second = check_pair(item, number)
                firsts.append(first)
                seconds.append(second)
        if prompt:
            firsts = [prompt + first for first in firsts]
        left, right = _encode(loaded, firsts, start), _encode(loaded, seconds, start)
        rows = []
        for number, (item, a, b) in enumerate(zip(items, left, right, strict=True), start):
            single = isinstance(item, str)
            if noted is not None:
                noted(number, len(a) + len(b), 2 if single else template.size)
            if single:
                rows.append(np.concatenate([bos, a[: longest - 2], eos]))
            else:
                sizes, texts = (len(a), len(b)), (firsts[number - start], seconds[number - start])
                if min(sizes) > longest and not all(is_whole(text, longest) for text in texts):
                    # ids of a part do not tell which text is longer, and characters nearly always do
                    sizes = len(texts[0]) + longest, len(texts[1]) + longest
                keep, keep_second = cut_pair(*sizes, longest - template.size)
                rows.append(template.join(a[:keep], b[:keep_second]))
        return rows

    return encode


def _encode(loaded: Loaded, texts: list[str], start: int) -> list[np.ndarray]:
    """Return the ids of each text, as many as are read; equal texts, such as a query, are encoded once."""
    if len(texts) > 1 and all(text is texts[0] or text == texts[0] for text in texts):
        return encode_ends(loaded.tokenizer.encode_batch, texts[:1], loaded.max_tokens, first=start) * len(texts)
    return encode_ends(loaded.tokenizer.encode_batch, texts, loaded.max_tokens, first=start)
