"""What a phase draws of every source and language: from prepared data, else from tables of counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmbert.data.counts import KnownSizes, counts_sizes
from mmbert.data.manifest import FILE, Manifest
from mmbert.data.mixture import Mixture, mixture
from mmbert.data.store import report_path, text_sizes
from mmbert.errors import ConfigError, DataError
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
    recipe: Recipe, phase: Phase, folder: Path, data: Path | None = None
) -> tuple[Mixture | None, tuple[Drawn, ...], tuple[Drawn, ...], str]:
    """The mixture of a phase, summed over sources and over languages, from the sizes that are known.

    data  a folder of ``mmbert data prepare``: its shards are counted, or as long as there are none its text; without
          either the recipe's tables of counts are read
    """
    try:
        known, texts, note = _known_sizes(recipe, phase, folder, data)
        drawn = mixture(phase, known.sizes, relative=known.relative)
    except (ConfigError, DataError) as error:
        return None, (), (), str(error)
    by_source: dict[str, list[float]] = {}
    by_language: dict[str, list[float]] = {}
    for stream in drawn.streams:
        for sums, key in ((by_source, stream.source), (by_language, stream.language)):
            entry = sums.setdefault(key, [0.0, 0.0])
            entry[0] += stream.share
            entry[1] += texts[stream.source, stream.language]
    return drawn, _sorted(by_source, phase.tokens), _sorted(by_language, phase.tokens), note


def _known_sizes(
    recipe: Recipe, phase: Phase, folder: Path, data: Path | None
) -> tuple[KnownSizes, dict[tuple[str, str], float], str]:
    """The sizes of all streams, the tokens that an epoch of each goes through (0: not known), and a note on them."""
    if data is not None and (data / "shards" / FILE).is_file():
        tokens: dict[tuple[str, str], float] = {**Manifest.read(data / "shards").sizes()}
        return KnownSizes(tokens, frozenset()), tokens, f"sizes and epochs are of the shards in {data}"
    if data is not None and report_path(data).is_file():
        characters: dict[tuple[str, str], float] = {**text_sizes(data)}
        note = f"shares are of the characters in {data}: epochs are known when shards are made"
        known = KnownSizes(characters, frozenset(source for source, _ in characters))
        return known, dict.fromkeys(characters, 0.0), note
    known = counts_sizes(phase, recipe.sources, folder)
    budgets = phase.data.mixture or {}
    texts: dict[tuple[str, str], float] = {}
    for (source, language), size in known.sizes.items():
        counts = budgets[source].counts
        # what was published is the sampled set: its own size is known, that of all text only up to a factor
        texts[source, language] = size if counts is None else size**counts.drawn_at
    note = "epochs are of the published, already sampled set" if known.relative else "epochs are of all text there is"
    return known, texts, note


def _sorted(sums: dict[str, list[float]], tokens: int) -> tuple[Drawn, ...]:
    drawn = []
    for name, (share, size) in sums.items():
        drawn.append(Drawn(name, share, share * tokens, share * tokens / size if size else None))
    return tuple(sorted(drawn, key=lambda each: (-each.share, each.name)))
