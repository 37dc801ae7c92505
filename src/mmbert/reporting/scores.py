"""The tables of an evaluation: tasks, tiers and languages by model and baseline, published figures beside them.

    write_scores(evaluate(model, suite), Path("results/local"))     # scores.md, scores.tex, scores.json and plots

Figures are per cent unless their metric says otherwise; ``±`` is the standard deviation over seeds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmbert import languages
from mmbert.errors import ConfigError, MissingExtra
from mmbert.evaluation.published import AVERAGE, PRINTED, published, sources
from mmbert.evaluation.summary import TUNED_BEFORE, Figure, SuiteResult, TaskSummary, by_tier, mean_of_tasks, read_tiers
from mmbert.evaluation.task import TRAINED, Task
from mmbert.files import write_json, write_text
from mmbert.reporting.latex import latex
from mmbert.reporting.tables import Column, Table

PLAIN = {"bits_per_byte": "{:.3f}", "tokens_per_second": "{:,.0f}"}
"""Metrics that are no percentages, and how they read."""

METRICS = {
    "accuracy": "accuracy",
    "accuracy_from_english": "accuracy, from English",
    "accuracy_centred": "accuracy, vectors centred",
    "binary_f1": "F1",
    "bits_per_byte": "bits per byte",
    "entity_f1": "entity F1",
    "exact": "exact match",
    "exact_squad": "exact match by SQuAD's script",
    "f1": "F1",
    "f1_squad": "F1 by SQuAD's script",
    "macro_f1": "macro F1",
    "main_score": "its tasks' own",
    "matthews": "Matthews",
    "micro_f1": "micro F1",
    "pearson": "Pearson",
    "span_f1": "span F1",
    "spearman": "Spearman",
    "token_accuracy": "accuracy of words",
    "tokens_per_second": "tokens a second",
    "weighted_f1": "weighted F1",
}
"""How metrics are called in tables."""


def write_scores(result: SuiteResult, out: Path) -> Path:
    """Write ``scores.md``, ``scores.tex``, ``scores.json`` and plots into ``out``; returns the Markdown's path."""
    from mmbert.reporting.markdown import svg
    from mmbert.reporting.score_plots import tier_points

    tiers = read_tiers(result.suite.tiers) if result.suite.tiers is not None else {}
    plots = {}
    with suppress(MissingExtra):  # altair and vl-convert, which the tables do not need
        if tiers:
            write_text(out / "by-tier.svg", svg(tier_points(result, tiers)))
            plots = {"by-tier": "by-tier.svg"}
    write_text(out / "scores.md", markdown(result, tiers, plots))
    write_text(out / "scores.tex", "\n".join(latex(table, title) for title, table in tables(result, tiers)))
    write_json(out / "scores.json", as_json(result, tiers))
    return out / "scores.md"


def markdown(result: SuiteResult, tiers: Mapping[str, str], plots: Mapping[str, str] | None = None) -> str:
    """Return all tables, and what each task is."""
    blocks = [f"# {result.suite.name}"]
    for title, table in tables(result, tiers):
        blocks.append(f"## {title}\n\n{table.markdown().strip()}")
        if title == TIERS and plots:
            blocks.extend(f"![{name}]({file})" for name, file in plots.items())
    if result.suite.published is not None:
        blocks.append("Published figures: " + "; ".join(sources(result.suite.published)) + ".")
    return "\n\n".join([*blocks, "## How\n\n" + "\n".join(_notes(result))]) + "\n"


OVERVIEW, TIERS = "Tasks", "By tier of language"


def tables(result: SuiteResult, tiers: Mapping[str, str]) -> list[tuple[str, Table]]:
    """Return (title, table): tasks, tiers if there are any, and each task with several languages."""
    found = [(OVERVIEW, overview(result))]
    if tiers:
        found.append((TIERS, tier_table(result, tiers)))
    for name in result.suite.tasks:
        first, title = _first(result, name), _task(result, name).title
        if first is not None and first.groups:
            found.append((f"{title} by type", type_table(result, name)))
        if first is not None and len(first.languages) > 1:
            found.append((title, language_table(result, name, tiers)))
    return found


