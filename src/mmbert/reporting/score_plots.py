"""Plots of an evaluation: what each model and baseline reaches in every tier of languages, and in every language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from mmbert.errors import MissingExtra
from mmbert.evaluation.summary import UNKNOWN_TIER, SuiteResult, by_tier
from mmbert.reporting.markdown import svg
from mmbert.reporting.palette import phase_colour
from mmbert.reporting.plots import ROWS, Spec, dress, load_altair

BASELINES = {"untrained": "#8a8f98", "characters": "#e69500", "bag": "#c7a6d8"}
"""Colours of the baselines; models have those of phases."""


def score_plots(result: SuiteResult, tiers: Mapping[str, str]) -> dict[str, Spec]:
    """The plots that the result has something for, by name; none without altair."""
    try:
        load_altair()
    except MissingExtra:
        return {}
    return {"by-tier": tier_points(result, tiers)} if tiers else {}


def tier_points(result: SuiteResult, tiers: Mapping[str, str]) -> Spec:
    """A panel a task: each language a point, the mean of its tier a bar, one colour a model."""
    alt = load_altair()
    rows: list[dict[str, Any]] = []
    for column in result.columns:
        for name, summary in column.tasks.items():
            title = result.suite.task(name).title
            means = by_tier(summary, tiers)
            for language, figure in summary.languages.items():
                tier = tiers.get(language, UNKNOWN_TIER)
                rows.append(
                    {"task": title, "model": column.title, "tier": tier, "language": language, "value": figure.mean,
                     "mean": means[tier][0].mean}
                )  # fmt: skip
    models = [column.title for column in result.columns]
    order = [tier for tier in [*dict.fromkeys(tiers.values()), UNKNOWN_TIER] if any(r["tier"] == tier for r in rows)]
    colour = alt.Color(
        "model:N",
        scale=alt.Scale(domain=models, range=colours(models)),
        legend=alt.Legend(orient="top", title=None, symbolType="circle"),
    )
    base = alt.Chart(alt.NamedData(ROWS)).encode(
        y=alt.Y("tier:N", sort=order, title=None),
        yOffset=alt.YOffset("model:N", sort=models, scale=alt.Scale(paddingOuter=0.2)),
        color=colour,
    )
    points = base.mark_circle(size=26, opacity=0.45).encode(
        x=alt.X("value:Q", title="score of each language, and the mean of its tier"),
        tooltip=["language:N", "model:N", alt.Tooltip("value:Q", format=".3f")],
    )
    ticks = base.mark_tick(thickness=3, size=13).encode(x="mean:Q", tooltip=["tier:N", "model:N", "mean:Q"])
    height = max(60, 16 * len(models) * len(order))
    panels = alt.layer(points, ticks).properties(width=330, height=height)
    chart = panels.facet(facet=alt.Facet("task:N", title=None), columns=2)
    return dress(chart, rows)


def colours(models: Sequence[str]) -> list[str]:
    """Of each: a baseline's own, for models those of phases that no baseline has."""
    free = (colour for colour in map(phase_colour, count(1)) if colour not in BASELINES.values())
    return [BASELINES[name] if name in BASELINES else next(free) for name in models]


def svg_or_none(spec: Spec) -> str | None:
    """The plot as SVG; None without vl-convert."""
    try:
        return svg(spec)
    except MissingExtra:
        return None
