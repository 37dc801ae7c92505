"""Plots of a run, as Vega-Lite specifications made with altair.

One colour per phase throughout, also for the tier of languages that a phase brings in (``palette.py``).
Text and grid carry no colour of their own: the page gives them its light or dark.
Every function returns a plain dictionary, or None where a run holds nothing to show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmbert.evaluation.results import MERGED
from mmbert.evaluation.tiers import UNSEEN, below
from mmbert.languages import name as language_name
from mmbert.reporting.charts import ROWS, Row, Spec, dress, load_library, share_panel, tooltips
from mmbert.reporting.palette import fixed_colours, phase_colour
from mmbert.reporting.record import Record

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
    """Return a colour for each phase, for the merge and the start, and for tiers that are none of a phase."""
    by_phase = {name: phase_colour(place) for place, name in enumerate(record.phases)}
    return {**by_phase, **fixed_colours(started=record.recipe.start is not None)}


def all_plots(record: Record) -> dict[str, Spec]:
    """Return every plot that the run has something for, by name."""
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
    """Return a plot per measured quantity over the tokens seen; decays start together, where their parent ends."""
    alt = load_library("altair")
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
        line = alt.Chart(alt.NamedData(ROWS)).mark_line(
            strokeWidth=1.8, point={"size": 14} if len(values) < 60 else False
        )
        scale, axis = alt.Scale(zero=name != "loss"), alt.Axis(format=numbers, tickCount=5)
        chart = line.encode(
            x=alt.X("tokens:Q", title="tokens seen", axis=_log_axis(alt)),
            y=alt.Y("value:Q", title=None, scale=scale, axis=axis),
            color=_colour(alt, record, "phase", [r["phase"] for r in rows], legend=False),
            tooltip=tooltips(alt, "phase:N", "tokens:Q||.3s", f"value:Q|{name}|.4~g"),
        )
        specs[name] = _finish(chart, values, height=170, title=title)
    return specs


def tier_bars(record: Record) -> Spec | None:
    """Plot how far every model is below the unigram models, by tier."""
    rows: list[Row] = [
        {"model": name, "tier": s.tier, "change": -s.below, "bits": s.bits_per_byte, "unigram": s.unigram,
         "won": s.languages_won, "languages": s.languages, "label": f"{-100 * s.below:+.1f}%".replace("-", "−")}
        for name, summaries in record.summaries.items()
        for s in summaries
    ]  # fmt: skip
    if not rows:
        return None
    alt = load_library("altair")
    tiers = list(dict.fromkeys(row["tier"] for row in rows))
    changes = [row["change"] for row in rows]
    room = max(map(abs, changes)) * 0.14 + 0.002
    domain = [min(0, *changes) - room, max(0, *changes) + room]
    title, axis = "bits per byte against the unigram model of each language", alt.Axis(format="+.0%", tickCount=7)
    base = alt.Chart(alt.NamedData(ROWS)).encode(
        y=alt.Y("model:N", sort=list(record.summaries), title=None),
        yOffset=alt.YOffset("tier:N", sort=tiers, scale=alt.Scale(paddingOuter=0.15)),
        x=alt.X("change:Q", title=title, axis=axis, scale=alt.Scale(domain=domain)),
    )
    tips = (
        "tier:N",
        "languages:Q",
        "won:Q|languages won",
        "bits:Q|bits per byte|.3f",
        "unigram:Q||.3f",
        "change:Q||+.1%",
    )
    bars = base.mark_bar(cornerRadius=2).encode(
        color=_colour(alt, record, "tier", tiers, title=record.tier_title), tooltip=tooltips(alt, "model:N", *tips)
    )
    left = base.transform_filter("datum.change < 0").mark_text(align="right", dx=-4, fontSize=10).encode(text="label:N")
    right = base.transform_filter("datum.change >= 0").mark_text(align="left", dx=4, fontSize=10).encode(text="label:N")
    return _finish(bars + left + right + _zero(alt, "x"), rows, height=(14 * len(tiers) + 12) * len(record.summaries))


def language_points(record: Record) -> Spec | None:
    """Plot the final model against the baseline, over the size of each language's training text."""
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
    alt = load_library("altair")
    tiers = list(dict.fromkeys(row["tier"] for row in rows))
    rows.reverse()  # drawn last, and so on top: the few languages of the first tier
    tips = ("tokens:Q||.3s", "change:Q||+.1%", "bits:Q|bits per byte|.3f", "unigram:Q||.3f")
    points = alt.Chart(alt.NamedData(ROWS)).mark_circle(size=42, opacity=0.85)
    points = points.encode(
        x=alt.X("tokens:Q", scale=_log_scale(alt), title="training tokens", axis=_log_axis(alt)),
        y=alt.Y("change:Q", title=f"{final.model} against unigram", axis=alt.Axis(format="+.0%")),
        color=_colour(alt, record, "tier", tiers, title=record.tier_title),
        tooltip=tooltips(alt, "language:N", "code:N", "tier:N", *tips),
    )
    return _finish(_zero(alt, "y") + points, rows, height=320)


