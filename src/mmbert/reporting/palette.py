"""Colours of all plots, distinguishable by colour-blind readers (after Okabe and Ito), on light and dark paper."""

from __future__ import annotations

from mmbert.evaluation.results import MERGED
from mmbert.evaluation.tiers import KEPT, NEW, UNSEEN
from mmbert.recipe import START

_COLOURS = ("#56b4e9", "#1f77c0", "#0aa57a", "#e69500", "#d07bb0", "#8a63c9", "#a0a000", "#5b8a8a")
_FIXED = {MERGED: "#d9480f", UNSEEN: "#8a8f98"}
_STARTED = {START: "#5b6b7b", NEW: "#e69500", KEPT: "#1f77c0"}


def phase_colour(place: int) -> str:
    """Return the colour of the phase at this place of the recipe's order, and of the languages that it brings in."""
    return _COLOURS[place % len(_COLOURS)]


def fixed_colours(*, started: bool) -> dict[str, str]:
    """Return the colours of models and tiers that are not those of a phase; more where a run has a start."""
    return _FIXED | _STARTED if started else dict(_FIXED)
