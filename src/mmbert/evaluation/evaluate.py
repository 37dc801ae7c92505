"""``evaluate``: a model and a suite in, scores by task and language out.

    suite = Suite.load("recipes/evaluate/local.yaml", ["data=evaldata"])
    found = evaluate("models/nano", suite, baselines=["untrained"])
    found.columns[0].tasks["sib200"].figure.mean

Each task: the fine-tunings of its protocol (``stage``), predictions by the facades (``predict``), scores (``marks``),
the mean as the task's source defines it. What is in the results already is not computed again; what is stopped goes on
with the next language.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbert.errors import ConfigError, DataError
from mmbert.evaluation import systems, zero_shot
from mmbert.evaluation.sources import TaskSource, open_source
from mmbert.evaluation.suite import Suite, task_trains
from mmbert.evaluation.summary import Column, SuiteResult, summarise_task
from mmbert.evaluation.systems import Model, System, open_model
from mmbert.evaluation.task import Task
from mmbert.evaluation.task_metrics import check, score
from mmbert.evaluation.task_results import Store, TaskRun, TaskScore
from mmbert.evaluation.tuning_chain import TuningStep, hash_of, plan_tuning
from mmbert.log import progress

log = logging.getLogger(__name__)


def evaluate(
    model: str | Path,
    suite: Suite | str | Path,
    *,
    out: str | Path = "results",
    baselines: Sequence[str] = (),
    beside: Sequence[str | Path] = (),
    tune: bool = True,
) -> SuiteResult:
    """Judge a model by all tasks of a suite.

    model      folder or hub name, pretrained or tuned
    out        folder of results, and of the models that are fine-tuned on the way
    baselines  ``untrained``: the same architecture with fresh weights; without a model: ``characters``, n-grams of
               characters; ``bag``, the characters one by one
    beside     further models, judged by the same code on the same rows
    tune       whether models are tuned first where the suite says so (``tune``)

    Raises the MMBertError of what cannot go on; the same call resumes there.
    """
    wanted = suite if isinstance(suite, Suite) else Suite.load(suite)
    unknown = [name for name in baselines if name not in systems.BASELINES]
    if unknown:
        raise ConfigError(f"baseline {unknown[0]!r} is none of {', '.join(systems.BASELINES)}")
    if not tune:
        wanted = wanted.model_copy(update={"tune": None})
    recipe = wanted.tuning()
    folder = Path(out)
    first = open_model(model, folder)
    models = [first, *(open_model(name, folder) for name in beside)]
    if systems.UNTRAINED in baselines:
        models.append(systems.untrained(first, folder))
    if recipe is not None and wanted.tune is not None:
        for task in map(wanted.task, wanted.tasks):
            zero_shot.revision(task)  # a package that is not installed is told before anything is trained
        models = [systems.tuned_first(each, recipe, Path(wanted.tune).name, folder) for each in models]
    letters = [systems.Characters(name) for name in systems.READINGS if name in baselines]
    system: list[System] = [*models, *letters]
    runner = _Runner(wanted, folder)
    columns = [
        *(Column(each.name, each.weights, {}, each.tuned) for each in models),
        *(Column(each.name, each.weights, {}) for each in letters),
    ]
    for name in wanted.tasks:  # task by task, so that a suite that is stopped leaves whole rows
        for column, each in zip(columns, system, strict=True):
            summary = runner.score(name, each)
            if summary is not None:
                column.tasks[name] = summary
    return SuiteResult(wanted, columns)


@dataclass(frozen=True)
class _Plan:
    """One run of one task: how, with which seed, and what each language's model is."""

    task: Task
    source: TaskSource
    seed: int
    training: dict[str, Any]
    stage: Callable[[str], TuningStep | None]


