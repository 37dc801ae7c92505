"""What the runs of the ablations say: means over seeds, paired differences, tests, and equal exposure.

Everything is computed from the JSONs of ``run.py``. A difference between two configurations is taken on the seeds that
both have: first the mean over these seeds for each language, then the difference of each language.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from configurations import CONFIGURATIONS, REFERENCE, STAGES, identity, recipe
from scipy.stats import ttest_1samp, wilcoxon

from mmbert.errors import ConfigError
from mmbert.files import read_json

SEEDS = (1, 2, 3)
LEVEL = 0.05
"""A difference is significant if p is below this over languages and over seeds, and all three seeds are there."""

Runs = Mapping[tuple[str, int], Mapping[str, Any]]
"""(configuration, seed) -> the JSON of the run."""


@dataclass(frozen=True)
class Difference:
    """A configuration minus the annealed one, in bits per byte, on the languages of one tier. Negative: better."""

    configuration: str
    tier: str
    seeds: tuple[int, ...]
    """That both have."""
    languages: int
    mean: float
    """Over languages, of the means over seeds."""
    by_seed: tuple[float, ...]
    """Mean over languages with each seed."""
    better: int
    """Languages with fewer bits per byte than with the annealed configuration."""
    p: float
    """Wilcoxon signed-rank test over languages, two-sided, corrected by Holm over all differences of the table."""
    p_seeds: float | None
    """Paired t-test over seeds of the mean over languages, two-sided, not corrected; None with one seed."""

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` if that is significant, ``no difference shown``, or ``open`` without three seeds."""
        if len(self.seeds) < len(SEEDS) or self.p_seeds is None:
            return "open"
        # The languages share one model, so over languages alone the luck of a seed would look significant.
        if max(self.p, self.p_seeds) >= LEVEL:
            return "no difference shown"
        return "better" if self.mean < 0 else "worse"


@dataclass(frozen=True)
class EqualExposure:
    """A late and an early configuration on languages that have seen the same number of tokens of their own text."""

    late: str
    early: str
    seeds: tuple[int, ...]
    late_tokens: int
    """Training tokens of the late run, over all languages, at this checkpoint."""
    early_tokens: float
    """The same of the early run where a language has as much exposure, mean over languages."""
    exposure: float
    """Tokens of a language seen, mean over languages."""
    languages: int
    late_bits: float
    early_bits: float
    p: float
    """As in ``Difference``, over the rows of one pair of configurations."""


