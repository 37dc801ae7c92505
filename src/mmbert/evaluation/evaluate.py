"""Evaluate models and baselines on the tasks of a suite: scores by task and language.

    suite = Suite.load("local", ["data=evaldata"])
    found = evaluate("models/nano", suite, baselines=["untrained"])
    found.columns[0].tasks["sib200"].figure.mean

Each task goes through the fine-tuning chain of its protocol (``tuning_chain``), the predictors that users have
(``predict``), metrics (``task_metrics``), and the mean as the task's source defines it (``summary``). What is in the
results already is not computed again; an evaluation that was stopped resumes with the next language.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmbert.errors import ConfigError, DataError
from mmbert.evaluation import systems, zero_shot
from mmbert.evaluation.results import TaskFile, TaskRun, TaskScore
from mmbert.evaluation.sources import TaskSource, open_source
from mmbert.evaluation.suite import Suite
from mmbert.evaluation.summary import SuiteResult, SystemResult, summarise_task
from mmbert.evaluation.systems import Model, System, open_model
from mmbert.evaluation.task import TRAINED, Task
from mmbert.evaluation.task_metrics import check, score
from mmbert.evaluation.tuning_chain import TuningStep, hash_of, plan_tuning
from mmbert.log import progress

log = logging.getLogger(__name__)

Setting = dict[str, Any]
"""Changes of a task's ``training``, of a grid."""


def evaluate(
    model: str | Path,
    suite: Suite | str | Path,
    *,
    out: str | Path = "results",
    baselines: Sequence[str] = (),
    beside: Sequence[str | Path] = (),
    tune: bool = True,
) -> SuiteResult:
    """Evaluate a model on all tasks of a suite.

    model      folder or hub name, pretrained or tuned
    out        folder of results, and of the models that are fine-tuned on the way
    baselines  ``untrained``: the same architecture with fresh weights; without a model: ``characters``, n-grams of
               characters; ``character-unigrams``, the characters one by one
    beside     further models, evaluated by the same code on the same rows
    tune       whether models are tuned first where the suite says so (``tune``)

    Raises the MMBertError of the step that cannot go on; the same call resumes there.
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
            zero_shot.revision(task)  # a missing package is an error before anything is trained
        models = [systems.tuned_first(each, recipe, Path(wanted.tune).name, folder) for each in models]
    without_model = [systems.NgramBaseline(name) for name in systems.FEATURE_SETS if name in baselines]
    runner = _Runner(wanted, folder)
    evaluated: list[System] = [*models, *without_model]
    columns = [SystemResult(each.name, each.weights, {}, each.tuned) for each in evaluated]
    for name in wanted.tasks:  # task by task, so that a suite that is stopped leaves whole rows
        for column, each in zip(columns, evaluated, strict=True):
            summary = runner.score(name, each)
            if summary is not None:
                column.tasks[name] = summary
    return SuiteResult(wanted, columns)


class _Runner:
    """Tasks of one suite."""

    def __init__(self, suite: Suite, out: Path) -> None:
        self._suite, self._out = suite, out
        self._known: dict[str, tuple[Task, TaskSource]] = {}

    def find(self, name: str) -> tuple[Task, TaskSource]:
        """Return a task with the suite's changes, and its examples."""
        if name not in self._known:
            task = self._suite.task(name)
            self._known[name] = task, open_source(task, data=self._suite.data, pins=self._out / "pins.json")
        return self._known[name]

    def score(self, name: str, system: System) -> Any:
        """Return the summary of all runs of a task; None where a baseline has no answer to its kind."""
        kind = self._suite.task(name).kind
        if kind in zero_shot.KINDS:
            return self._zero_shot(name, system)
        task, source = self.find(name)
        languages = self._languages(name, source)
        trained = kind in TRAINED and isinstance(system, Model)
        learned = trained and (task.protocol.train or task.protocol.start is not None)
        seeds = self._suite.seeds if learned else self._suite.seeds[:1]
        runs = [
            [self._run(task, source, system, languages, seed, setting) for seed in seeds]
            for setting in (self._settings() if trained else [{}])
        ]
        return summarise_task(task, runs, languages)

    def _zero_shot(self, name: str, system: System) -> Any:
        """Kinds that take a model as it is: mteb, loss, efficiency."""
        if not isinstance(system, Model):
            return None
        task = self._suite.task(name)
        source = self.find(name)[1] if task.kind == "loss" else None
        revision = source.revision if source is not None else zero_shot.revision(task)
        file = TaskFile(self._out, name, revision, system.name, system.weights)
        protocol = zero_shot.protocol(task)
        key = hash_of(protocol)
        run = file.read().runs.get(key) or TaskRun(protocol=protocol, seed=0)
        found = dict(run.scores)
        started = time.monotonic()

        def keep(unit: str, scored: TaskScore) -> None:
            found[unit] = scored
            seconds = round(run.seconds + time.monotonic() - started, 1)
            file.write(key, run.model_copy(update={"scores": dict(found), "seconds": seconds}))

        units = zero_shot.run(task, source, system, found, keep)
        # a changed task may ask for fewer units than the file holds
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

    def _settings(self) -> list[dict[str, Any]]:
        """Each setting of the grid; one empty setting without a grid."""
        settings: list[dict[str, Any]] = [{}]
        for key, values in self._suite.grid.items():
            settings = [{**setting, key: value} for setting in settings for value in values]
        return settings

    def _run(
        self, task: Task, source: TaskSource, system: System, languages: Sequence[str], seed: int, training: Setting
    ) -> TaskRun:
        """The scores of every language, those that are there already included."""

        def chain(language: str) -> TuningStep | None:
            return plan_tuning(self.find, task.name, language, seed, training) if task.kind in TRAINED else None

        file = TaskFile(self._out, task.name, source.revision, system.name, system.weights)
        protocol = _protocol(task, source, system, chain(languages[0]))
        # the key covers whatever changes the figures: a run under another key is another experiment, and both are kept
        key = hash_of({**protocol, "seed": seed})
        run = file.read().runs.get(key) or TaskRun(protocol=protocol, seed=seed)
        missing = [language for language in languages if language not in run.scores]
        if not missing:
            log.info("%s: %s is there: %s", system.name, task.title, file.path)
            return run
        with progress[None](total=len(missing), desc=f"{system.name}: {task.title}", unit="language") as bar:
            for language in missing:
                started = time.monotonic()
                rows = source.read(language).rows
                check(task, rows)
                found = score(task, language, system.predict(task, chain(language), rows), rows)
                seconds = round(run.seconds + time.monotonic() - started, 2)
                scores = {**run.scores, language: TaskScore(rows=len(rows), scores=found)}
                run = run.model_copy(update={"scores": scores, "seconds": seconds})
                file.write(key, run)
                bar.note(**{language: f"{found[task.metric]:.3f}"})
                bar.update()
        return run


def _protocol(task: Task, source: TaskSource, system: System, last: TuningStep | None) -> dict[str, Any]:
    """Everything that the figures depend on, beside the model and the rows. ``last``: of the fine-tuning chain."""
    trained = None if last is None else last.protocol(system.weights)
    if trained is not None and task.protocol.per_language:
        trained["languages"] = "each its own"
    return {
        "kind": task.kind,
        "trained": trained,
        "limit": task.limit,
        "columns": task.source.local_columns if source.folder else task.source.columns,
        "options": task.protocol.options,
        "positive": task.positive,
        "normalisation": task.normalisation if task.kind == "answer" else None,
    }
