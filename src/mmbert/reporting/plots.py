"""Plots of a run, as Vega-Lite specifications made with altair.

One colour per phase throughout, also for the tier of languages that a phase brings in (``palette.py``).
Text and grid carry no colour of their own: the page gives them its light or dark.
Every function returns a plain dictionary, or None where a run holds nothing to show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmbert.errors import MissingExtra
from mmbert.evaluation.results import MERGED
from mmbert.evaluation.tiers import UNSEEN, below
from mmbert.reporting.palette import fixed_colours, phase_colour
from mmbert.reporting.record import Record
from mmbert.reporting.tables import language_name

Spec = dict[str, Any]
Row = dict[str, Any]

ROWS = "rows"
"""Name of a plot's own data."""

CURVE_POINTS = 300
"""Points drawn of one phase's curve; more steps are averaged in equal stretches."""

CURVES = (
    ("loss", "Loss (nats per masked token)", "~s"),
    ("learning_rate", "Learning rate", "~g"),
    ("batch", "Tokens per step", "~s"),
    ("mask_rate", "Mask rate", "~%"),
    ("tokens_per_second", "Tokens per second", "~s"),
    ("grad_norm", "Norm of the gradient", "~g"),
)
"""What metrics hold, its title, and how numbers on its axis read."""


def colours(record: Record) -> dict[str, str]:
    """A colour for each phase, for the merge and the start, and for tiers of languages that are none of a phase."""
    by_phase = {name: phase_colour(place) for place, name in enumerate(record.phases)}
    return {**by_phase, **fixed_colours(started=record.recipe.start is not None)}


def all_plots(record: Record) -> dict[str, Spec]:
    """Every plot that the run has something for, by name."""
    made = {
        "tiers": tier_bars(record),
        "languages": language_points(record),
        "merge": merge_ticks(record),
        "retrieval": retrieval_points(record),
        "shares": share_lines(record),
        "top": share_dots(record),
        **curves(record),
    }
    return {name: spec for name, spec in made.items() if spec is not None}


def curves(record: Record) -> dict[str, Spec]:
    """One plot per measured quantity over the tokens seen; decays start together, where the phase before them ends."""
    alt = load_altair()
    rows: list[Row] = [
        row for phase in record.phases for row in _thin(record.metrics.get(phase, []), phase, record.start_of(phase))
    ]
    specs = {}
    for name, title, numbers in CURVES:
        values = [
            {"phase": r["phase"], "tokens": r["tokens"], "value": r[name]} for r in rows if r.get(name) is not None
        ]
        if not values:
            continue
        chart = (
            alt.Chart(alt.NamedData(ROWS))
            .mark_line(strokeWidth=1.8, point={"size": 14} if len(values) < 60 else False)
            .encode(
                x=alt.X("tokens:Q", title="tokens seen", axis=alt.Axis(format="~s", tickCount=6)),
                y=alt.Y(
                    "value:Q",
                    title=None,
                    scale=alt.Scale(zero=name != "loss"),
                    axis=alt.Axis(format=numbers, tickCount=5),
                ),
                color=_colour(alt, record, "phase", [r["phase"] for r in rows], legend=False),
                tooltip=[
                    "phase:N",
                    alt.Tooltip("tokens:Q", format=".3s"),
                    alt.Tooltip("value:Q", title=name, format=".4~g"),
                ],
            )
        )
        specs[name] = _finish(chart, values, height=170, title=title)
    return specs


