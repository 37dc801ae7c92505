"""A run that starts from a model, before and after: what it learned of new languages, and what known ones lost.

Losses are bits per byte on the same masked tokens of held-out text. A group's loss is the mean over its languages,
each counting the same, and its change is that of the mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmbert.evaluation.results import LanguageLoss
from mmbert.evaluation.tiers import KEPT, NEW, UNSEEN, below
from mmbert.formatting import count
from mmbert.languages import name as language_name
from mmbert.recipe import START
from mmbert.reporting.record import Record
from mmbert.reporting.tables import Column, Table, bits, signed

MOST_LOST = 0.01
"""What a known language may lose, on the mean, and the run still be said to keep it."""

_GROUPS = {NEW: "new", KEPT: "kept", UNSEEN: "not mixed in"}


@dataclass(frozen=True)
class Group:
    """Languages that fared alike: new, kept, or with held-out text but drawn by no phase."""

    tier: str
    languages: Sequence[str]
    start: float
    """Bits per byte of the start."""
    losses: Mapping[str, float]
    """Bits per byte of each later model, in the order they came."""
    changes: Mapping[str, float]
    """Per language: how far the final model is below the start; 0.25 is a quarter fewer bits, negative is worse."""

    def change(self, model: str) -> float:
        """Return how far a model is below the start."""
        return 1.0 - self.losses[model] / self.start

    @property
    def worst(self) -> str:
        """The language that lost most, or gained least."""
        return min(self.changes, key=lambda language: self.changes[language])


def adaptation_groups(record: Record) -> list[Group]:
    """Return new, kept and other languages before and after; none unless start and a later model were evaluated."""
    start, final = record.results.get(START), record.final
    if start is None or final is None:
        return []
    later = {name: result.losses for name, result in record.results.items() if name != START}
    groups = []
    for tier in _GROUPS:
        here = [code for code, own in record.tier_of.items() if own == tier]
        members = [code for code in here if all(code in found for found in (start.losses, *later.values()))]
        if members:
            losses = {name: _mean(found, members) for name, found in later.items()}
            changes = {code: below(final.losses[code], start.losses[code]) for code in members}
            groups.append(Group(tier, members, _mean(start.losses, members), losses, changes))
    return groups


def adaptation_table(record: Record) -> Table:
    """Return the loss of each group before and after, and of each language below its group."""
    groups, final = adaptation_groups(record), record.final
    if not groups or final is None:
        return Table([], [])
    later = [name for name in record.results if name != START]
    columns = [
        Column("Language"),
        Column("Code"),
        Column("Group"),
        Column("Training tokens", count, "of this run"),
        Column(START, bits, "bits per byte before the run"),
        *(Column(name, bits, f"bits per byte after {name}") for name in later),
        Column("Change", signed, f"{final.model} against the start"),
    ]
    rows: list[list[object]] = []
    for group in groups:
        called = _GROUPS[group.tier]
        losses = [group.losses[name] for name in later]
        mean = f"mean of {len(group.languages)}"
        rows.append([mean, "", called, None, group.start, *losses, group.change(final.model)])
    for group in groups:
        for code in group.languages:
            found = [record.results[name].losses[code].bits_per_byte for name in (START, *later)]
            named = [language_name(code), code, _GROUPS[group.tier]]
            rows.append([*named, _tokens(record, code), *found, group.changes[code]])
    return Table(columns, rows)


def _tokens(record: Record, language: str) -> int | None:
    return record.baseline.losses[language].train_tokens if record.baseline else None


def _mean(losses: Mapping[str, LanguageLoss], languages: Sequence[str]) -> float:
    return sum(losses[language].bits_per_byte for language in languages) / len(languages)
