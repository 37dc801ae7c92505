"""Figures of a split in words: all examples together, and by language with the number of examples beside each.

A figure of a language is called by its code (``swh_Latn_accuracy``), and so is the number of its examples
(``swh_Latn_examples``). With fewer than ``LEAST`` examples a figure is marked and left out of means: of 29 examples the
standard error of an accuracy of 0.7 is 0.085.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

LEAST = 30
"""Fewer examples than these give no result."""

COUNT = "examples"
"""The name of the number of examples."""

SHOWN_ALONE = 4
"""From so many languages on, their figures are shown as a mean."""

_CODE = re.compile(r"([a-z]{3}_[A-Z][a-z]{3})_")


def split_languages(numbers: Mapping[str, float]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the figures of the whole split, and name -> language -> figure."""
    whole: dict[str, float] = {}
    languages: dict[str, dict[str, float]] = {}
    for name, value in numbers.items():
        code = _CODE.match(name)
        if code is None:
            whole[name] = value
        else:
            languages.setdefault(name[code.end() :], {})[code[1]] = value
    return whole, languages


def summarise(numbers: Mapping[str, float], most: int = 8) -> str:
    """Return figures as one short line: those of many languages as their mean and the worst; ``result.json`` has all.

    Languages with fewer than ``LEAST`` examples are marked, or left out of the mean and counted.
    """
    whole, languages = split_languages(numbers)
    counts = languages.pop(COUNT, {})
    said = [f"{name} {value:.4f}" for name, value in whole.items()]
    for name, found in languages.items():
        if len(found) < SHOWN_ALONE:
            said += [f"{code}_{name} {value:.4f}{_beside(counts.get(code))}" for code, value in found.items()]
            continue
        sure = {code: value for code, value in found.items() if counts.get(code, LEAST) >= LEAST}
        few = len(found) - len(sure)
        left = f"; {few} with fewer than {LEAST} examples left out" if few else ""
        if not sure:
            said.append(f"{name}: no result, as all {few} languages have fewer than {LEAST} examples")
            continue
        worst = min(sure, key=lambda code: sure[code])
        mean = sum(sure.values()) / len(sure)
        said.append(f"{name} {mean:.4f} (mean of {len(sure)} languages, worst {worst} {sure[worst]:.4f}{left})")
    more = [f"{len(said) - most} more"] if len(said) > most else []
    return ", ".join([*said[:most], *more])


def _beside(count: float | None) -> str:
    """Return the number of examples behind a figure, and whether they are too few for a result."""
    if count is None:
        return ""
    return f" ({count:.0f} examples{', no result' if count < LEAST else ''})"
