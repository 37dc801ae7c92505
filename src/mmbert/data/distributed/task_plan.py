"""The assignment of files to tasks in a distributed preparation, written before it starts and kept until its end.

    scale/plan.json   sources in work, their files, tasks and fingerprints, and the recipe
    scale/logs/       datatrove's logs, counts and completed tasks of each stage
    scale/work/       what one stage leaves for the next; removed at the end

A *task* is datatrove's unit of work, and its number is the *rank*. Here a task reads whole files of one source, in the
order of the source. The order of documents, and all that depends on it, is therefore the same for any number of tasks.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from mmbert.data.document import Document
from mmbert.data.manifest import FILE
from mmbert.data.prepare import text_work
from mmbert.data.prepare_tasks import PrepareTask, Work, plan_work
from mmbert.data.sources.hub_datasets import restore
from mmbert.data.sources.read import read_input
from mmbert.data.store import report_path, text_folder
from mmbert.errors import DataError
from mmbert.files import read_json, write_json
from mmbert.recipe import Recipe

_PARTITIONS = 64
"""At most so many parts of the hashes are compared at the same time."""


@dataclass(frozen=True)
class Unit:
    """A file, or a part of the installed catalogs, that a rank reads as a whole."""

    task: str
    """The task of ``mmbert data prepare`` that it belongs to."""
    heldout_only: bool
    """All of it is held out."""
    size: int
    """In bytes, as stored."""
    file: dict[str, Any] | None
    """The record of an input; None for catalogs."""


@dataclass(frozen=True)
class TaskInputs:
    """The units of one source that one task reads."""

    source: str
    units: tuple[Unit, ...]


@dataclass(frozen=True)
class TaskPlan:
    """All tasks of the stages that read sources."""

    folder: Path
    """The data folder."""
    recipe: Recipe
    fingerprints: dict[str, str]
    """Of each source in work, in the recipe's order."""
    ranks: tuple[TaskInputs, ...]
    """Ranks of one source follow one another, in the order of its files."""

    @property
    def partitions(self) -> int:
        """Return the number of partitions of the hashes in the search for exact copies."""
        return min(len(self.ranks), _PARTITIONS)

    @cached_property
    def sources(self) -> dict[str, list[int]]:
        """Return source in work -> its ranks."""
        return {
            name: [number for number, rank in enumerate(self.ranks) if rank.source == name]
            for name in self.fingerprints
        }

    def place(self, *parts: str | int) -> Path:
        """Return a path for what one stage leaves for the next; numbers are written with five digits."""
        return self.folder.joinpath(
            "scale", "work", *(part if isinstance(part, str) else f"{part:05d}" for part in parts)
        )

    def documents(self, unit: Unit, source_name: str) -> Iterator[Document]:
        """Yield the documents of a unit."""
        source = self.recipe.sources[source_name]
        if unit.file is None:
            return self._catalogs[unit.task].documents(lambda size: None)
        return read_input(source_name, source, restore(source, unit.file))

    @cached_property
    def _catalogs(self) -> dict[str, PrepareTask]:
        """Return the tasks of the one source of catalogs, which is loaded once for all of them."""
        (name,) = (name for name in self.fingerprints if self.recipe.sources[name].kind == "catalogs")
        work = plan_work(name, self.recipe.sources[name], self.recipe.cleaning, self.folder)
        return {task.name: task for task in work.tasks}

    def save(self) -> None:
        """Write ``scale/plan.json``."""
        values = {
            "recipe": self.recipe.model_dump(mode="json"),
            "fingerprints": self.fingerprints,
            "ranks": [{"source": rank.source, "units": [unit.__dict__ for unit in rank.units]} for rank in self.ranks],
        }
        write_json(plan_path(self.folder), values)


def plan_path(folder: Path) -> Path:
    """Return the path of the plan of a data folder in work."""
    return folder / "scale" / "plan.json"


def load_plan(folder: Path) -> TaskPlan:
    """Return the plan of a data folder, read once in a process. Raises DataError if there is none."""
    path = plan_path(folder)
    if not path.is_file():
        raise DataError(f"no such file: {path}: start the preparation again with `mmbert data scale`")
    return _load(folder, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _load(folder: Path, stamp: int) -> TaskPlan:
    values = read_json(plan_path(folder))
    ranks = tuple(TaskInputs(rank["source"], tuple(Unit(**unit) for unit in rank["units"])) for rank in values["ranks"])
    return TaskPlan(folder, Recipe.model_validate(values["recipe"]), values["fingerprints"], ranks)


def make_plan(recipe: Recipe, folder: Path, tasks: int) -> TaskPlan:
    """Return the plan that was begun if it still fits; else make a new one and remove the old text.

    Raises as ``prepare_text`` does for a source that is not there.
    """
    works = text_work(recipe, folder)
    if plan_path(folder).is_file():
        begun = load_plan(folder)
        if _goes_on(begun, recipe, works):
            return begun
    waiting = {name: work for name, (work, done) in works.items() if not done and not work.ids}
    plan = TaskPlan(
        folder,
        recipe,
        {name: work.fingerprint for name, work in waiting.items()},
        tuple(_divide(waiting, tasks)),
    )
    shutil.rmtree(folder / "scale", ignore_errors=True)
    if waiting:
        (folder / "shards" / FILE).unlink(missing_ok=True)
        report_path(folder).unlink(missing_ok=True)
    for name in waiting:
        marks = text_folder(folder, name) / "done"  # the marks of what is done go first
        for old in (marks, text_folder(folder, name), text_folder(folder, name, heldout=True)):
            shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(folder / "shards" / name, ignore_errors=True)
    plan.save()
    return plan


def _goes_on(begun: TaskPlan, recipe: Recipe, works: dict[str, tuple[Work, bool]]) -> bool:
    """Return whether a plan that was begun leads to what the recipe asks for now."""
    same = (begun.recipe.sources, begun.recipe.cleaning, begun.recipe.vocabulary) == (
        recipe.sources,
        recipe.cleaning,
        recipe.vocabulary,
    )
    return same and all(
        begun.fingerprints.get(name) == work.fingerprint if name in begun.fingerprints else done or work.ids
        for name, (work, done) in works.items()
    )


def _divide(works: dict[str, Work], tasks: int) -> Iterator[TaskInputs]:
    """Yield units in runs of about the same size. A source has at least one rank."""
    total = sum(task.size for work in works.values() for task in work.tasks) or 1
    for name, work in works.items():
        units = [unit for task in work.tasks for unit in _units(task)]
        size = sum(unit.size for unit in units)
        count = max(1, min(len(units), round(tasks * size / total)))
        if units and units[0].file is None:  # catalogs are loaded as a whole
            count = 1
        run: list[Unit] = []
        begun, passed = 0, 0
        for left, unit in zip(range(len(units), 0, -1), units, strict=True):
            # A new rank begins where its share of the bytes does, and where each rank left needs a unit.
            if run and begun < count and (passed >= begun * size / count or left <= count - begun):
                yield TaskInputs(name, tuple(run))
                run = []
            if not run:
                begun += 1
            run.append(unit)
            passed += unit.size
        yield TaskInputs(name, tuple(run))


def _units(task: PrepareTask) -> Iterator[Unit]:
    if not task.inputs:
        yield Unit(task.name, task.heldout_only, task.size, None)
    for file in task.inputs:
        yield Unit(task.name, task.heldout_only, file.size, file.record())