class _Runner:
    """Tasks of one suite."""

    def __init__(self, suite: Suite, out: Path) -> None:
        self._suite, self._out = suite, out
        self._known: dict[str, tuple[Task, TaskSource]] = {}

    def find(self, name: str) -> tuple[Task, TaskSource]:
        """A task with the suite's changes, and its examples."""
        if name not in self._known:
            task = self._suite.task(name)
            self._known[name] = task, open_source(task, data=self._suite.data, pins=self._out / "pins.json")
        return self._known[name]

    def score(self, name: str, system: System) -> Any:
        """The summary of all runs of a task; None where a baseline has no answer to its kind."""
        kind = self._suite.task(name).kind
        if kind in zero_shot.KINDS:
            return self._zero_shot(name, system)
        task, source = self.find(name)
        languages = self._languages(name, source)
        runs = [
            [self._run(plan, system, languages) for plan in self._plans(name, setting, system)]
            for setting in self._settings(task, system)
        ]
        return summarise_task(task, runs, languages)

    def _zero_shot(self, name: str, system: System) -> Any:
        """Kinds that take a model as it is: mteb, loss, efficiency."""
        if not isinstance(system, Model):
            return None
        task = self._suite.task(name)
        source = self.find(name)[1] if task.kind == "loss" else None
        revision = source.revision if source is not None else zero_shot.revision(task)
        store = Store(self._out, name, revision, system.name, system.weights)
        protocol = zero_shot.protocol(task)
        key = hash_of(protocol)
        run = store.read().runs.get(key) or TaskRun(protocol=protocol, seed=0)
        found = dict(run.scores)
        started = time.monotonic()

        def keep(unit: str, scored: TaskScore) -> None:
            found[unit] = scored
            seconds = round(run.seconds + time.monotonic() - started, 1)
            store.write(key, run.model_copy(update={"scores": dict(found), "seconds": seconds}))

        units = zero_shot.run(task, source, system, found, keep)
        kept = run.model_copy(update={"scores": {unit: found[unit] for unit in units}})
        return summarise_task(task, [[kept]], units)

    def _languages(self, name: str, source: TaskSource) -> list[str]:
        """Those that are scored. A local folder may lack some of what a task declares, but none that was asked for."""
        asked = self._suite.scored(name)
        there = [language for language in asked if source.has(language, "test")]
        change = self._suite.tasks[name]
        if change.languages is not None and len(there) < len(asked):
            missing = next(language for language in asked if language not in there)
            source.spec(missing, "test")  # says what is there
        if source.task.protocol.per_language:
            there = [language for language in there if source.has(language, "train")]
        if not there:
            raise DataError(f"{source.folder or source.task.source.hub} has none of the languages of {name}")
        return there

    def _settings(self, task: Task, system: System) -> list[dict[str, Any]]:
        """Each setting of the grid; one empty setting without a grid, and for what has no learning rate."""
        settings: list[dict[str, Any]] = [{}]
        if task_trains(task.kind) and isinstance(system, Model):
            for key, values in self._suite.grid.items():
                settings = [{**setting, key: value} for setting in settings for value in values]
        return settings

    def _plans(self, name: str, training: dict[str, Any], system: System) -> list[_Plan]:
        task, source = self.find(name)
        learned = task_trains(task.kind) and (task.protocol.train or task.protocol.start is not None)
        seeds = self._suite.seeds if learned and isinstance(system, Model) else self._suite.seeds[:1]

        def stage_of(seed: int) -> Callable[[str], TuningStep | None]:
            if not task_trains(task.kind):
                return lambda language: None
            return lambda language: plan_tuning(self.find, name, language, seed, training)

        return [_Plan(task, source, seed, training, stage_of(seed)) for seed in seeds]

    def _run(self, plan: _Plan, system: System, languages: Sequence[str]) -> TaskRun:
        """The scores of every language, those that are there already included."""
        task = plan.task
        store = Store(self._out, task.name, plan.source.revision, system.name, system.weights)
        protocol = self._protocol(plan, system, languages[0])
        key = hash_of({**protocol, "seed": plan.seed})
        run = store.read().runs.get(key) or TaskRun(protocol=protocol, seed=plan.seed)
        missing = [language for language in languages if language not in run.scores]
        if not missing:
            log.info("%s: %s is there: %s", system.name, task.title, store.path)
            return run
        with progress[None](total=len(missing), desc=f"{system.name}: {task.title}", unit="language") as bar:
            for language in missing:
                started = time.monotonic()
                rows = plan.source.read(language).rows
                check(task, rows)
                predictions = system.predict(task, plan.stage(language), rows)
                found = score(task, language, predictions, rows)
                seconds = round(run.seconds + time.monotonic() - started, 2)
                scores = {**run.scores, language: TaskScore(rows=len(rows), scores=found)}
                run = run.model_copy(update={"scores": scores, "seconds": seconds})
                store.write(key, run)
                bar.note(**{language: f"{found[task.metric]:.3f}"})
                bar.update()
        return run

    def _protocol(self, plan: _Plan, system: System, language: str) -> dict[str, Any]:
        """All that the figures depend on, beside the model and the rows."""
        task = plan.task
        stage = plan.stage(language)
        trained = None if stage is None else stage.protocol(system.weights)
        if trained is not None and task.protocol.per_language:
            trained["languages"] = "each its own"
        return {
            "kind": task.kind,
            "trained": trained,
            "limit": task.limit,
            "columns": task.source.local_columns if plan.source.folder else task.source.columns,
            "options": task.protocol.options,
            "positive": task.positive,
            "normalisation": task.normalisation if task.kind == "answer" else None,
        }
