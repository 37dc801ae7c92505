"""Aggregate runs into figures: over seeds, over languages as a task's source defines, over tiers, over tasks."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmbert.errors import ConfigError
from mmbert.evaluation.results import TaskRun
from mmbert.evaluation.suite import Suite
from mmbert.evaluation.task import LOWER_IS_BETTER, Task
from mmbert.evaluation.tiers import UNSEEN
from mmbert.io.delimited import read_tsv

TUNED_BEFORE = "tuned before"
"""Of a model that is tuned for embeddings already, so that a suite's ``tune`` leaves it as it is."""


@dataclass(frozen=True)
class Figure:
    """A mean over seeds; ``spread`` is the standard deviation, None with a single seed."""

    mean: float
    spread: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Return the mean and standard deviation of one value a seed."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class TaskSummary:
    """What a model reached in one task.

    languages  each language's figure (each of mteb's tasks, each set of efficiency)
    figure     the mean that counts: over the languages that the source averages; of mteb over types of tasks
    setting    of a grid: the values that were best on the scored set itself
    covered    how many of the languages that the source averages were scored, and of how many
    """

    metric: str
    languages: dict[str, Figure]
    figure: Figure
    rows: dict[str, int]
    seeds: tuple[int, ...]
    setting: dict[str, Any] = field(default_factory=dict)
    covered: tuple[int, int] = (0, 0)
    groups: dict[str, Figure] = field(default_factory=dict)
    """Of mteb's tasks: the mean of each type."""
    others: dict[str, float] = field(default_factory=dict)
    """The other metrics of the task, averaged in the same way."""


@dataclass(frozen=True)
class SystemResult:
    """What one model or baseline reached: a column of the tables, with its tasks by name."""

    name: str
    weights: str
    tasks: dict[str, TaskSummary]
    tuned: str = ""
    """By what it was tuned before all tasks: ``tuned by embed.yaml first``."""

    @property
    def short(self) -> str:
        """The name: of a folder the last two parts, since ``final`` alone says little."""
        return "/".join(Path(self.name).parts[-2:]) if "/" in self.name else self.name

    @property
    def title(self) -> str:
        """The name as tables show it, with what was done to the model first."""
        return f"{self.short} ({self.tuned})" if self.tuned else self.short


@dataclass(frozen=True)
class SuiteResult:
    """All that a suite gave; the first column is the model that was asked about."""

    suite: Suite
    columns: list[SystemResult]


def summarise_task(task: Task, settings: Sequence[Sequence[TaskRun]], units: Sequence[str]) -> TaskSummary:
    """Return the figures of one task.

    settings  of a grid: each setting's runs, one a seed. The best one is taken, by the mean that counts
    units     languages that were scored
    """
    made = [_summarise(task, runs, units) for runs in settings]
    # the best setting by its score on the scored set itself, as in the mmBERT paper: an oracle
    sign = -1 if task.metric in LOWER_IS_BETTER else 1
    return max(made, key=lambda summary: sign * summary.figure.mean)


def _summarise(task: Task, runs: Sequence[TaskRun], units: Sequence[str]) -> TaskSummary:
    named = {unit: runs[0].scores[unit].group or unit for unit in units}
    averaged = [unit for unit in units if named[unit] in task.average] if task.average else list(units)
    averaged = averaged or list(units)
    metrics = list(dict.fromkeys(name for run in runs for unit in units for name in run.scores[unit].scores))
    means = {
        name: Figure.of([_mean(run, averaged, name, task.average_by == "types") for run in runs])
        for name in metrics
        if all(name in run.scores[unit].scores for run in runs for unit in averaged)
    }
    languages = {unit: Figure.of([run.scores[unit].scores[task.metric] for run in runs]) for unit in units}
    declared = len(task.average or task.languages) if task.kind != "mteb" else len(averaged)
    trained = runs[0].protocol.get("trained") or {}
    return TaskSummary(
        metric=task.metric,
        languages=languages,
        figure=means[task.metric],
        rows={unit: runs[0].scores[unit].rows for unit in units},
        seeds=tuple(run.seed for run in runs),
        setting=trained.get("training", {}),
        covered=(len(averaged), declared),
        groups=_groups(runs, units, task.metric),
        others={name: figure.mean for name, figure in means.items() if name != task.metric},
    )


def _groups(runs: Sequence[TaskRun], units: Sequence[str], metric: str) -> dict[str, Figure]:
    groups: dict[str, list[str]] = {}
    for unit in units:
        group = runs[0].scores[unit].group
        if group is not None:
            groups.setdefault(group, []).append(unit)
    return {
        group: Figure.of([_mean(run, members, metric, by_group=False) for run in runs])
        for group, members in groups.items()
    }


def _mean(run: TaskRun, units: Sequence[str], metric: str, by_group: bool) -> float:
    """Plain mean over units; by group (types of mteb's tasks) the mean of the means of groups."""
    groups: dict[str | None, list[float]] = {}
    for unit in units:
        groups.setdefault(run.scores[unit].group if by_group else None, []).append(run.scores[unit].scores[metric])
    return statistics.fmean(statistics.fmean(values) for values in groups.values())


def by_tier(summary: TaskSummary, tiers: Mapping[str, str]) -> dict[str, tuple[Figure, int]]:
    """Return tier -> (mean over its languages, their number), in the table's order, unknown languages last."""
    order = [*dict.fromkeys(tiers.values()), UNSEEN]
    groups: dict[str, list[Figure]] = {}
    for language, figure in summary.languages.items():
        groups.setdefault(tiers.get(language, UNSEEN), []).append(figure)
    return {
        tier: (Figure(statistics.fmean(figure.mean for figure in groups[tier])), len(groups[tier]))
        for tier in order
        if tier in groups
    }


def read_tiers(path: str | Path) -> dict[str, str]:
    """Read language -> tier from a table with the columns ``code`` and ``tier``. Raises ConfigError for another one."""
    place = Path(path)
    if not place.is_file():
        raise ConfigError(f"no table of tiers {place.absolute()}: set tiers=FILE.tsv with the columns code and tier")
    rows = [row for _, row in read_tsv(place)]
    if not rows or not {"code", "tier"} <= set(rows[0]):
        there = ", ".join(rows[0]) if rows else "none: it is empty"
        raise ConfigError(f"{place}: expected the columns code and tier (there are: {there})")
    return {row["code"]: row["tier"] or "" for row in rows}


def mean_of_tasks(column: SystemResult, names: Sequence[str]) -> float | None:
    """Return the plain mean over tasks, as GLUE's and XTREME's tables show; None if one is missing."""
    if not names or any(name not in column.tasks for name in names):
        return None
    return statistics.fmean(column.tasks[name].figure.mean for name in names)