def tier_bars(record: Record) -> Spec | None:
    """How far every model is below the unigram models, by tier."""
    rows: list[Row] = [
        {"model": name, "tier": s.tier, "change": -s.below, "bits": s.bits_per_byte, "unigram": s.unigram,
         "beaten": s.languages_won, "languages": s.languages, "label": f"{-100 * s.below:+.1f}%".replace("-", "−")}
        for name, summaries in record.summaries.items()
        for s in summaries
    ]  # fmt: skip
    if not rows:
        return None
    alt = load_altair()
    tiers = list(dict.fromkeys(row["tier"] for row in rows))
    margin = max(abs(row["change"]) for row in rows) * 0.14 + 0.002
    base = alt.Chart(alt.NamedData(ROWS)).encode(
        y=alt.Y("model:N", sort=list(record.summaries), title=None),
        yOffset=alt.YOffset("tier:N", sort=tiers, scale=alt.Scale(paddingOuter=0.15)),
        x=alt.X(
            "change:Q",
            title="bits per byte against the unigram model of each language",
            axis=alt.Axis(format="+.0%", tickCount=7),
            scale=alt.Scale(
                domain=[min(0, *(r["change"] for r in rows)) - margin, max(0, *(r["change"] for r in rows)) + margin]
            ),
        ),
    )
    bars = base.mark_bar(cornerRadius=2).encode(
        color=_colour(alt, record, "tier", tiers, title=record.tier_title),
        tooltip=[
            "model:N", "tier:N", "languages:Q", alt.Tooltip("beaten:Q", title="below the baseline in"),
            alt.Tooltip("bits:Q", title="bits per byte", format=".3f"), alt.Tooltip("unigram:Q", format=".3f"),
            alt.Tooltip("change:Q", format="+.1%"),
        ],
    )  # fmt: skip
    left = base.transform_filter("datum.change < 0").mark_text(align="right", dx=-4, fontSize=10).encode(text="label:N")
    right = base.transform_filter("datum.change >= 0").mark_text(align="left", dx=4, fontSize=10).encode(text="label:N")
    zero = alt.Chart(alt.Data(values=[{"change": 0}])).mark_rule(strokeWidth=1.2).encode(x="change:Q")
    return _finish(bars + left + right + zero, rows, height=(14 * len(tiers) + 12) * len(record.summaries))


def language_points(record: Record) -> Spec | None:
    """The final model below the baseline, over the size of each language's training text."""
    if record.baseline is None or record.final is None:
        return None
    final = record.final
    rows: list[Row] = [
        {"language": language_name(code), "code": code, "tier": tier, "tokens": max(base.train_tokens, 1),
         "change": -below(final.losses[code], base), "bits": final.losses[code].bits_per_byte,
         "unigram": base.bits_per_byte}
        for code, tier in record.tier_of.items()
        if code in final.losses and (base := record.baseline.losses[code])
    ]  # fmt: skip
    if not rows:
        return None
    alt = load_altair()
    tiers = list(dict.fromkeys(row["tier"] for row in rows))
    rows.reverse()  # drawn last, and so on top: the few languages of the first tier
    points = (
        alt.Chart(alt.NamedData(ROWS))
        .mark_circle(size=42, opacity=0.85)
        .encode(
            x=alt.X("tokens:Q", scale=_log_scale(alt), title="training tokens", axis=_log_axis(alt)),
            y=alt.Y("change:Q", title=f"{final.model} against unigram", axis=alt.Axis(format="+.0%")),
            color=_colour(alt, record, "tier", tiers, title=record.tier_title),
            tooltip=[
                "language:N", "code:N", "tier:N", alt.Tooltip("tokens:Q", format=".3s"),
                alt.Tooltip("change:Q", format="+.1%"), alt.Tooltip("bits:Q", title="bits per byte", format=".3f"),
                alt.Tooltip("unigram:Q", format=".3f"),
            ],
        )
    )  # fmt: skip
    zero = alt.Chart(alt.Data(values=[{"change": 0}])).mark_rule(strokeWidth=1.2).encode(y="change:Q")
    return _finish(zero + points, rows, height=320)


def merge_ticks(record: Record) -> Spec | None:
    """The merge against each model it was made of, language by language."""
    merged = record.results.get(MERGED)
    parts = [name for name in (record.recipe.merge.phases if record.recipe.merge else []) if name in record.results]
    if merged is None or not parts:
        return None
    rows: list[Row] = [
        {
            "model": name,
            "tier": tier,
            "language": language_name(code),
            "change": merged.losses[code].nats / loss.nats - 1,
        }
        for name in parts
        for code, tier in record.tier_of.items()
        if code in merged.losses and (loss := record.results[name].losses.get(code))
    ]
    alt = load_altair()
    tiers = list(dict.fromkeys(row["tier"] for row in rows))
    base = alt.Chart(alt.NamedData(ROWS)).encode(
        y=alt.Y("model:N", sort=parts, title=None),
        yOffset=alt.YOffset("tier:N", sort=tiers),
        x=alt.X("change:Q", title="merge against what it was made of, each language (left of 0: the merge is better)",
                axis=alt.Axis(format="+.0%", tickCount=8)),
        color=_colour(alt, record, "tier", tiers, title=record.tier_title),
    )  # fmt: skip
    ticks = base.mark_tick(thickness=1.2, opacity=0.6, size=11).encode(
        tooltip=["language:N", "tier:N", "model:N", alt.Tooltip("change:Q", format="+.1%")]
    )
    means = base.mark_point(shape="diamond", size=80, filled=True, opacity=1, stroke="white").encode(
        x="mean(change):Q",
        tooltip=["model:N", "tier:N", alt.Tooltip("mean(change):Q", title="mean", format="+.1%")],
    )
    zero = alt.Chart(alt.Data(values=[{"change": 0}])).mark_rule(strokeWidth=1.2).encode(x="change:Q")
    return _finish(zero + ticks + means, rows, height=(16 * len(tiers) + 14) * len(parts))


