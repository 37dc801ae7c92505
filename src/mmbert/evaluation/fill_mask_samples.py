"""Filled masks: a held-out sentence of each of many scripts, with one token hidden, and the model's best guesses.

Figures say how much a model has learned; these lines show it. Languages, sentences and tokens are drawn by a seed,
never picked by hand, and are the same for every model of a run.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mmbert.device import autocast
from mmbert.errors import WeightsError
from mmbert.evaluation.results import FilledMask, Guess
from mmbert.inference.fill_mask import best_tokens, unknown_ids
from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed
from mmbert.recipe import Precision
from mmbert.tokenizer.tokenizer import Tokenizer

SPACE = "▁"
"""How a result shows that a token begins with a space, however its tokenizer writes that."""

_MIN_CHARACTERS, _MAX_CHARACTERS = 30, 140
_SENTENCE = re.compile(r"[^.!?。！？।॥።؟\n]+[.!?。！？।॥።؟]*")


@dataclass(frozen=True)
class MaskedSentence:
    """Token ids with <bos> and <eos>, and the position of the one to hide."""

    language: str
    ids: tuple[int, ...]
    position: int


def choose_sentences(
    texts: Mapping[str, Sequence[str]], tokenizer: Tokenizer, *, limit: int = 16, seed: int = 0
) -> list[MaskedSentence]:
    """Return a sentence of as many scripts as there are, then more languages, up to ``limit``.

    texts  language (``fra_Latn``) -> held-out documents. Within a script, languages with more text come first.
    The hidden token can be read: it is made of letters, and is a whole word where the sentence has such a token.
    """
    by_size = sorted(texts, key=lambda language: (-sum(map(len, texts[language])), language))
    turn: dict[str, int] = {}  # how many languages of its script stand before it
    order = []
    for place, language in enumerate(by_size):
        script = language.partition("_")[2]
        order.append((turn.get(script, 0), place, language))
        turn[script] = turn.get(script, 0) + 1
    chosen: list[MaskedSentence] = []
    for _, _, language in sorted(order):
        if len(chosen) == limit:
            break
        sentence = _choose(language, texts[language], tokenizer, seed)
        if sentence is not None:
            chosen.append(sentence)
    return chosen


def fill(
    model: MaskedLM,
    tokenizer: Tokenizer,
    sentences: Sequence[MaskedSentence],
    *,
    top: int = 5,
    precision: Precision = "fp32",
) -> list[FilledMask]:
    """Return the ``top`` guesses for each hidden token, the most probable first; ▁ in a token is a space.

    Raises WeightsError where a probability is not finite.
    """
    if not sentences:
        return []
    hidden = [[*s.ids[: s.position], tokenizer.mask_id, *s.ids[s.position + 1 :]] for s in sentences]
    packed = Packed.from_lists(hidden)
    targets = packed.offsets[:-1].astype(np.int64) + [s.position for s in sentences]
    labels = np.array([s.ids[s.position] for s in sentences], dtype=np.int64)
    device = next(model.parameters()).device
    with torch.inference_mode(), autocast(device, precision):
        asked = Packed(packed.ids, packed.offsets, packed.longest, targets, labels).to(device)
        probabilities, tokens = best_tokens(model, asked, top, unknown_ids(tokenizer, model.config.vocab_size))
    if not bool(torch.isfinite(probabilities).all()):
        raise WeightsError("the model's probabilities for a masked token are NaN: take another checkpoint")
    filled = []
    for sentence, row, chances in zip(sentences, tokens.tolist(), probabilities.tolist(), strict=True):
        before, after = _around(tokenizer, sentence)
        truth = tokenizer.shown(sentence.ids[sentence.position])
        guesses = [Guess(token=tokenizer.shown(i), probability=p) for i, p in zip(row, chances, strict=True)]
        filled.append(FilledMask(language=sentence.language, before=before, after=after, truth=truth, guesses=guesses))
    return filled


def _choose(language: str, documents: Sequence[str], tokenizer: Tokenizer, seed: int) -> MaskedSentence | None:
    rng = np.random.default_rng([seed, *language.encode()])
    sentences = [found.strip() for text in documents for found in _SENTENCE.findall(text)]
    fitting = [s for s in sentences if _MIN_CHARACTERS <= len(s) <= _MAX_CHARACTERS]
    for place in rng.permutation(len(fitting))[:20]:
        ids = tokenizer.encode(fitting[place])
        tokens = [tokenizer.shown(token) for token in ids]
        # place 0 is <bos>, and the first word is left out: nothing before it helps to guess it
        readable = [i for i in range(2, len(ids) - 1) if _is_word(tokens[i])]
        starts = [i for i in readable if tokens[i].startswith(SPACE)]
        whole = [i for i in starts if not _is_word(tokens[i + 1]) or tokens[i + 1].startswith(SPACE)]
        if choice := whole or starts or readable:
            return MaskedSentence(language, tuple(ids), int(rng.choice(choice)))
    return None


def _is_word(token: str) -> bool:
    """Letters and their marks only (a virama is a mark, not a letter), two of them where a letter is not a syllable."""
    letters = token.removeprefix(SPACE)
    kinds = {unicodedata.category(c) for c in letters}
    return bool(letters) and all(kind[0] in "LM" for kind in kinds) and (len(letters) >= 2 or "Lo" in kinds)


def _around(tokenizer: Tokenizer, sentence: MaskedSentence) -> tuple[str, str]:
    """The text before and after the hidden token, with the spaces between: decoding a part drops those at its ends."""
    hidden, end = sentence.position, len(sentence.ids) - 1
    before = tokenizer.decode(list(sentence.ids[1:hidden])).rstrip()
    after = tokenizer.decode(list(sentence.ids[hidden + 1 : end])).lstrip().removeprefix(tokenizer.continuing_prefix)
    follows = hidden + 1 < end and tokenizer.shown(sentence.ids[hidden + 1]).startswith(SPACE)
    precedes = hidden > 1 and tokenizer.shown(sentence.ids[hidden]).startswith(SPACE)
    return before + " " * precedes, " " * follows + after
