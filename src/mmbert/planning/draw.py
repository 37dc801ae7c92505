"""What a phase draws of every source and language, where the sizes of the sources are known without data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmbert.data.counts import counts_sizes
from mmbert.data.mixture import Mixture, mixture
from mmbert.errors import ConfigError
from mmbert.recipe import Phase, Recipe


@dataclass(frozen=True)
class Drawn:
    """What a phase draws of one source or one language."""

    name: str
    share: float
    tokens: float
    epochs: float | None
    """How often the text there is gone through; None if its size is not known."""


def draw(
    recipe: Recipe, phase: Phase, folder: Path
) -> tuple[Mixture | None, tuple[Drawn, ...], tuple[Drawn, ...], str]:
    """The mixture of a phase, summed over sources and over languages, from sizes that are known without data."""
    try:
        known = counts_sizes(phase, recipe.sources, folder)
        drawn = mixture(phase, known.sizes, relative=known.relative)
    except ConfigError as error:
        return None, (), (), str(error)
    budgets = phase.data.mixture or {}
    texts: dict[tuple[str, str], float] = {}
    for (source, language), size in known.sizes.items():
        counts = budgets[source].counts
        # what was published is the sampled set: its own size is known, that of all text only up to a factor
        texts[source, language] = size if counts is None else size**counts.drawn_at
    by_source: dict[str, list[float]] = {}
    by_language: dict[str, list[float]] = {}
    for stream in drawn.streams:
        for sums, key in ((by_source, stream.source), (by_language, stream.language)):
            entry = sums.setdefault(key, [0.0, 0.0])
            entry[0] += stream.share
            entry[1] += texts[stream.source, stream.language]
    note = "epochs are of the published, already sampled set" if known.relative else "epochs are of all text there is"
    return drawn, _sorted(by_source, phase.tokens), _sorted(by_language, phase.tokens), note


def _sorted(sums: dict[str, list[float]], tokens: int) -> tuple[Drawn, ...]:
    drawn = []
    for name, (share, size) in sums.items():
        drawn.append(Drawn(name, share, share * tokens, share * tokens / size if size else None))
    return tuple(sorted(drawn, key=lambda each: (-each.share, each.name)))