def overview(result: SuiteResult) -> Table:
    """Return a row a task: each model and baseline, then what was published."""
    beside = _beside(result)
    columns = [Column("task"), Column("metric"), Column("languages"), *_columns(result), *map(_published, beside)]
    rows: list[list[Any]] = []
    names = []
    for name in result.suite.tasks:
        first = _first(result, name)
        if first is not None:
            names.append(name)
            figures: list[Any] = [_cell(column.tasks.get(name)) for column in result.columns]
            figures += [each.get(name) for each in beside.values()]
            rows.append([_task(result, name).title, METRICS[first.metric], _covered(first), *figures])
    if result.suite.average and len(names) > 1:
        means = [_percent(mean_of_tasks(column, names)) for column in result.columns]
        others = [_whole_mean(each, names) for each in beside.values()]
        rows.append(["mean", "", "", *means, *others])
        printed = [each.get(PRINTED) if _tasks(each) == set(names) else None for each in beside.values()]
        if any(figure is not None for figure in printed):
            rows.append(["mean, as printed", "", "", *(None for _ in means), *printed])
    return Table(columns, rows)


def _whole_mean(figures: Mapping[str, float], names: Sequence[str]) -> float | None:
    """The published mean where exactly its tasks are shown, else that of the figures that are there."""
    if _tasks(figures) == set(names) and AVERAGE in figures:
        return figures[AVERAGE]
    values = [figures[name] for name in names if name in figures]
    return sum(values) / len(values) if len(values) == len(names) else None


def _tasks(figures: Mapping[str, float]) -> set[str]:
    return set(figures) - {AVERAGE, PRINTED}


def tier_table(result: SuiteResult, tiers: Mapping[str, str]) -> Table:
    """Return a row for each task and tier, means over the tier's languages."""
    rows: list[list[Any]] = []
    for name in result.suite.tasks:
        parts = [by_tier(column.tasks[name], tiers) if name in column.tasks else {} for column in result.columns]
        order = dict.fromkeys(tier for part in parts for tier in part)
        for tier in order:
            count = next(part[tier][1] for part in parts if tier in part)
            figures = [_figure(part[tier][0], _task(result, name).metric) if tier in part else None for part in parts]
            rows.append([_task(result, name).title, tier, str(count), *figures])
    return Table([Column("task"), Column("tier"), Column("languages"), *_columns(result)], rows)


def type_table(result: SuiteResult, name: str) -> Table:
    """Return a row for each type of mteb's tasks, with what was published."""
    beside, first = _beside(result), _first(result, name)
    found = [column.tasks.get(name) for column in result.columns]
    rows = []
    for group in first.groups if first is not None else ():
        figures = [None if each is None else _figure(each.groups[group], each.metric) for each in found]
        rows.append([group, *figures, *(each.get(group) for each in beside.values())])
    return Table([Column("type"), *_columns(result), *map(_published, beside)], rows)


def language_table(result: SuiteResult, name: str, tiers: Mapping[str, str]) -> Table:
    """Return a row for each language (each of mteb's tasks) of one task."""
    found, first = [column.tasks.get(name) for column in result.columns], _first(result, name)
    is_language = bool(_task(result, name).languages)
    rows = []
    for unit, number in first.rows.items() if first is not None else ():
        figures = [None if each is None else _figure(each.languages[unit], each.metric) for each in found]
        tier = [tiers.get(unit, "")] if tiers else []
        rows.append([_language(unit) if is_language else unit, *tier, f"{number:,}" if number else "", *figures])
    tier_column = [Column("tier")] if tiers else []
    columns = [Column("language" if is_language else "part"), *tier_column, Column("examples"), *_columns(result)]
    return Table(columns, rows)


