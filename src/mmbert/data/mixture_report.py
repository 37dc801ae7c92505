"""The shares of every language in each phase, computed before training: ``mmbert data plan``.

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
from mmbert.data.mixture import Mixture, mixture
from mmbert.data.plan import count_steps
from mmbert.errors import ConfigError
from mmbert.recipe import Recipe

AIM = 5.0
"""Epochs of a language in a phase above which the published runs did not want to go."""


@dataclass(frozen=True, slots=True)
class PhaseShare:
    """One language in one phase."""

    share: float
    """Part of the phase's tokens."""
    drawn: float
    """Tokens."""
    epochs: float | None
    """None if the size of some of its text is not known."""
    capped: bool
    """Whether ``max_epochs`` holds some of its text back."""

    @property
    def mark(self) -> str:
        """Return ``max`` if the cap limits the language, ``>5`` for more epochs than in the published runs."""
        if self.capped:
            return "max"
        return f">{AIM:g}" if self.epochs is not None and self.epochs > AIM else ""


@dataclass(frozen=True, slots=True)
class LanguageRow:
    """One language in all phases."""

    language: str
    name: str
    tokens: int | None
    """Tokens there are in the sources drawn from; None if not known."""
    phases: dict[str, PhaseShare]
    """Only those that draw it."""


def mixtures(recipe: Recipe, folder: Path, shards: Path, phases: Sequence[str] = ()) -> dict[str, Mixture]:
    """Return the mixture of each phase (default: all), in the order of the recipe.

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
    found: dict[str, Mixture] = {}
    for name in wanted:
        if recipe.phases[name].data.mixture is None:
            raise ConfigError(
                f"no shards in {shards}, and phases.{name}.data has no mixture with counts: "
                "run `mmbert data prepare` first"
            )
        known = counts_sizes(recipe.phases[name], recipe.sources, folder)
        found[name] = mixture(recipe.phases[name], known.sizes, relative=known.relative)
    return found


def language_rows(drawn: Mapping[str, Mixture]) -> list[LanguageRow]:
    """Return every language with its share in each phase, largest first."""
    parts: dict[str, dict[str, PhaseShare]] = {}
    tokens: dict[str, dict[str, int | None]] = {}
    for phase, mixed in drawn.items():
        for language, streams in _by_language(mixed).items():
            share = sum(stream.share for stream in streams)
            sizes = [stream.tokens for stream in streams]
            known = None if None in sizes else sum(size or 0 for size in sizes)
            epochs = share * mixed.tokens / known if known else None
            part = PhaseShare(share, share * mixed.tokens, epochs, any(stream.capped for stream in streams))
            parts.setdefault(language, {})[phase] = part
            tokens.setdefault(language, {}).update({stream.source: stream.tokens for stream in streams})
    rows = []
    for language, of_phases in parts.items():
        sizes = list(tokens[language].values())
        total = None if None in sizes else sum(size or 0 for size in sizes)
        rows.append(LanguageRow(language, languages.name(language), total, of_phases))
    # Where sizes are not known, the phase that draws the most languages orders them as their sizes would.
    widest = max(drawn, key=lambda phase: len(drawn[phase].streams), default="")
    return sorted(rows, key=lambda row: (-(row.tokens or 0), -_share(row, widest), row.language))


def table(recipe: Recipe, drawn: Mapping[str, Mixture], rows: Sequence[LanguageRow]) -> str:
    """Return the rows as text: one line for each language, with its share, tokens and epochs in each phase."""
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
            line += f"   {_percent(part.share):>8} {count(part.drawn):>7} {epochs:>4} {part.mark:3}"
        lines.append(line.rstrip())
    return "\n".join([*lines, "", *(_summary(recipe, phase, drawn[phase], rows) for phase in drawn)])


def _summary(recipe: Recipe, phase: str, mixed: Mixture, rows: Sequence[LanguageRow]) -> str:
    """Return one line about a phase."""
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


def count(tokens: float | None) -> str:
    """Format a number of tokens: 950, 12.3k, 4.72M, 2.3T; empty if not known."""
    if tokens is None:
        return ""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if tokens >= size * 0.9995:
            return f"{tokens / size:.3g}" + letter
    return f"{tokens:.0f}"


def _percent(share: float) -> str:
    return f"{share:.3%}" if share >= 1e-5 else "<0.001%"


def _by_language(mixed: Mixture) -> dict[str, list[Any]]:
    streams: dict[str, list[Any]] = {}
    for stream in mixed.streams:
        streams.setdefault(stream.language, []).append(stream)
    return streams


def _share(row: LanguageRow, phase: str) -> float:
    return row.phases[phase].share if phase in row.phases else 0.0
