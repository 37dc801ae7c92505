"""The picture of annealed language learning: every language's share in every phase, and how often it is repeated.

Languages stand in the order of their size, largest first. As the temperature falls from phase to phase the lines turn
flatter, and languages that a phase adds lengthen them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmbert.data.mixture_report import AIM, LanguageRow
from mmbert.errors import ConfigError, MissingExtra
from mmbert.files import atomic_file
from mmbert.reporting.palette import phase_colour

_NAMED = 70
"""With more languages than this their names do not fit under the axis; they are in the tooltips of the HTML."""
_NAMED_WIDTH = 14
_WIDTH = 900
_ROWS = "rows"
_DASHES = ([1, 0], [1, 0], [1, 0], [7, 5], [3, 9], [1, 7])
_STEPS = [float(f"{digit}e{power}") for power in range(-12, 6) for digit in (1, 2, 5)]
"""Where logarithmic axes may carry a number."""


def draw_mixture(rows: Sequence[LanguageRow], phases: Sequence[str], path: Path, *, title: str) -> None:
    """Plot the shares of languages in ``phases`` into ``path``: .html (one file, with tooltips), .svg or .png.

    Raises ConfigError for another ending, MissingExtra without altair and vl-convert.
    """
    if path.suffix not in (".html", ".svg", ".png"):
        raise ConfigError(f"cannot draw into {path.name}: choose a name that ends in .html, .svg or .png")
    specification = mixture_specification(rows, phases, title=title)
    try:
        import vl_convert
    except ImportError as error:
        raise MissingExtra("vl-convert-python", "report") from error
    if path.suffix == ".png":
        data: bytes = vl_convert.vegalite_to_png(specification, scale=2)
    elif path.suffix == ".svg":
        data = vl_convert.vegalite_to_svg(specification).encode()
    else:
        data = vl_convert.vegalite_to_html(specification, bundle=True).encode()
    with atomic_file(path) as file:
        file.write(data)


def mixture_specification(rows: Sequence[LanguageRow], phases: Sequence[str], *, title: str) -> dict[str, Any]:
    """The picture as a Vega-Lite specification: shares, and below them epochs where sizes are known."""
    try:
        import altair as alt
    except ImportError as error:
        raise MissingExtra("altair", "report") from error
    values = _values(rows, phases)
    base = alt.Chart(alt.NamedData(_ROWS)).encode(
        x=_languages(alt, rows), color=_phases(alt, phases), order=alt.Order("rank:Q")
    )
    shares = base.encode(y=_height(alt, "share", "share of the phase", "~%", values), tooltip=_tooltip(alt))
    chart: Any = _panel(alt, shares, rows, phases, 320)
    if any(value["epochs"] is not None for value in values):
        epochs = base.transform_filter("datum.epochs !== null").encode(
            y=_height(alt, "epochs", "epochs", "~g", [*values, {"epochs": AIM}]),
            shape=alt.Shape(
                "held:N",
                title="held at the cap",
                scale=alt.Scale(domain=["no", "yes"], range=["circle", "triangle-up"]),
            ),
            tooltip=_tooltip(alt),
        )
        aim = alt.Chart(alt.InlineData(values=[{"aim": AIM}]))
        rule = aim.mark_rule(strokeDash=[4, 3], color="#c0392b").encode(y="aim:Q")
        chart = alt.vconcat(chart, alt.layer(_panel(alt, epochs, rows, phases, 180, line=False), rule))
    chart = chart.properties(title=title).configure(background="white", font="DejaVu Sans, sans-serif")
    chart = chart.configure_view(stroke=None).configure_title(anchor="start")
    chart = chart.configure_axis(gridColor="#e4e6ea", labelFontSize=10, titleFontWeight="normal")
    specification: dict[str, Any] = chart.to_dict()
    # Put in last: altair would check every value against its schema.
    return {**specification, "datasets": {**specification.get("datasets", {}), _ROWS: values}}


def _values(rows: Sequence[LanguageRow], phases: Sequence[str]) -> list[dict[str, Any]]:
    """One record for each language of each phase."""
    return [
        {"rank": rank, "language": row.name, "code": row.language, "phase": phase, "share": part.share,
         "drawn": part.drawn, "epochs": part.epochs, "held": "yes" if part.capped else "no", "tokens": row.tokens}
        for rank, row in enumerate(rows, start=1)
        for phase in phases
        if (part := row.phases.get(phase)) is not None and part.share > 0
    ]  # fmt: skip


def _languages(alt: Any, rows: Sequence[LanguageRow]) -> Any:
    """The axis of languages: their names, or only their ranks if there are many."""
    if len(rows) > _NAMED:
        return alt.X(
            "rank:Q",
            title="languages, largest first",
            scale=alt.Scale(type="log", domain=[1, len(rows)], nice=False),
            axis=alt.Axis(values=[n for n in _STEPS if 1 <= n <= len(rows)], format="~f"),
        )
    order = [row.language for row in rows]
    names = alt.Axis(labelAngle=-60, labelExpr=f"{_names(rows)}[datum.value]", labelLimit=120, labelOverlap=False)
    return alt.X("code:N", title=None, sort=order, axis=names, scale=alt.Scale(domain=order))


def _names(rows: Sequence[LanguageRow]) -> str:
    """A Vega expression: an object from code to name."""
    import json

    return json.dumps({row.language: row.name for row in rows}, ensure_ascii=False)


def _phases(alt: Any, phases: Sequence[str]) -> Any:
    colours = [phase_colour(place) for place in range(len(phases))]
    return alt.Color("phase:N", title="phase", sort=list(phases), scale=alt.Scale(domain=list(phases), range=colours))


def _tooltip(alt: Any) -> list[Any]:
    return [
        "language:N",
        "code:N",
        "phase:N",
        alt.Tooltip("share:Q", format=".3~%"),
        alt.Tooltip("drawn:Q", title="tokens drawn", format=".3s"),
        alt.Tooltip("tokens:Q", title="tokens there are", format=".3s"),
        alt.Tooltip("epochs:Q", format=".2~f"),
    ]


def _height(alt: Any, field: str, title: str, numbers: str, values: Sequence[dict[str, Any]]) -> Any:
    """A logarithmic axis that fits its values, marked at 1, 2, 5, 10, ... or, over many decades, at powers of ten."""
    found = [value[field] for value in values if value[field]]
    low, high = min(found, default=0.1) * 0.8, max(found, default=1.0) * 1.25
    inside = [step for step in _STEPS if low <= step <= high]
    marked = inside if len(inside) <= 12 else [step for step in inside if f"{step:e}".startswith("1.")]
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    return alt.Y(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(format=numbers, values=marked))


def _panel(
    alt: Any, base: Any, rows: Sequence[LanguageRow], phases: Sequence[str], height: int, *, line: bool = True
) -> Any:
    """Points, joined by a line for each phase; later ones are dashed, so that equal phases do not hide one another."""
    named = len(rows) <= _NAMED
    width = max(300, _NAMED_WIDTH * len(rows)) if named else _WIDTH
    points = base.mark_point(filled=True, size=22 if named else 5, opacity=0.75)
    if not line:
        return points.properties(width=width, height=height)
    dashes = alt.Scale(domain=list(phases), range=[_DASHES[min(n, len(_DASHES) - 1)] for n in range(len(phases))])
    lines = base.mark_line(strokeWidth=1.6).encode(
        strokeDash=alt.StrokeDash("phase:N", title="phase", sort=list(phases), scale=dashes)
    )
    return alt.layer(lines, points).properties(width=width, height=height)
