"""A suite: the tasks of one evaluation, where their local data is, and what differs from their declarations.

    suite = Suite.load("local", ["data=evaldata", "tasks.sib200.limit=100"])
    suite.task("sib200")        # the declaration with the suite's changes
    suite.tuning()              # the recipe by which a model is tuned before all tasks; None: it is taken as it is

A YAML file read as every recipe is: ``extends``, overrides, an unknown key is an error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from mmbert.errors import ConfigError
from mmbert.evaluation.task import TRAINED, Task
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.recipe_errors import explain
from mmbert.recipe_file import Spec, SpecFile
from mmbert.recipe_names import beside_or_shipped, find_recipe

PRETRAINED = "pretrained"
"""As a task's ``start``: no other task's model, since null only says that nothing is changed."""


class TaskChange(Spec):
    """What a suite does otherwise than a task's declaration; null: as declared."""

    file: str | None = None
    """A declaration of your own, relative to the working directory; null: the package's of this name."""
    languages: tuple[str, ...] | None = None
    """Score only these."""
    limit: int | None = Field(None, ge=1)
    start: str | None = None
    """Another task's model; ``pretrained``: none's."""
    train: bool | None = None
    train_languages: tuple[str, ...] | None = None
    per_language: bool | None = None
    train_limit: int | None = Field(None, ge=1)
    training: dict[str, Any] = Field({})
    options: dict[str, Any] = Field({})
    metric: str | None = None
    subtasks: tuple[str, ...] | None = None


class Suite(SpecFile):
    """What is evaluated."""

    command = "evaluate"

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    tasks: dict[str, TaskChange] = Field(min_length=1)
    """Tasks in the order in which they run and are shown; ``{}``: as declared."""
    starts: dict[str, TaskChange] = Field({})
    """Changes of tasks that others only start from; they are trained, not scored."""
    data: str | None = None
    """Folder of local data. A task that has its folder there reads that, others read the hub."""
    seeds: tuple[int, ...] = Field((42,), min_length=1)
    """Every fine-tuning runs with each of these; shown are mean and standard deviation."""
    training: dict[str, Any] = Field({})
    """Changes of ``training`` for every task: ``{device: cuda, precision: bf16}``."""
    grid: dict[str, tuple[Any, ...]] = Field({})
    """Values of ``training`` that are all tried: ``{learning_rate: [2e-5, 3e-5]}``. As in the mmBERT paper the setting
    that scores best on the scored set itself is shown: an oracle, which flatters every model alike."""
    limit: int | None = Field(None, ge=1)
    """At most so many rows of a language in every task, to try things out."""
    tune: str | None = None
    """A fine-tuning recipe of ``task: embed``, a path relative to the suite's file or a name of the package's: every
    model is tuned by it once, before all tasks, as in the paper's protocol for MTEB. Models that are tuned for
    embeddings already are taken as they are."""
    tune_changes: dict[str, Any] = Field({})
    """Changes of that recipe: ``{training: {batch: 256}, data: {train: {path: pairs.jsonl}}}``."""
    published: str | None = None
    """Whose published figures stand beside: ``glue``, ``xtreme``, ``mteb-english`` ... (``published.tsv``)."""
    average: bool = True
    """Show the plain mean over tasks, as GLUE, XTREME and MTEB's tables do. False where tasks are not alike."""
    tiers: str | None = None
    """A table with the columns ``code`` and ``tier``: results are also shown by tier of language."""

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Read a file, or a suite of the package by its name, with ``key.path=value`` overrides.

        Raises ConfigError with the dotted path of what is wrong.
        """
        suite = super().load(path, overrides)
        if suite.tune is None:
            return suite
        beside = Path(os.path.normpath(beside_or_shipped(find_recipe(path).parent, suite.tune)))
        found = beside if beside.is_file() else Path(suite.tune)  # an override is relative to the working directory
        if not found.is_file():
            raise ConfigError(
                f"{path}: tune: no such recipe: {suite.tune} (looked for {beside} and {found.absolute()})"
            )
        return suite.model_copy(update={"tune": str(found)})

    def tuning(self) -> FinetuneRecipe | None:
        """Return the recipe of ``tune`` with its changes, None without one. Raises ConfigError for another task's."""
        if self.tune is None:
            return None
        recipe = FinetuneRecipe.load(
            self.tune, [f"{key}={json.dumps(value)}" for key, value in _dotted(self.tune_changes)]
        )
        if recipe.task != "embed":
            raise ConfigError(f"tune: {self.tune} is of task {recipe.task}: a suite tunes for embeddings (task: embed)")
        return recipe

    @field_validator("tasks", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """A list of names is a map without changes."""
        return {name: {} for name in value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in self.tasks:
            task = self.task(name)
            for start in self.chain(name):
                if self.task(start).kind != task.kind:
                    raise ValueError(f"tasks.{name}: starts from {start}, which is no task of kind {task.kind}")
        return self

    def task(self, name: str) -> Task:
        """Return the declaration of a task with the suite's changes. Raises ValueError for what does not fit it."""
        change = self.tasks.get(name) or self.starts.get(name) or TaskChange()
        try:
            declared = Task.load(change.file or name)
        except ConfigError as error:
            raise ValueError(f"tasks.{name}: {error}") from error
        values = declared.model_dump(mode="json")
        if change.languages is not None:
            if not declared.languages:
                raise ValueError(f"tasks.{name}.languages: {name} declares no languages to choose from: leave it out")
            wrong = [code for code in change.languages if code not in declared.languages]
            if wrong:
                known = ", ".join(list(declared.languages)[:12])
                raise ValueError(f"tasks.{name}.languages: {name} has no {wrong[0]} (it has {known} ...)")
        for field in ("limit", "metric", "subtasks"):
            if (value := getattr(change, field)) is not None:
                values[field] = value
        values["limit"] = min((n for n in (values["limit"], self.limit) if n is not None), default=None)
        protocol = values["protocol"]
        for field in ("start", "train", "train_languages", "per_language", "train_limit"):
            if (value := getattr(change, field)) is not None:
                protocol[field] = None if value == PRETRAINED else value
        if declared.kind in TRAINED:
            protocol["training"] = {**protocol["training"], **self.training, **change.training}
            protocol["options"] = {**protocol["options"], **change.options}
        try:
            return Task.model_validate(values)
        except ValidationError as error:
            raise ValueError(explain(error, Task, Path(f"tasks.{name}"), values)) from error

    def scored(self, name: str) -> list[str]:
        """Return the languages that are scored, as declared or as the suite says."""
        change = self.tasks[name]
        return list(change.languages if change.languages is not None else self.task(name).languages)

    def chain(self, name: str) -> list[str]:
        """Return the tasks that a task's model is trained on before it, in order. Raises ValueError for a circle."""
        found: list[str] = []
        start = self.task(name).protocol.start
        while start is not None:
            if start in found or start == name:
                raise ValueError(f"tasks.{name}: {' <- '.join([name, *found, start])} is a circle of starts")
            found.append(start)
            start = self.task(start).protocol.start
        return found[::-1]


def _dotted(values: dict[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """Maps in maps as (dotted key, value)."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _dotted(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", value
