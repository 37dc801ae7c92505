"""Plots of the ablations as SVG, through the charts of the package's own reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from comparison import Difference, Runs, seeds_of
from configurations import CONFIGURATIONS, STAGES

from mmbert.files import write_text
from mmbert.reporting.charts import ROWS, Row, dress, load_library
from mmbert.reporting.markdown import svg
from mmbert.reporting.palette import phase_colour

JOINING = ("annealed", "stages-0.5", "all-0.3", "all-0.5")
"""Configurations that differ in when they draw the last tier: late, late, early, early."""


def write_plots(runs: Runs, found: Sequence[Difference], out: Path) -> list[str]:
    """Write the plots there is something for; return their names."""
    made = {"tiers": tier_ticks(found), "tokens": sample_curves(runs, "tokens"), "exposure": None}
    # One line alone compares nothing.
    if len([name for name in JOINING if seeds_of(runs, name)]) > 1:
        made["exposure"] = sample_curves(runs, "exposure")
    for name, spec in made.items():
        if spec is not None:
            write_text(out / f"{name}.svg", svg(spec))
    return [name for name, spec in made.items() if spec is not None]


def tier_ticks(found: Sequence[Difference]) -> dict[str, Any] | None:
    """Plot the difference of each configuration to the annealed one: a tick a seed, the diamond their mean."""
    if not found:
        return None
    alt = load_library("altair")
    rows: list[Row] = [
        {"configuration": each.configuration, "tier": each.tier, "change": value, "kind": kind}
        for each in found
        for kind, values in (("seed", each.by_seed), ("mean", (each.mean,)))
        for value in values
    ]
    names = list(dict.fromkeys(row["configuration"] for row in rows))
    base = alt.Chart(alt.NamedData(ROWS)).encode(
        y=alt.Y("configuration:N", sort=names, title=None),
        yOffset=alt.YOffset("tier:N", sort=list(STAGES), scale=alt.Scale(paddingOuter=0.3)),
        x=alt.X("change:Q", title="bits per byte, minus annealed (negative: better)", axis=alt.Axis(format="+.2f")),
        color=_colours(alt, "tier", STAGES, "languages first drawn by annealed in"),
    )
    ticks = base.transform_filter("datum.kind == 'seed'").mark_tick(thickness=2, size=9)
    means = base.transform_filter("datum.kind == 'mean'").mark_point(shape="diamond", size=60, filled=True)
    zero = alt.Chart(alt.Data(values=[{"change": 0}])).mark_rule(strokeWidth=1.2).encode(x="change:Q")
    return dress((zero + ticks + means).properties(width="container", height=48 * len(names)), rows)


def sample_curves(runs: Runs, over: str) -> dict[str, Any] | None:
    """Plot the mean bits per byte of the sample over training tokens, or over the mean exposure of its languages.

    Lines are means over seeds. Over exposure there are only the configurations that differ in when languages join, from
    the first checkpoint on at which every language of the sample has been seen.
    """
    names = [name for name in (JOINING if over == "exposure" else CONFIGURATIONS) if seeds_of(runs, name)]
    rows: list[Row] = []
    for name in names:
        curves = [runs[name, seed]["curve"] for seed in seeds_of(runs, name)]
        # Checkpoints come at the same tokens with every seed.
        for points in zip(*curves, strict=True):
            samples = [list(point["sample"].values()) for point in points]
            if over == "exposure" and any(seen == 0 for sample in samples for _, seen in sample):
                continue
            value, seen = np.mean(samples, axis=(0, 1)).tolist()
            rows.append({"configuration": name, "tokens": points[0]["tokens"], "exposure": seen, "bits": value})
    if not rows:
        return None
    alt = load_library("altair")
    titles = {"tokens": "training tokens", "exposure": "tokens seen of a language, mean over the sample"}
    line = alt.Chart(alt.NamedData(ROWS)).mark_line(strokeWidth=1.6, point={"size": 22})
    line = line.encode(
        x=alt.X(f"{over}:Q", title=titles[over], axis=alt.Axis(format="~s")),
        y=alt.Y("bits:Q", title="bits per byte, 24 languages of the last tier", scale=alt.Scale(zero=False)),
        color=_colours(alt, "configuration", CONFIGURATIONS, None, shown=names),
        order="tokens:Q",
    )
    return dress(line.properties(width="container", height=320), rows)


def _colours(
    alt: Any, field: str, domain: Sequence[str], title: str | None, *, shown: Sequence[str] | None = None
) -> Any:
    """Colour by place in ``domain``, so that a configuration has the same colour in all plots."""
    values = list(shown or domain)
    scale = alt.Scale(domain=values, range=[phase_colour(list(domain).index(value)) for value in values])
    legend = alt.Legend(orient="top", title=title, titleOrient="left", symbolType="circle", columns=4)
    return alt.Color(f"{field}:N", scale=scale, legend=legend)
