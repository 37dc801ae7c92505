"""Plot of an evaluation: the scores of each model and baseline in every tier of languages, and in every language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

from mmbert.evaluation.summary import SuiteResult, by_tier
from mmbert.evaluation.tiers import UNSEEN
from mmbert.reporting.charts import ROWS, Row, Spec, dress, load_library
from mmbert.reporting.palette import phase_colour

BASELINES = {"untrained": "#8a8f98", "characters": "#e69500", "character-unigrams": "#c7a6d8"}
"""Colours of the baselines; models have those of phases."""


def tier_points(result: SuiteResult, tiers: Mapping[str, str]) -> Spec:
    """Plot a panel a task: each language a point, the mean of its tier a bar, one colour a model."""
    alt = load_library("altair")
    rows: list[Row] = []
    for column in result.columns:
        for name, summary in column.tasks.items():
            title, means = result.suite.task(name).title, by_tier(summary, tiers)
            for language, figure in summary.languages.items():
                tier = tiers.get(language, UNSEEN)
                rows.append(
                    {"task": title, "model": column.title, "tier": tier, "language": language, "value": figure.mean,
                     "mean": means[tier][0].mean}
                )  # fmt: skip
    models = [column.title for column in result.columns]
    order = [tier for tier in [*dict.fromkeys(tiers.values()), UNSEEN] if any(r["tier"] == tier for r in rows)]
    colour = alt.Color(
        "model:N",
        scale=alt.Scale(domain=models, range=system_colours(models)),
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


def system_colours(models: Sequence[str]) -> list[str]:
    """Return a colour for each: a baseline's own, for models those of phases that no baseline has."""
    free = (colour for colour in map(phase_colour, count(1)) if colour not in BASELINES.values())
    return [BASELINES[name] if name in BASELINES else next(free) for name in models]