def merge_ticks(record: Record) -> Spec | None:
    """Plot the merge against each model it was made of, language by language."""
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
    alt = load_library("altair")
    tiers = list(dict.fromkeys(row["tier"] for row in rows))
    base = alt.Chart(alt.NamedData(ROWS)).encode(
        y=alt.Y("model:N", sort=parts, title=None),
        yOffset=alt.YOffset("tier:N", sort=tiers),
        x=alt.X("change:Q", title="merge against what it was made of, each language (left of 0: the merge is better)",
                axis=alt.Axis(format="+.0%", tickCount=8)),
        color=_colour(alt, record, "tier", tiers, title=record.tier_title),
    )  # fmt: skip
    ticks = base.mark_tick(thickness=1.2, opacity=0.6, size=11).encode(
        tooltip=tooltips(alt, "language:N", "tier:N", "model:N", "change:Q||+.1%")
    )
    means = base.mark_point(shape="diamond", size=80, filled=True, opacity=1, stroke="white").encode(
        x="mean(change):Q", tooltip=tooltips(alt, "model:N", "tier:N", "mean(change):Q|mean|+.1%")
    )
    return _finish(_zero(alt, "x") + ticks + means, rows, height=(16 * len(tiers) + 14) * len(parts))


def retrieval_points(record: Record) -> Spec | None:
    """Plot the final model against spelling alone, each language a point."""
    found = record.final.retrieval if record.final else []
    if not found:
        return None
    alt = load_library("altair")
    rows: list[Row] = [
        {"language": language_name(r.language), "tier": record.tier_of.get(r.language, UNSEEN), "pairs": r.pairs,
         "model": r.accuracy, "centred": r.centred, "spelling": r.spelling, "chance": r.chance}
        for r in found
    ]  # fmt: skip
    used = {row["tier"] for row in rows}
    tiers = [tier for tier in dict.fromkeys([*record.tier_of.values(), UNSEEN]) if tier in used]
    rows.sort(key=lambda row: -tiers.index(row["tier"]))  # the few languages of the first tier on top
    top = min(1.0, 1.08 * max(max(row["model"], row["spelling"]) for row in rows))
    scale = alt.Scale(domain=[0, top], nice=False)
    percents = alt.Axis(format=".0%", tickCount=8)
    tips = ("pairs:Q", *(f"{name}:Q||.1%" for name in ("model", "centred", "spelling", "chance")))
    points = alt.Chart(alt.NamedData(ROWS)).mark_circle(size=46, opacity=0.85)
    points = points.encode(
        x=alt.X("spelling:Q", scale=scale, title="right by spelling alone (character trigrams)", axis=percents),
        y=alt.Y("model:Q", scale=scale, title="right by the model's vectors", axis=percents),
        color=_colour(alt, record, "tier", tiers, title=record.tier_title),
        tooltip=tooltips(alt, "language:N", "tier:N", *tips),
    )
    chance = sum(row["chance"] for row in rows) / len(rows)
    diagonal = alt.Chart(alt.Data(values=[{"a": 0, "b": 0}, {"a": top, "b": top}])).mark_line(
        strokeDash=[4, 4], strokeWidth=1, color="#8a8f98"
    )
    rule = alt.Chart(alt.Data(values=[{"chance": chance}])).mark_rule(strokeWidth=1.2).encode(y=alt.Y("chance:Q"))
    return _finish(diagonal.encode(x="a:Q", y="b:Q") + rule + points, rows, height=340)


