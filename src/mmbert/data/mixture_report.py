"""What each phase will draw from every language, before anything runs: ``mmbert data plan``.

Sizes come from the manifest of prepared shards, or without them from the counts that the recipe names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmbert import languages
from mmbert.data.counts import counts_sizes
from mmbert.data.manifest import FILE, Manifest
from mmbert.data.mixture import Mixture, Share, mixture
from mmbert.data.plan import count_steps
from mmbert.errors import ConfigError
from mmbert.formatting import count
from mmbert.recipe import Recipe

AIM = 5.0
"""Epochs of a language in a phase above which the published runs did not want to go."""


@dataclass(frozen=True, slots=True)
class LanguageRow:
    """One language over the phases."""

    language: str
    name: str
    tokens: int | None
    """Tokens there are in the sources drawn from; None if not known."""
    phases: dict[str, Share]
    """Only those that draw it."""


def mixtures(recipe: Recipe, folder: Path, shards: Path, phases: Sequence[str] = ()) -> dict[str, Mixture]:
    """The mixture of each phase (default: all), in their order.

    folder  the recipe's, for its tables of counts
    shards  the folder of shards; without a manifest in it the recipe's counts are used
    Raises ConfigError if there are neither shards nor counts, or a phase is unknown.
    """
    for name in phases:
        if name not in recipe.phases:
            raise ConfigError(f"the recipe has no phase {name}: it has {', '.join(recipe.phases)}")
    wanted = [name for name in recipe.order() if not phases or name in phases]
    if (shards / FILE).is_file():
        sizes = Manifest.load(shards).sizes()
        return {name: mixture(recipe.phases[name], sizes) for name in wanted}
    drawn: dict[str, Mixture] = {}
    for name in wanted:
        if recipe.phases[name].data.mixture is None:
            raise ConfigError(
                f"no shards in {shards}, and phases.{name}.data has no mixture with counts: "
                "run `mmbert data prepare` first"
            )
        known = counts_sizes(recipe.phases[name], recipe.sources, folder)
        drawn[name] = mixture(recipe.phases[name], known.sizes, relative=known.relative)
    return drawn


def language_rows(drawn: Mapping[str, Mixture]) -> list[LanguageRow]:
    """Return every language with its share of each phase: those with the most text first, then by their share."""
    phases: dict[str, dict[str, Share]] = {}
    tokens: dict[str, dict[str, int | None]] = {}
    for phase, mixed in drawn.items():
        for share in mixed.totals():
            phases.setdefault(share.name, {})[phase] = share
        for stream in mixed.streams:
            tokens.setdefault(stream.language, {})[stream.source] = stream.tokens
    rows = []
    for language, shares in phases.items():
        sizes = tokens[language].values()
        total = None if None in sizes else sum(size or 0 for size in sizes)
        rows.append(LanguageRow(language, languages.name(language), total, shares))
    # Where sizes are not known, the phase that draws the most languages orders them as their sizes would.
    widest = max(drawn, key=lambda phase: len(drawn[phase].streams), default="")
    share_there = {row.language: row.phases[widest].share if widest in row.phases else 0.0 for row in rows}
    return sorted(rows, key=lambda row: (-(row.tokens or 0), -share_there[row.language], row.language))


def mark(share: Share) -> str:
    """``max``: held back by the cap; ``>5``: repeated more often than the published runs wanted; else nothing."""
    if share.capped:
        return "max"
    return f">{AIM:g}" if share.epochs is not None and share.epochs > AIM else ""


def table(recipe: Recipe, drawn: Mapping[str, Mixture], rows: Sequence[LanguageRow]) -> str:
    """Return the rows as text: one line a language, for each phase its share, tokens and epochs."""
    name_width = min(28, max((len(row.name) for row in rows), default=0))
    code_width = max(8, *(len(row.language) for row in rows))
    left = code_width + 2 + name_width + 2 + 7
    lines = [" " * left + "".join(f"   {phase:^25.25}" for phase in drawn)]
    lines.append(
        f"{'language':{code_width}}  {'name':{name_width}}  {'tokens':>7}"
        + "   {:>8} {:>7} {:>8}".format("share", "tokens", "epochs") * len(drawn)
    )
    for row in rows:
        line = f"{row.language:{code_width}}  {row.name:{name_width}.{name_width}}  {count(row.tokens):>7}"
        for phase in drawn:
            part = row.phases.get(phase)
            if part is None:
                line += "   " + " " * 25
                continue
            epochs = "" if part.epochs is None else f"{part.epochs:.2f}"
            share = f"{part.share:.3%}" if part.share >= 1e-5 else "<0.001%"
            line += f"   {share:>8} {count(part.drawn):>7} {epochs:>4} {mark(part):3}"
        lines.append(line.rstrip())
    return "\n".join([*lines, "", *(_summary(recipe, phase, drawn[phase], rows) for phase in drawn)])


def _summary(recipe: Recipe, phase: str, mixed: Mixture, rows: Sequence[LanguageRow]) -> str:
    """One line about a phase."""
    spec = recipe.phases[phase]
    mine = [row for row in rows if phase in row.phases]
    held = [row.language for row in mine if row.phases[phase].capped]
    line = (
        f"{phase}: {count(mixed.tokens)} tokens in {count_steps(spec):,} steps, {len(mine)} languages, "
        f"temperature {spec.data.temperature:g}"
    )
    if held:
        some = ", ".join(held[:6]) + (", ..." if len(held) > 6 else "")
        line += f"; {len(held)} held at {spec.data.max_epochs:g} epochs: {some}"
    return line


def as_json(recipe: Recipe, drawn: Mapping[str, Mixture], rows: Sequence[LanguageRow]) -> dict[str, Any]:
    """Return the rows as plain values, with the streams of every phase."""
    return {
        "phases": {
            phase: {
                "tokens": mixed.tokens,
                "steps": count_steps(recipe.phases[phase]),
                "temperature": recipe.phases[phase].data.temperature,
                "max_epochs": recipe.phases[phase].data.max_epochs,
                "streams": [asdict(stream) for stream in mixed.streams],
            }
            for phase, mixed in drawn.items()
        },
        "languages": [asdict(row) for row in rows],
    }