def as_json(result: SuiteResult, tiers: Mapping[str, str]) -> dict[str, Any]:
    """Return everything as plain values."""
    return {
        "suite": result.suite.model_dump(mode="json"),
        "columns": [
            {
                "name": column.name,
                "weights": column.weights,
                "tuned": column.tuned,
                "tasks": {name: asdict(summary) for name, summary in column.tasks.items()},
                "mean": mean_of_tasks(column, list(result.suite.tasks)) if result.suite.average else None,
            }
            for column in result.columns
        ],
        "tiers": dict(tiers),
        "published": _beside(result),
    }


def _notes(result: SuiteResult) -> list[str]:
    """What was done to the models first, and a line a task: how it was learned, its licence and source."""
    lines = [f"- {column.short}: {_tuned(result, column.tuned)}." for column in result.columns if column.tuned]
    for name in result.suite.tasks:
        summary = _first(result, name)
        if summary is None:
            continue
        task = _task(result, name)
        seeds = f"; seeds {', '.join(map(str, summary.seeds))}" if len(summary.seeds) > 1 else ""
        lines.append(f"- {task.title}: {_learned(result, name)}{seeds}. {task.citation}. Licence: {task.licence}.")
    return lines


def _tuned(result: SuiteResult, how: str) -> str:
    suite = result.suite
    if how == TUNED_BEFORE:
        return f"tuned for embeddings before, so not by {Path(suite.tune or '').name}"
    return how + (f", with {json.dumps(suite.tune_changes, ensure_ascii=False)}" if suite.tune_changes else "")


def _learned(result: SuiteResult, name: str) -> str:
    task = _task(result, name)
    if task.kind not in TRAINED:
        return "no training"
    steps = [*result.suite.chain(name), *([name] if task.protocol.train else [])]
    said = []
    for step in steps:
        protocol = _task(result, step).protocol
        on = "each language's own rows" if protocol.per_language else ", ".join(protocol.train_languages)
        said.append(f"{_task(result, step).title} ({on})")
    return "fine-tuned on " + ", then ".join(said) + ("" if task.protocol.train else "; then scored as it is")


def _task(result: SuiteResult, name: str) -> Task:
    return result.suite.task(name)


def _first(result: SuiteResult, name: str) -> TaskSummary | None:
    """The summary of a task of the first model or baseline that has one."""
    return next((column.tasks[name] for column in result.columns if name in column.tasks), None)


def _beside(result: SuiteResult) -> dict[str, dict[str, float]]:
    """Published figures: model -> task -> score."""
    return published(result.suite.published) if result.suite.published is not None else {}


def _columns(result: SuiteResult) -> list[Column]:
    return [Column(column.title, str) for column in result.columns]


def _published(name: str) -> Column:
    return Column(name, "{:.1f}".format, "published")


@dataclass(frozen=True)
class _Shown:
    """A figure as it reads, and what it is sorted by."""

    text: str
    value: float

    def __str__(self) -> str:
        return self.text

    def __float__(self) -> float:
        return self.value


def _cell(summary: TaskSummary | None) -> _Shown | None:
    return None if summary is None else _figure(summary.figure, summary.metric)


def _figure(figure: Figure, metric: str) -> _Shown:
    write: Callable[[float], str] = PLAIN[metric].format if metric in PLAIN else lambda value: f"{100 * value:.1f}"
    spread = "" if figure.spread is None else f" ± {write(figure.spread)}"
    return _Shown(write(figure.mean) + spread, figure.mean)


def _percent(value: float | None) -> _Shown | None:
    return None if value is None else _Shown(f"{100 * value:.1f}", value)


def _covered(summary: TaskSummary) -> str:
    done, declared = summary.covered
    return str(done) if declared in (done, 0) else f"{done} of {declared}"


def _language(code: str) -> str:
    try:
        return f"{languages.name(code)} ({code})"
    except ConfigError:
        return code
