"""Sizes of streams from published tables, for dry runs and mixture reports without data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mmbert import languages
from mmbert.errors import ConfigError
from mmbert.io.delimited import read_tsv
from mmbert.recipe import Counts, Phase, Source
from mmbert.recipe_names import beside_or_shipped


class KnownSizes(NamedTuple):
    """Sizes in the form that ``mixture`` takes."""

    sizes: dict[tuple[str, str], float]
    """(source, language) -> tokens."""
    relative: frozenset[str]
    """Sources whose sizes are known up to a factor only."""


def counts_sizes(phase: Phase, sources: Mapping[str, Source], folder: Path) -> KnownSizes:
    """Return sizes for the sources of a mixture, from its budgets' ``counts``; a source of one language needs none.

    folder  the recipe's, to which the tables' paths are relative
    Raises ConfigError if a source has neither, or its table cannot be read.
    """
    if phase.data.mixture is None:
        raise ConfigError("sizes are not known: run `mmbert data prepare` first, or give data.mixture counts")
    sizes: dict[tuple[str, str], float] = {}
    relative = set()
    for name, budget in phase.data.mixture.items():
        if budget.counts is not None:
            table = read_counts(folder, budget.counts)
            # A source that names its configurations holds those languages only, whatever else the table lists.
            held = [languages.normalise(config) for config in sources[name].configs]
            for counted, size in table.items():
                if not held or any(languages.matches(config, [counted]) for config in held):
                    sizes[name, counted] = size
            if budget.counts.drawn_at != 1:
                relative.add(name)
        elif (language := sources[name].language) is not None:
            sizes[name, language] = max(budget.tokens, 1)
            relative.add(name)
        else:
            raise ConfigError(f"data.mixture.{name}: sizes are not known: run `mmbert data prepare`, or give counts")
    return KnownSizes(sizes, frozenset(relative))


def read_counts(folder: Path, counts: Counts) -> dict[str, float]:
    """Return language -> natural size, from a table of tokens drawn at an exponent. Languages with 0 are left out."""
    path = beside_or_shipped(folder, counts.file)
    if not path.is_file():
        raise ConfigError(f"no such table of counts: {path}")
    sizes: dict[str, float] = {}
    for number, row in read_tsv(path, comment="#"):
        if "language" not in row or counts.column not in row:
            raise ConfigError(f"{path} has no columns language and {counts.column}; it has {', '.join(row)}")
        try:
            count = float(row[counts.column] or 0)
        except ValueError:
            count = math.nan
        if not math.isfinite(count) or count < 0:
            raise ConfigError(f"{path}:{number}: {row[counts.column]!r} is not a count")
        if count:
            sizes[row["language"]] = count ** (1 / counts.drawn_at)
    return sizes
