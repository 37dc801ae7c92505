"""Plot of a mixture (``mmbert data plan --out``): every language's share in every phase, and how often it is repeated.

Languages stand in the order of their size, largest first. As the temperature falls from phase to phase the lines turn
flatter, and languages that a phase adds lengthen them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmbert.data.mixture_report import AIM, LanguageRow
from mmbert.errors import ConfigError
from mmbert.files import atomic_file
from mmbert.reporting.charts import ROWS, Row, Spec, dress, load_library, share_panel
from mmbert.reporting.palette import phase_colour

_NAMED = 70
"""With more languages than this their names do not fit under the axis; they are in the tooltips of the HTML."""
_DASHES = ([1, 0], [1, 0], [1, 0], [7, 5], [3, 9], [1, 7])
"""By place of the phase: decays often share a mixture, and a solid line would hide those below it."""
_STEPS = [float(f"{digit}e{power}") for power in range(-12, 6) for digit in (1, 2, 5)]
"""Where logarithmic axes may carry a number."""


def draw_mixture(rows: Sequence[LanguageRow], phases: Sequence[str], path: Path, *, title: str) -> None:
    """Draw the mixture of ``phases`` into ``path``: .html (self-contained, with tooltips), .svg or .png.

    Raises ConfigError for another ending, MissingExtra without altair and vl-convert.
    """
    if path.suffix not in (".html", ".svg", ".png"):
        raise ConfigError(f"cannot draw into {path.name}: choose a name that ends in .html, .svg or .png")
    specification = mixture_specification(rows, phases, title=title)
    vl_convert = load_library("vl_convert")
    if path.suffix == ".png":
        data: bytes = vl_convert.vegalite_to_png(specification, scale=2)
    elif path.suffix == ".svg":
        data = vl_convert.vegalite_to_svg(specification).encode()
    else:
        data = vl_convert.vegalite_to_html(specification, bundle=True).encode()
    with atomic_file(path) as file:
        file.write(data)


def mixture_specification(rows: Sequence[LanguageRow], phases: Sequence[str], *, title: str) -> Spec:
    """Return the plot as a Vega-Lite specification: shares, and below them epochs where sizes are known."""
    alt = load_library("altair")
    values: list[Row] = [
        {"rank": rank, "language": row.name, "code": row.language, "phase": phase, "share": part.share,
         "drawn": part.drawn, "epochs": part.epochs, "held": "yes" if part.capped else "no", "tokens": row.tokens}
        for rank, row in enumerate(rows, start=1)
        for phase in phases
        if (part := row.phases.get(phase)) is not None and part.share > 0
    ]  # fmt: skip
    colours = alt.Scale(domain=list(phases), range=[phase_colour(place) for place in range(len(phases))])
    dashes = alt.Scale(domain=list(phases), range=[_DASHES[min(n, len(_DASHES) - 1)] for n in range(len(phases))])
    encoding = {
        "x": _language_axis(alt, rows),
        "color": alt.Color("phase:N", title="phase", sort=list(phases), scale=colours),
        "order": alt.Order("rank:Q"),
        "tooltip": [
            "language:N", "code:N", "phase:N", alt.Tooltip("share:Q", format=".3~%"),
            alt.Tooltip("drawn:Q", title="tokens drawn", format=".3s"),
            alt.Tooltip("tokens:Q", title="tokens there are", format=".3s"), alt.Tooltip("epochs:Q", format=".2~f"),
        ],
    }  # fmt: skip
    width = max(300, 14 * len(rows)) if len(rows) <= _NAMED else 900
    size = 22 if len(rows) <= _NAMED else 5
    dash = alt.StrokeDash("phase:N", title="phase", sort=list(phases), scale=dashes)
    height = _log_axis(alt, "share", "share of the phase", "~%", values)
    chart = share_panel(alt, size, encoding | {"y": height}, dash).properties(width=width, height=320)
    if any(value["epochs"] is not None for value in values):
        held = alt.Scale(domain=["no", "yes"], range=["circle", "triangle-up"])
        height = _log_axis(alt, "epochs", "epochs", "~g", [*values, {"epochs": AIM}])
        shape = {"y": height, "shape": alt.Shape("held:N", title="held at the cap", scale=held)}
        points = alt.Chart(alt.NamedData(ROWS)).mark_point(filled=True, size=size, opacity=0.75)
        points = points.encode(**encoding, **shape).transform_filter("datum.epochs !== null")
        aim = alt.Chart(alt.InlineData(values=[{"aim": AIM}])).mark_rule(strokeDash=[4, 3], color="#c0392b")
        below = alt.layer(points.properties(width=width, height=180), aim.encode(y="aim:Q"))
        chart = alt.vconcat(chart, below)
    spec = dress(chart.properties(title=title), values)
    # a file is looked at outside the page: white paper, and a font that the renderer of SVG and PNG has
    return {**spec, "config": {**spec["config"], "background": "white", "font": "DejaVu Sans, sans-serif"}}


def _language_axis(alt: Any, rows: Sequence[LanguageRow]) -> Any:
    """The axis of languages: their names, or only their ranks if there are many."""
    if len(rows) > _NAMED:
        scale = alt.Scale(type="log", domain=[1, len(rows)], nice=False)
        axis = alt.Axis(values=[n for n in _STEPS if 1 <= n <= len(rows)], format="~f")
        return alt.X("rank:Q", title="languages, largest first", scale=scale, axis=axis)
    order = [row.language for row in rows]
    names = json.dumps({row.language: row.name for row in rows}, ensure_ascii=False)  # a Vega expression
    axis = alt.Axis(labelAngle=-60, labelExpr=f"{names}[datum.value]", labelLimit=120, labelOverlap=False)
    return alt.X("code:N", title=None, sort=order, axis=axis, scale=alt.Scale(domain=order))


def _log_axis(alt: Any, field: str, title: str, numbers: str, values: Sequence[Row]) -> Any:
    """A logarithmic axis that fits its values, marked at 1, 2, 5, 10, ... or, over many decades, at powers of ten."""
    found = [value[field] for value in values if value[field]]
    low, high = min(found, default=0.1) * 0.8, max(found, default=1.0) * 1.25
    inside = [step for step in _STEPS if low <= step <= high]
    marked = inside if len(inside) <= 12 else [step for step in inside if f"{step:e}".startswith("1.")]
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    return alt.Y(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(format=numbers, values=marked))
