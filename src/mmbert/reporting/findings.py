"""What a run showed, in sentences made from its figures. The page, the Markdown and the model card say the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmbert.data.bad_shards import BadShards, LeftOut
from mmbert.evaluation.results import MERGED, RetrievalSummary, summarise_retrieval
from mmbert.evaluation.tiers import KEPT, NEW, TierSummary
from mmbert.reporting.adaptation import MOST_LOST, Group, adaptation_groups
from mmbert.reporting.record import Record
from mmbert.reporting.tables import count, language_name, percent


@dataclass(frozen=True)
class Finding:
    """A claim that the recipe makes, whether this run bears it out, and by which figures."""

    holds: bool
    text: str


def headline(record: Record) -> str:
    """One sentence: how far the final model is below its start, or below the unigram baseline, in each tier."""
    if record.final is None or not record.summaries:
        return "Not evaluated yet."
    name = "Merged model" if record.final.model == MERGED else f"Model after {record.final.model}"
    groups = adaptation_groups(record)
    if groups:
        parts = [f"{_change(g.change(record.final.model))} in the {_number(g)}" for g in groups]
        return f"{name}, bits per byte against the start: {_listed(parts)}."
    parts = [f"{_change(s.below)} in tier {s.tier}" for s in record.summaries[record.final.model]]
    return f"{name}, bits per byte against the unigram model of each language: {_listed(parts)}."


def findings(record: Record) -> list[Finding]:
    """The claims that can be judged from what the run holds."""
    found = []
    groups = adaptation_groups(record)
    if record.final is not None and groups:
        found += [_adaptation(group, record.final.model) for group in groups]
    elif record.final is not None and record.summaries:
        found.append(_below_baseline(record.final.model, record.summaries[record.final.model]))
        found += _annealing(record)
        found += _merging(record)
    retrieval = summarise_retrieval(record.final.retrieval) if record.final else None
    if retrieval is not None:
        found.append(_retrieval(retrieval))
    left_out = BadShards(record.folder).shards
    if left_out:
        found.append(_left_out(left_out))
    return found


def _left_out(shards: Sequence[LeftOut]) -> Finding:
    documents, tokens = sum(shard.documents for shard in shards), sum(shard.tokens for shard in shards)
    return Finding(
        False,
        f"{len(shards):,} damaged shard{'s were' if len(shards) > 1 else ' was'} left out of training, with "
        f"{documents:,} documents and {tokens:,} tokens: {_listed([shard.file for shard in shards[:3]])}"
        + (" and others" if len(shards) > 3 else "")
        + ".",
    )


def _below_baseline(name: str, summaries: list[TierSummary]) -> Finding:
    languages_won, languages = sum(s.languages_won for s in summaries), sum(s.languages for s in summaries)
    holds = all(s.below > 0 for s in summaries)
    where = "every tier" if holds else _listed([s.tier for s in summaries if s.below > 0]) or "no tier"
    return Finding(
        holds,
        f"The {name} model is below the unigram baseline in {where}, and in {languages_won:,} of {languages:,} languages "
        "one by one.",
    )


def _adaptation(group: Group, final: str) -> Finding:
    """New languages must gain, each of them; known ones must not lose more than ``MOST_LOST`` on the mean."""
    part, worst = group.change(final), group.worst
    gained = sum(change > 0 for change in group.changes.values())
    before = [f"{_change(group.change(name))} after {name}" for name in group.losses if name != final]
    return Finding(
        gained == len(group.changes) if group.tier == NEW else part > -MOST_LOST,
        f"The {_number(group)} {'go' if len(group.languages) != 1 else 'goes'} from {group.start:.3f} to "
        f"{group.losses[final]:.3f} bits per byte ({_change(part)}"
        + (f"; {_listed(before)}" if before else "")
        + f"). {gained:,} of {len(group.changes):,} gain; {language_name(worst)} "
        + ("gains least" if group.changes[worst] > 0 else "loses most")
        + f" ({_change(group.changes[worst])}).",
    )


def _number(group: Group) -> str:
    """3 new languages, 12 kept ones."""
    kind = {NEW: "new", KEPT: "kept"}.get(group.tier, "other")
    return f"{len(group.languages):,} {kind} language{'s' if len(group.languages) != 1 else ''}"


def _annealing(record: Record) -> list[Finding]:
    """Languages that come in last must gain from the phase that brings them in."""
    last = next(reversed(record.summaries.values()))[-1].tier
    follows = record.recipe.phases[last].follows if last in record.recipe.phases else None
    if follows is None or not {last, follows} <= set(record.summaries):
        return []
    rivals = [
        n for n in record.phases if n != last and record.recipe.phases[n].follows == follows and n in record.summaries
    ]
    now, before = _bits(record, last, last), _bits(record, follows, last)
    found = [
        Finding(
            now < before,
            f"{last} takes the languages of the last tier from {before:.3f} to {now:.3f} bits per byte "
            f"({_change(1 - now / before)}).",
        )
    ]
    if rivals:
        values = {name: _bits(record, name, last) for name in rivals}
        found.append(
            Finding(
                all(now < value for value in values.values()),
                f"In the last tier {last} ({now:.3f}) "
                + ("is better than " if now < min(values.values()) else "is not better than each of ")
                + _listed([f"{name} ({value:.3f})" for name, value in values.items()])
                + ".",
            )
        )
    return found


def _merging(record: Record) -> list[Finding]:
    parts = [name for name in (record.recipe.merge.phases if record.recipe.merge else []) if name in record.summaries]
    if MERGED not in record.summaries or not parts:
        return []
    merged = {s.tier: s.bits_per_byte for s in record.summaries[MERGED]}
    total = sum(merged.values())
    best, name = min((sum(_bits(record, part, tier) for tier in merged), part) for part in parts)
    by_tier = {tier: min((_bits(record, part, tier), part) for part in parts) for tier in merged}
    texts = [f"{_change(1 - merged[tier] / bits)} {part} in tier {tier}" for tier, (bits, part) in by_tier.items()]
    return [
        Finding(
            total <= best,
            f"On the mean of the tiers the merge is {_change(1 - total / best)} the best decay, {name}. "
            f"Beside the best of each tier it is {_listed(texts)}.",
        )
    ]


def _retrieval(summary: RetrievalSummary) -> Finding:
    return Finding(
        summary.z > 5,
        f"Without any training for it, translations are found in {percent(summary.accuracy)} of the cases "
        f"({percent(summary.centred)} with language means removed) over {summary.languages} languages, where chance is "
        f"{percent(summary.chance)}: {summary.z:,.0f} standard errors. "
        f"Spelling alone reaches {percent(summary.spelling)}.",
    )


def size_line(record: Record) -> str:
    """Return one sentence: what was trained, and on what data."""
    languages = {share.language for drawn in record.mixture.values() for share in drawn if share.share > 0}
    times = [seconds for phase in record.phases if (seconds := record.seconds(phase)) is not None]
    parts = [
        f"{count(record.parameters.masked_lm)} parameters" if record.parameters else "",
        f"{count(record.tokens_seen())} tokens" if record.tokens_seen() else "",
        f"{len(languages)} languages" if languages else "",
        f"{len(record.phases)} phase{'s' if len(record.phases) != 1 else ''}",
        f"{sum(times) / 60:,.1f} minutes of training" if times else "",
    ]
    return " · ".join(part for part in parts if part)


def _bits(record: Record, model: str, tier: str) -> float:
    return next((s.bits_per_byte for s in record.summaries[model] if s.tier == tier), float("inf"))


def _change(part_below: float) -> str:
    return f"{abs(100 * part_below):.1f}% {'below' if part_below >= 0 else 'above'}"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""
