"""Exact match and F1 of answers, each benchmark by its own normalisation.

squad   SQuAD 1.1's ``evaluate-v1.1.py`` (Rajpurkar et al. 1606.05250). XTREME takes it for XQuAD and TyDiQA-GoldP too
        (``third_party/evaluate_squad.py``): English articles, ASCII punctuation, words between spaces, whatever the
        language.
mlqa    MLQA's ``mlqa_evaluation_v1.py`` (Lewis et al. 1910.07475): the articles of each language, all of Unicode's
        punctuation, and for Chinese each Han character a word (mixed segmentation).
tiquad  TiQuAD's ``evaluate-tiquad.py`` (Gaim et al. 2023, github.com/fgaim/TiQuAD at d1c70f4): each sign of ASCII and
        Ge'ez punctuation and each curly quote becomes a space, except ``-`` and a backslash; English articles and the
        words of ``TIGRINYA`` are dropped as whole words; two answers of which nothing is left are equal.

An answer is compared with every reference, and the best counts. Scores are fractions, not per cent.
"""

from __future__ import annotations

import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from mmbert.errors import ConfigError, DataError

Normalise = Callable[[str], str]

GEEZ = "፠፡።፣፤፥፦፧፨"
"""Ge'ez punctuation: U+1360 to U+1368."""

CURLY = "“”‘’‚‛„‟"
"""Quotation marks that TiQuAD's script takes for punctuation."""

TIGRINYA = ("ብ", "ናይ", "ኣብ", "እዩ", "ናብ", "ካብ", "እቲ")
"""Words that TiQuAD's script drops, as it does articles."""

ARTICLES = {
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "hi": None,
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "ar": r"\sال^|ال",
    "zh": None,
}
"""What MLQA takes for articles. The Arabic one drops these two letters wherever they stand, as the official script
does."""

CODES = {
    "eng_Latn": "en",
    "spa_Latn": "es",
    "hin_Deva": "hi",
    "vie_Latn": "vi",
    "deu_Latn": "de",
    "arb_Arab": "ar",
    "cmn_Hani": "zh",
}
"""Codes of this package for MLQA's languages."""

_HAN = re.compile("[\u4e00-\u9fa5]")
_ENGLISH = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True)
class AnswerScores:
    """Means over questions."""

    exact: float
    f1: float


def normalise_squad(text: str) -> str:
    """Return the text in lower case, without ASCII punctuation, ``a``, ``an``, ``the`` and needless space."""
    # Punctuation is deleted, not replaced by a space: "don't" becomes "dont", as in the official script.
    bare = "".join(character for character in text.lower() if character not in _ASCII)
    return " ".join(_ENGLISH.sub(" ", bare).split())


def normalise_tiquad(text: str) -> str:
    """Return the text in lower case, each punctuation sign a space, without articles and ``TIGRINYA``."""
    return " ".join(word for word in text.lower().translate(_TIQUAD).split() if word not in _DROPPED)


def normalise_mlqa(text: str, language: str) -> str:
    """Return the text as MLQA's script normalises it for a language: ``en``, or in this package's form ``eng_Latn``.

    Raises ConfigError for a language that MLQA does not have.
    """
    code = CODES.get(language, language)
    if code not in ARTICLES:
        raise ConfigError(f"MLQA has no normalisation for {language!r}: it knows {', '.join(ARTICLES)}; use squad")
    bare = "".join(character for character in text.lower() if character not in _punctuation())
    articles = ARTICLES[code]
    # Articles go after punctuation and before the split, as in the official script: the order changes the result.
    if articles is not None:
        bare = re.sub(articles, " ", bare)
    return " ".join(_segment(bare) if code == "zh" else bare.split())


def normaliser(name: str, language: str) -> Normalise:
    """Return the function behind ``squad``, ``mlqa`` or ``tiquad``. Raises ConfigError for another name."""
    if name == "squad":
        return normalise_squad
    if name == "tiquad":
        return normalise_tiquad
    if name == "mlqa":
        normalise_mlqa("", language)  # an unknown language is an error before anything is scored
        return lambda text: normalise_mlqa(text, language)
    raise ConfigError(f"normalisation {name!r} is none of squad, mlqa, tiquad")


def score_answers(
    predicted: Sequence[str], gold: Sequence[Sequence[str]], normalise: Normalise = normalise_squad
) -> AnswerScores:
    """Return the means over questions; each has any number of references, of which the nearest counts.

    Raises DataError for a question without a reference, or another number of predictions.
    """
    if len(predicted) != len(gold):
        raise DataError(f"{len(predicted)} answers for {len(gold)} questions: give one for each")
    if not len(gold):
        raise DataError("there is nothing to score: the split is empty")
    empty = 1.0 if normalise is normalise_tiquad else 0.0  # SQuAD's and MLQA's scripts give nothing for nothing
    exact = f1 = 0.0
    for number, (answer, references) in enumerate(zip(predicted, gold, strict=True)):
        if not references:
            raise DataError(f"question {number} has no answer to compare with: leave it out")
        given = normalise(answer)
        wanted = [normalise(reference) for reference in references]
        # Exact match and F1 each take their own best reference, which need not be the same one.
        exact += max(given == one for one in wanted)
        f1 += max(_overlap(given, one, empty) for one in wanted)
    return AnswerScores(exact / len(gold), f1 / len(gold))


def _overlap(given: str, wanted: str, empty: float) -> float:
    """F1 of the bags of words of two normalised answers; 0 if they share none, ``empty`` if both have none."""
    one, other = given.split(), wanted.split()
    if not one and not other:
        return empty
    # F1 = 2 P R / (P + R) with P = shared / |one| and R = shared / |other|, which is 2 shared / (|one| + |other|).
    shared = sum((Counter(one) & Counter(other)).values())
    return 2 * shared / (len(one) + len(other)) if shared else 0.0


def _segment(text: str) -> list[str]:
    """Each Han character or sign a word, the rest split at spaces."""
    words: list[str] = []
    rest = ""
    for character in text:
        # MLQA's mixed segmentation: Han has no spaces, and Latin words inside a Chinese text stay whole.
        if _HAN.match(character) or character in _punctuation():
            words.extend([*rest.split(), character])
            rest = ""
        else:
            rest += character
    return [word for word in [*words, *rest.split()] if word.strip()]


_ASCII = frozenset(string.punctuation)

# the official expression keeps the hyphen on purpose, the backslash because it escapes the bracket behind it
_TIQUAD = {ord(sign): " " for sign in (_ASCII - {"-", "\\"}) | {*GEEZ, *CURLY}}
_DROPPED = frozenset({"a", "an", "the", *TIGRINYA})


@cache
def _punctuation() -> frozenset[str]:
    signs = (chr(code) for code in range(sys.maxunicode))
    return frozenset(sign for sign in signs if unicodedata.category(sign).startswith("P")) | _ASCII