def retrieval_points(record: Record) -> Spec | None:
    """The final model against spelling alone, each language a point."""
    found = record.final.retrieval if record.final else []
    if not found:
        return None
    alt = load_altair()
    rows: list[Row] = [
        {"language": language_name(r.language), "tier": record.tier_of.get(r.language, UNSEEN), "pairs": r.pairs,
         "model": r.accuracy, "centred": r.centred, "surface": r.spelling, "chance": r.chance}
        for r in found
    ]  # fmt: skip
    used = {row["tier"] for row in rows}
    tiers = [tier for tier in dict.fromkeys([*record.tier_of.values(), UNSEEN]) if tier in used]
    rows.sort(key=lambda row: -tiers.index(row["tier"]))  # the few languages of the first tier on top
    top = min(1.0, 1.08 * max(max(row["model"], row["surface"]) for row in rows))
    scale = alt.Scale(domain=[0, top], nice=False)
    percents = alt.Axis(format=".0%", tickCount=8)
    points = (
        alt.Chart(alt.NamedData(ROWS))
        .mark_circle(size=46, opacity=0.85)
        .encode(
            x=alt.X("surface:Q", scale=scale, title="right by spelling alone (character trigrams)", axis=percents),
            y=alt.Y("model:Q", scale=scale, title="right by the model's vectors", axis=percents),
            color=_colour(alt, record, "tier", tiers, title=record.tier_title),
            tooltip=["language:N", "tier:N", "pairs:Q", *(alt.Tooltip(f"{name}:Q", format=".1%")
                                                          for name in ("model", "centred", "surface", "chance"))],
        )
    )  # fmt: skip
    chance = sum(row["chance"] for row in rows) / len(rows)
    diagonal = alt.Chart(alt.Data(values=[{"a": 0, "b": 0}, {"a": top, "b": top}])).mark_line(
        strokeDash=[4, 4], strokeWidth=1, color="#8a8f98"
    )
    rule = alt.Chart(alt.Data(values=[{"chance": chance}])).mark_rule(strokeWidth=1.2).encode(y=alt.Y("chance:Q"))
    return _finish(diagonal.encode(x="a:Q", y="b:Q") + rule + points, rows, height=340)


def share_lines(record: Record) -> Spec | None:
    """The published figure: share of each language by rank, one line a phase. The lower the exponent, the flatter."""
    rows: list[Row] = [
        {"phase": phase, "rank": rank, "language": language_name(language.language), "share": language.share,
         "epochs": language.epochs, "tokens": language.tokens}
        for phase, drawn in record.languages_per_phase.items()
        for rank, language in enumerate(drawn, start=1)
    ]  # fmt: skip
    if not rows:
        return None
    alt = load_altair()
    base = alt.Chart(alt.NamedData(ROWS)).encode(
        x=alt.X(
            "rank:Q",
            scale=_log_scale(alt),
            title="languages, the most drawn first",
            axis=_log_axis(alt),
        ),
        y=alt.Y(
            "share:Q",
            scale=_log_scale(alt),
            title="share of the phase",
            axis=alt.Axis(format="~%", tickCount=6),
        ),
        color=_colour(alt, record, "phase", list(record.languages_per_phase), title="phase"),
    )
    lines = base.mark_line(strokeWidth=1.6)
    points = base.mark_circle(size=16, opacity=0.8).encode(
        tooltip=[
            "language:N",
            "phase:N",
            "rank:Q",
            alt.Tooltip("share:Q", format=".3~%"),
            alt.Tooltip("epochs:Q", format=".2~f"),
            alt.Tooltip("tokens:Q", title="tokens of the language", format=".3s"),
        ],
    )
    return _finish(lines + points, rows, height=320)


