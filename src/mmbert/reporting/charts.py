"""What all plots share: the library, the data's name, tooltips, type and lines, and the panel of languages' shares."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from mmbert.errors import import_extra

Spec = dict[str, Any]
Row = dict[str, Any]

ROWS = "rows"
"""Name of a plot's own data."""


load_library = partial(import_extra, extra="report")
"""Imports a library of the extra ``report``. Raises MissingExtra without it."""


def tooltips(alt: Any, *fields: str) -> list[Any]:
    """Return tooltips, each written as ``field|title|format``; what is empty or left out is Vega's own."""
    tips = []
    for field in fields:
        name, title, numbers = [*field.split("|"), "", ""][:3]
        tips.append(
            alt.Tooltip(name, **({"title": title} if title else {}), **({"format": numbers} if numbers else {}))
        )
    return tips


def share_panel(alt: Any, size: int, encoding: Mapping[str, Any], dash: Any = None) -> Any:
    """Return the chart of shares: a point a language, joined by a line for each phase, dashed by ``dash``."""
    places = {channel: value for channel, value in encoding.items() if channel != "tooltip"}
    base = alt.Chart(alt.NamedData(ROWS)).encode(**places)
    line = base.mark_line(strokeWidth=1.6)
    points = base.mark_circle(size=size, opacity=0.8).encode(tooltip=encoding["tooltip"])
    return (line if dash is None else line.encode(strokeDash=dash)) + points


def dress(chart: Any, rows: list[Row]) -> Spec:
    """Return the specification in the common type and lines, with ``rows`` as its data."""
    chart = chart.configure(background="transparent", font="system-ui, sans-serif")
    chart = chart.configure_view(stroke=None).configure_axis(
        gridColor="#d8dbe0", domainColor="#9aa0a8", tickColor="#9aa0a8", gridOpacity=0.7,
        labelFontSize=11, titleFontSize=11, titleFontWeight=500, labelLimit=180, labelOverlap=True,
    )  # fmt: skip
    chart = chart.configure_legend(labelFontSize=11, titleFontSize=11, titleFontWeight=500, labelLimit=180)
    spec: Spec = chart.configure_title(fontSize=12, fontWeight=600, anchor="start", offset=6).to_dict()
    return {**spec, "datasets": {**spec.get("datasets", {}), ROWS: rows}}
