"""Languages by the phase that first draws them, and means of losses over such tiers.

A tier says when the recipe draws a language: every phase draws those of the first tier, and only a phase in which the
learning rate falls draws those of the last. A model is evaluated by tier, beside the unigram models of the same
languages. In a run that starts from a model (``start``), the tiers are the languages it teaches, those that the start
knows and the run keeps, and the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from mmbert.evaluation.results import LanguageLoss, Result

UNSEEN = "unseen"
"""Tier of languages with held-out text that no phase draws."""
NEW = "new"
"""Tier of languages that a run with a start teaches."""
KEPT = "kept"
"""Tier of languages that the start knows and that the run mixes in, so that they are not forgotten."""


class TierSummary(Result):
    """A model on the languages of one tier, beside their unigram models.

    bits_per_byte, unigram, accuracy   means over languages, each counting the same
    below           1 - bits_per_byte / unigram: how far the model is below the baseline
    languages_won   number of languages in which the model is below the baseline
    """

    tier: str
    languages: int
    bits_per_byte: float
    unigram: float
    accuracy: float
    below: float
    languages_won: int


def tiers(phases: Sequence[tuple[str, Collection[str]]], languages: Iterable[str]) -> dict[str, str]:
    """Return each language's tier: the first phase that draws it, in the order given (root first), or ``unseen``."""
    drawn = [(name, frozenset(codes)) for name, codes in phases]
    return {language: next((name for name, codes in drawn if language in codes), UNSEEN) for language in languages}


def adaptation_tiers(
    drawn: Iterable[tuple[str, str]], kept: Collection[str], languages: Iterable[str]
) -> dict[str, str]:
    """Return the tier of each language in a run with a start: new, kept or unseen.

    drawn  (source, language) of every stream that a phase draws
    kept   sources of known languages; a language that another source has too is new
    """
    known = {language for source, language in drawn if source in kept}
    new = {language for source, language in drawn if source not in kept}
    return {language: NEW if language in new else KEPT if language in known else UNSEEN for language in languages}


def below(loss: LanguageLoss, baseline: LanguageLoss) -> float:
    """Return how far a model is below the baseline on the same tokens: 0.25 is a quarter fewer bits."""
    return 1.0 - loss.nats / baseline.nats


def summarise(
    losses: Mapping[str, LanguageLoss], baseline: Mapping[str, LanguageLoss], tier_of: Mapping[str, str]
) -> list[TierSummary]:
    """Return one summary per tier, in the order in which ``tier_of`` first names them, ``unseen`` last.

    Languages without a baseline are left out of model and baseline alike.
    """
    groups: dict[str, list[str]] = {}
    for language, tier in tier_of.items():
        members = groups.setdefault(tier, [])
        if language in losses and language in baseline:
            members.append(language)
    if UNSEEN in groups:
        groups[UNSEEN] = groups.pop(UNSEEN)
    return [_summary(tier, members, losses, baseline) for tier, members in groups.items() if members]


def _summary(
    tier: str, members: list[str], losses: Mapping[str, LanguageLoss], baseline: Mapping[str, LanguageLoss]
) -> TierSummary:
    def mean(values: Iterable[float]) -> float:
        return sum(values) / len(members)

    bits = mean(losses[language].bits_per_byte for language in members)
    unigram = mean(baseline[language].bits_per_byte for language in members)
    return TierSummary(
        tier=tier,
        languages=len(members),
        bits_per_byte=bits,
        unigram=unigram,
        accuracy=mean(losses[language].accuracy for language in members),
        below=1.0 - bits / unigram,
        languages_won=sum(losses[language].nats < baseline[language].nats for language in members),
    )