def share_dots(record: Record, most: int = 24) -> Spec | None:
    """The share of the languages most drawn at first, in every phase: how annealing takes from the rich."""
    phases = record.languages_per_phase
    if not phases:
        return None
    first = next(iter(phases.values()))
    names = {language.language: language_name(language.language) for language in first[:most]}
    rows: list[Row] = [
        {"phase": phase, "language": names[language.language], "share": language.share, "epochs": language.epochs}
        for phase, drawn in phases.items()
        for language in drawn
        if language.language in names
    ]
    alt = load_altair()
    base = alt.Chart(alt.NamedData(ROWS)).encode(
        y=alt.Y("language:N", sort=list(names.values()), title=None),
        x=alt.X(
            "share:Q",
            title="share of the phase",
            axis=alt.Axis(format="~%", tickCount=6),
            scale=_log_scale(alt),
        ),
    )
    points = base.mark_point(filled=True, size=60, opacity=0.9).encode(
        color=_colour(alt, record, "phase", list(phases), title="phase"),
        tooltip=[
            "language:N",
            "phase:N",
            alt.Tooltip("share:Q", format=".2~%"),
            alt.Tooltip("epochs:Q", format=".2~f"),
        ],
    )
    return _finish(points, rows, height=15 * len(names) + 10)


def _thin(lines: Sequence[dict[str, Any]], phase: str, start: int) -> list[Row]:
    """At most CURVE_POINTS means over equal stretches of a phase's metrics; tokens counted from the run's beginning."""
    size = max(1, -(-len(lines) // CURVE_POINTS))
    rows: list[Row] = []
    for begin in range(0, len(lines), size):
        stretch = lines[begin : begin + size]
        row: dict[str, Any] = {"phase": phase, "tokens": start + stretch[-1]["tokens"]}
        for name, *_ in CURVES:
            values = [line[name] for line in stretch if isinstance(line.get(name), int | float)]
            row[name] = sum(values) / len(values) if values else None
        rows.append(row)
    return rows


def load_altair() -> Any:
    """The library. Raises MissingExtra without it."""
    try:
        import altair
    except ImportError as error:
        raise MissingExtra("altair", "report") from error
    return altair


def _colour(
    alt: Any, record: Record, name: str, values: Sequence[str], *, title: str | None = None, legend: bool = True
) -> Any:
    palette = colours(record)
    domain = list(dict.fromkeys(values))
    scale = alt.Scale(domain=domain, range=[palette[value] for value in domain])
    # symbols lie in one row over the plot: a legend at the side would take the width of a phone's screen
    box = alt.Legend(orient="top", title=title, titleOrient="left", symbolType="circle", columns=3) if legend else None
    return alt.Color(f"{name}:N", scale=scale, legend=box)


def _log_scale(alt: Any) -> Any:
    return alt.Scale(type="log", nice=False, padding=8)


def _log_axis(alt: Any) -> Any:
    return alt.Axis(format="~s", tickCount=6)


def _finish(chart: Any, rows: list[Row], *, height: int, title: str | None = None) -> Spec:
    """The specification, with ``rows`` put in last: altair would check every value of them against its schema."""
    if title is not None:
        chart = chart.properties(title=title)
    return dress(chart.properties(width="container", height=height), rows)


def dress(chart: Any, rows: list[Row]) -> Spec:
    """The specification in the report's fonts and lines, with ``rows`` as its data."""
    chart = chart.configure(background="transparent", font="system-ui, sans-serif")
    chart = chart.configure_view(stroke=None).configure_axis(
        gridColor="#d8dbe0", domainColor="#9aa0a8", tickColor="#9aa0a8", gridOpacity=0.7,
        labelFontSize=11, titleFontSize=11, titleFontWeight=500, labelLimit=180, labelOverlap=True,
    )  # fmt: skip
    chart = chart.configure_legend(labelFontSize=11, titleFontSize=11, titleFontWeight=500, labelLimit=180)
    spec: Spec = chart.configure_title(fontSize=12, fontWeight=600, anchor="start", offset=6).to_dict()
    return {**spec, "datasets": {**spec.get("datasets", {}), ROWS: rows}}