def share_lines(record: Record) -> Spec | None:
    """Plot the share of each language by rank, one line a phase, as published: the lower the exponent, the flatter."""
    rows: list[Row] = [
        {"phase": phase, "rank": rank, "language": language_name(language.name), "share": language.share,
         "epochs": language.epochs, "tokens": language.tokens}
        for phase, drawn in record.languages_per_phase.items()
        for rank, language in enumerate(drawn, start=1)
    ]  # fmt: skip
    if not rows:
        return None
    alt = load_library("altair")
    size = "tokens of the language"
    encoding = {
        "x": alt.X("rank:Q", scale=_log_scale(alt), title="languages, the most drawn first", axis=_log_axis(alt)),
        "y": alt.Y("share:Q", scale=_log_scale(alt), title="share of the phase", axis=_share_axis(alt)),
        "color": _colour(alt, record, "phase", list(record.languages_per_phase), title="phase"),
        "tooltip": tooltips(
            alt, "language:N", "phase:N", "rank:Q", "share:Q||.3~%", "epochs:Q||.2~f", f"tokens:Q|{size}|.3s"
        ),
    }
    return _finish(share_panel(alt, 16, encoding), rows, height=320)


def share_dots(record: Record, most: int = 24) -> Spec | None:
    """Plot the share of the languages most drawn at first, in every phase: annealing lowers that of the largest."""
    phases = record.languages_per_phase
    if not phases:
        return None
    first = next(iter(phases.values()))
    names = {language.name: language_name(language.name) for language in first[:most]}
    rows: list[Row] = [
        {"phase": phase, "language": names[language.name], "share": language.share, "epochs": language.epochs}
        for phase, drawn in phases.items()
        for language in drawn
        if language.name in names
    ]
    alt = load_library("altair")
    base = alt.Chart(alt.NamedData(ROWS)).encode(
        y=alt.Y("language:N", sort=list(names.values()), title=None),
        x=alt.X("share:Q", title="share of the phase", axis=_share_axis(alt), scale=_log_scale(alt)),
    )
    points = base.mark_point(filled=True, size=60, opacity=0.9).encode(
        color=_colour(alt, record, "phase", list(phases), title="phase"),
        tooltip=tooltips(alt, "language:N", "phase:N", "share:Q||.2~%", "epochs:Q||.2~f"),
    )
    return _finish(points, rows, height=15 * len(names) + 10)


def _thin(lines: Sequence[dict[str, Any]], phase: str, start: int) -> list[Row]:
    """At most CURVE_POINTS means over equal stretches of a phase's metrics; tokens counted from the run's beginning."""
    size = max(1, -(-len(lines) // CURVE_POINTS))  # means, not every n-th line: a spike must show
    rows: list[Row] = []
    for begin in range(0, len(lines), size):
        stretch = lines[begin : begin + size]
        row: dict[str, Any] = {"phase": phase, "tokens": start + stretch[-1]["tokens"]}
        for name, *_ in CURVES:
            values = [line[name] for line in stretch if isinstance(line.get(name), int | float)]
            row[name] = sum(values) / len(values) if values else None
        rows.append(row)
    return rows


def _colour(
    alt: Any, record: Record, name: str, values: Sequence[str], *, title: str | None = None, legend: bool = True
) -> Any:
    palette = colours(record)
    domain = list(dict.fromkeys(values))
    scale = alt.Scale(domain=domain, range=[palette[value] for value in domain])
    # symbols lie in one row over the plot: a legend at the side would take the width of a phone's screen
    box = alt.Legend(orient="top", title=title, titleOrient="left", symbolType="circle", columns=3) if legend else None
    return alt.Color(f"{name}:N", scale=scale, legend=box)


def _zero(alt: Any, axis: str) -> Any:
    """The rule where nothing has changed."""
    return alt.Chart(alt.Data(values=[{"change": 0}])).mark_rule(strokeWidth=1.2).encode(**{axis: "change:Q"})


def _log_scale(alt: Any) -> Any:
    return alt.Scale(type="log", nice=False, padding=8)


def _log_axis(alt: Any) -> Any:
    return alt.Axis(format="~s", tickCount=6)


def _share_axis(alt: Any) -> Any:
    return alt.Axis(format="~%", tickCount=6)


def _finish(chart: Any, rows: list[Row], *, height: int, title: str | None = None) -> Spec:
    """The specification, with ``rows`` put in last: altair would check every value of them against its schema."""
    if title is not None:
        chart = chart.properties(title=title)
    return dress(chart.properties(width="container", height=height), rows)
