r"""Train a byte-fallback BPE on a sample that is balanced over languages.

1. :class:`_Sample` reads the texts once and keeps, in bounded memory, an even part of each language;
2. :func:`sample_by_language` gives each language its characters: in proportion to size ** temperature;
3. :func:`_alphabet` chooses the characters that become tokens; all others will be spelled in bytes;
4. ``tokenizers`` learns merges inside the words that ``_WORDS`` cuts;
5. :func:`_assemble` lays out the vocabulary: 5 specials, 256 bytes, characters, merges.

Spaces stay spaces (no U+2581 for them), so nothing in a text can be mistaken for one, and every text comes back.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from mmbert.errors import TokenizerError
from mmbert.recipe import TokenizerTraining
from mmbert.tokenizer.specials import GEMMA
from mmbert.tokenizer.spelling import SPACE
from mmbert.tokenizer.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

_WORDS = r" ?[\p{L}\p{M}\x{200C}\x{200D}]++|\p{N}| ?[^\s\p{L}\p{M}\p{N}\x{200C}\x{200D}]++|\s+(?!\S)|\s+"
"""Merges never cross these: letters, or signs, with the space before them; a digit; white space but for that space."""

_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

_SLICE = 4096
"""Characters of a document that are drawn together, so that one novel does not stand for its language."""


def train_tokenizer(texts: Iterable[tuple[str, str]], spec: TokenizerTraining) -> Tokenizer:
    """Train on (language, text) pairs, read once. The same texts in the same order give the same bytes.

    The vocabulary has ``spec.vocab_size`` tokens, or fewer, with a warning, where the text holds no more pairs.
    Raises TokenizerError if there is no text.
    """
    sample = _Sample(spec.sample_characters, spec.temperature)
    for language, text in texts:
        sample.add(language, text)
    if not sample.sizes:
        raise TokenizerError("no text to train a tokenizer on: are the sources empty, or was everything dropped?")
    drawn = list(sample.draw())
    budget = spec.vocab_size - len(GEMMA) - len(_BYTES)
    alphabet = _alphabet(drawn, budget)
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = _pre_tokenizer()
    if spec.prefix_space:
        trained.normalizer = normalizers.Prepend(" ")
    trainer = trainers.BpeTrainer(
        vocab_size=budget + len(GEMMA),  # a special string that was learned as a word is dropped again
        min_frequency=2,
        special_tokens=[],
        initial_alphabet=sorted(alphabet),
        max_token_length=spec.max_token_length + 1,  # the trainer keeps tokens shorter than this
        show_progress=False,
    )
    known = re.compile("[" + "".join(map(re.escape, sorted(alphabet))) + "]+") if alphabet else None
    trained.train_from_iterator((part for text in drawn for part in (known.findall(text) if known else ())), trainer)
    tokenizer = _assemble(json.loads(trained.to_str())["model"], spec)
    logger.info(
        "tokenizer: %d tokens (%d characters) from %.1f M characters of %d languages",
        tokenizer.vocab_size,
        len(alphabet),
        sum(map(len, drawn)) / 1e6,
        len(sample.sizes),
    )
    if tokenizer.vocab_size < spec.vocab_size:
        logger.warning(
            "the text gives only %d of the %d tokens asked for: lower vocab_size or add text",
            tokenizer.vocab_size,
            spec.vocab_size,
        )
    return tokenizer


def sample_by_language(sizes: dict[str, int], temperature: float, budget: int) -> dict[str, int]:
    """Return the characters to take of each language: in proportion to size ** temperature, at most those there are.

    What a small language cannot give goes to the others, in the same proportion. The sum is ``budget``, or all.
    """
    taken = dict.fromkeys(sizes, 0)
    weights = {language: size**temperature for language, size in sorted(sizes.items()) if size > 0}
    left = min(budget, sum(sizes[language] for language in weights))
    while weights:
        unit = left / sum(weights.values())
        full = [language for language, weight in weights.items() if sizes[language] <= weight * unit]
        if not full:
            break
        for language in full:
            taken[language] = sizes[language]
            left -= sizes[language]
            del weights[language]
    total = sum(weights.values())
    done, before = 0.0, 0
    for language, weight in weights.items():  # rounding the running sum keeps the total exact
        done += weight
        end = round(left * (done / total))
        taken[language] = min(end - before, sizes[language])
        before = end
    return taken


class _Sample:
    """An even sample of each language, drawn in one pass over texts of unknown size.

    Slices are kept by a stride per language; when all that is kept exceeds four budgets, languages that hold more
    than twice what they could give so far drop every other slice and double their stride.
    """

    def __init__(self, budget: int, temperature: float) -> None:
        self.sizes: Counter[str] = Counter()
        self._budget = budget
        self._temperature = temperature
        self._slices: dict[str, list[str]] = {}
        self._seen: Counter[str] = Counter()
        self._stride: dict[str, int] = {}
        self._kept = 0

    def add(self, language: str, text: str) -> None:
        if not text:
            return
        self.sizes[language] += len(text)
        slices = self._slices.setdefault(language, [])
        stride = self._stride.setdefault(language, 1)
        for start in range(0, len(text), _SLICE):
            if self._seen[language] % stride == 0:
                slices.append(text[start : start + _SLICE])
                self._kept += len(slices[-1])
            self._seen[language] += 1
        if self._kept > 4 * self._budget + _SLICE * len(self.sizes):
            self._thin()

    def _thin(self) -> None:
        wanted = sample_by_language(dict(self.sizes), self._temperature, self._budget)
        for language, slices in self._slices.items():
            kept = sum(map(len, slices))
            while kept > 2 * wanted[language] and len(slices) > 1:
                del slices[1::2]
                self._stride[language] *= 2
                kept = sum(map(len, slices))
        self._kept = sum(len(part) for slices in self._slices.values() for part in slices)

    def draw(self) -> Iterator[str]:
        """Yield the sample, language by language, each spread evenly over what was kept of it."""
        wanted = sample_by_language(dict(self.sizes), self._temperature, self._budget)
        for language, slices in sorted(self._slices.items()):
            kept = sum(map(len, slices))
            share = min(1.0, wanted[language] / kept)
            due = 0.0
            for part in slices:
                due += len(part) * share
                if due >= 1.0:
                    drawn = part[: int(due)]
                    due -= len(drawn)
                    yield drawn


def _alphabet(texts: list[str], budget: int) -> set[str]:
    """Return the characters that become tokens: at most a third of the vocabulary, those that save the most bytes.

    Without a limit the characters of hundreds of languages would leave a vocabulary of 4,000 no merges at all.
    U+2581 is never one: other software would show it as a space.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    counts.pop(SPACE, None)

    def saving(character: str) -> int:
        return max(len(character.encode()) - 1, 1) * counts[character]

    kept = [character for character in counts if counts[character] > 1 and not 0xD800 <= ord(character) < 0xE000]
    return set(sorted(kept, key=lambda c: (-saving(c), c))[: budget // 3])


def _pre_tokenizer() -> Any:
    return pre_tokenizers.Split(tokenizers.Regex(_WORDS), behavior="isolated")


def _assemble(model: dict[str, Any], spec: TokenizerTraining) -> Tokenizer:
    """Return the tokenizer of specials, bytes, characters and merges, in this order of ids."""
    reserved = {*GEMMA.values(), *_BYTES}
    learned = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1]) if token not in reserved]
    tokens = [*GEMMA.values(), *_BYTES, *learned][: spec.vocab_size]
    vocab = {token: index for index, token in enumerate(tokens)}
    regular = vocab.keys() - reserved
    merges = [(a, b) for a, b in model["merges"] if a in regular and b in regular and a + b in regular]
    built = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token=GEMMA["unk"], fuse_unk=True, byte_fallback=True)
    )
    built.pre_tokenizer = _pre_tokenizer()
    decoder: list[Any] = [decoders.ByteFallback(), decoders.Fuse()]
    if spec.prefix_space:
        built.normalizer = normalizers.Prepend(" ")
        decoder.append(decoders.Strip(" ", 1, 0))
    built.decoder = decoders.Sequence(decoder)
    built.add_special_tokens(
        [
            tokenizers.AddedToken(
                token,
                special=True,
                normalized=False,
                # a mask stands for a word with the space before it: " <mask>" must not leave a lone space behind;
                # where the text after it gets a space put before it, the one that is there goes too
                lstrip=token == GEMMA["mask"],
                rstrip=token == GEMMA["mask"] and spec.prefix_space,
            )
            for token in GEMMA.values()
        ]
    )
    return Tokenizer(built.to_str(), "the trained tokenizer")