def read_runs(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the runs there are. Raises ConfigError for one that cannot be compared with the others."""
    runs: dict[tuple[str, int], dict[str, Any]] = {}
    first: dict[str, Any] = {}
    for path in sorted(folder.glob("*.json")):
        run = read_json(path)
        name, seed = run["configuration"], run["seed"]
        # Text and held-out set may be other ones than the author's, but must be the same for all.
        first = first or run
        for key in ("text", "heldout", "tokens", "precision"):
            if run[key] != first[key]:
                raise ConfigError(f"{path}: {key} is {run[key]}, and {first[key]} in other runs: make it again")
        if name not in CONFIGURATIONS or run["recipe"] != identity(recipe(name, seed, [], run["steps"])):
            raise ConfigError(f"{path} is of another recipe than configurations.py: delete it, and make it again")
        runs[name, seed] = run
    return runs


def seeds_of(runs: Runs, *names: str) -> tuple[int, ...]:
    """Return the seeds that all these configurations have."""
    known = sorted({seed for _, seed in runs})
    return tuple(seed for seed in known if all((name, seed) in runs for name in names))


def bits(runs: Runs, name: str, seed: int, tier: str) -> dict[str, float]:
    """Return the bits per byte of each language of a tier."""
    return {code: row[1] for code, row in runs[name, seed]["languages"].items() if row[0] == tier}


def tier_means(runs: Runs, name: str, tier: str) -> list[float]:
    """Return the mean over languages with each seed."""
    return [float(np.mean(list(bits(runs, name, seed, tier).values()))) for seed in seeds_of(runs, name)]


def differences(runs: Runs) -> list[Difference]:
    """Return the difference of each configuration to the annealed one in each tier, in the order of configurations."""
    found = []
    for name in CONFIGURATIONS:
        seeds = seeds_of(runs, name, REFERENCE)
        if name == REFERENCE or not seeds:
            continue
        for tier in STAGES:
            by_language = paired(
                [bits(runs, name, seed, tier) for seed in seeds], [bits(runs, REFERENCE, seed, tier) for seed in seeds]
            )  # (seeds, languages)
            means = by_language.mean(axis=0)
            found.append((name, tier, seeds, by_language, means, signed_rank(means)))
    corrected = holm([entry[-1] for entry in found])
    return [
        Difference(
            name, tier, seeds, len(means), float(means.mean()), tuple(by_language.mean(axis=1).tolist()),
            int((means < 0).sum()), p, over_seeds(by_language.mean(axis=1)),
        )
        for (name, tier, seeds, by_language, means, _), p in zip(found, corrected, strict=True)
    ]  # fmt: skip


def paired(ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Return ours minus theirs (seeds, languages), each language with itself and each seed with itself.

    Raises ValueError if the languages differ: a shift by one language would give plausible numbers.
    """
    rows = []
    for one, other in zip(ours, theirs, strict=True):
        if one.keys() != other.keys():
            raise ValueError(f"languages differ: {sorted(one.keys() ^ other.keys())[:5]}")
        rows.append([one[code] - other[code] for code in sorted(one)])
    return np.array(rows)


def signed_rank(values: np.ndarray) -> float:
    """Return p of the Wilcoxon signed-rank test, two-sided; 1 where all differences are 0."""
    return float(wilcoxon(values).pvalue) if np.any(values != 0) else 1.0


def over_seeds(values: np.ndarray) -> float | None:
    """Return p of the t-test that the mean over seeds is 0, two-sided; None with one seed."""
    if len(values) < 2:
        return None
    if np.ptp(values) == 0:  # the test would divide by a spread of 0
        return 0.0 if values[0] else 1.0
    return float(ttest_1samp(values, 0.0).pvalue)


def holm(ps: Sequence[float]) -> list[float]:
    """Return p values corrected for several tests (Holm 1979): step-down, so that they keep their order."""
    corrected, highest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = highest
    return corrected


def equal_exposure(runs: Runs, late: str, early: str) -> list[EqualExposure]:
    """Compare the sample at each checkpoint of the late run with the early run at the same exposure of each language.

    The early run's bits per byte between two checkpoints are interpolated on a line over the tokens seen of the
    language. Languages that the late run has not drawn yet, or whose exposure the early run passed before its first
    checkpoint or does not reach, are left out of a row.
    """
    seeds = seeds_of(runs, late, early)
    if not seeds:
        return []
    points = [point for point in runs[late, seeds[0]]["curve"] if point["phase"] == STAGES[-1]]
    rows = []
    for place in range(-len(points), 0):
        by_language: dict[str, list[tuple[float, float, float, float]]] = {}
        for seed in seeds:
            point, curve = runs[late, seed]["curve"][place], runs[early, seed]["curve"]
            for code, (value, seen) in point["sample"].items():
                other = at_exposure(curve, code, seen)
                if other is not None:
                    by_language.setdefault(code, []).append((seen, value, *other))
        # With some of the seeds only, a language would weigh less and the seeds would differ between languages.
        whole = [np.mean(values, axis=0) for values in by_language.values() if len(values) == len(seeds)]
        if whole:
            table = np.array(whole)  # (languages, 4): seen, late bits, early bits, early tokens
            rows.append((runs[late, seeds[0]]["curve"][place]["tokens"], table, signed_rank(table[:, 1] - table[:, 2])))
    corrected = holm([row[-1] for row in rows])
    return [
        EqualExposure(
            late, early, seeds, tokens, float(table[:, 3].mean()), float(table[:, 0].mean()), len(table),
            float(table[:, 1].mean()), float(table[:, 2].mean()), p,
        )
        for (tokens, table, _), p in zip(rows, corrected, strict=True)
    ]  # fmt: skip


def at_exposure(curve: Sequence[Mapping[str, Any]], code: str, seen: float) -> tuple[float, float] | None:
    """Return (bits per byte, training tokens) of a run where it has seen ``seen`` tokens of a language, else None."""
    exposures = [point["sample"][code][1] for point in curve]
    if seen <= 0 or not exposures[0] <= seen <= exposures[-1]:
        return None
    at = next(place for place, exposure in enumerate(exposures) if exposure >= seen)
    if exposures[at] == seen:
        return float(curve[at]["sample"][code][0]), float(curve[at]["tokens"])
    part = (seen - exposures[at - 1]) / (exposures[at] - exposures[at - 1])
    before, after = curve[at - 1], curve[at]
    value = before["sample"][code][0] + part * (after["sample"][code][0] - before["sample"][code][0])
    return float(value), float(before["tokens"] + part * (after["tokens"] - before["tokens"]))
