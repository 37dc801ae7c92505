"""What the runner found on tasks, and its files.

    results/
      pins.json                            commits of hub data sets that no declaration pins
      <model hash>/<task>@<revision>.json  TaskResult
      <model hash>/models/<task>-<key>/    models that were fine-tuned on the way

A file holds the runs of one model on one revision of a task's examples: one for each protocol and seed. It is written
again after each language, so that what was stopped goes on with the next one. Nothing that is there is computed again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from mmbert.errors import MMBertError
from mmbert.evaluation.results import Result
from mmbert.files import read_checked_json, write_checked_json


class TaskScore(Result):
    """Of one language (or one of mteb's tasks)."""

    rows: int
    """Examples that were scored."""
    scores: dict[str, float]
    """Metric -> value, a fraction where it is a percentage elsewhere."""
    group: str | None = None
    """Of mteb's tasks: their type."""


class TaskRun(Result):
    """One protocol with one seed."""

    protocol: dict[str, Any]
    """All that the figures depend on beside model and examples."""
    seed: int
    scores: dict[str, TaskScore] = Field({})
    """Language -> scores, in the order of scoring."""
    seconds: float = 0.0
    """Of training and scoring, over all sessions."""


class TaskResult(Result):
    """All runs of one model on one task at one revision."""

    version: int = 1
    task: str
    revision: str
    model: str
    """As it was named."""
    weights: str
    """Hash of the model's files, or the name of a baseline that has none."""
    runs: dict[str, TaskRun] = Field({})
    """Hash of (protocol, seed) -> run."""


class Store:
    """The file of one task's result."""

    def __init__(self, folder: Path, task: str, revision: str, model: str, weights: str) -> None:
        self.path = folder / weights / f"{task}@{revision}.json"
        self._empty = TaskResult(task=task, revision=revision, model=model, weights=weights)

    def read(self) -> TaskResult:
        """What is there; an empty result if nothing is. Raises MMBertError for a file of another form."""
        if not self.path.is_file():
            return self._empty
        try:
            return TaskResult.model_validate(read_checked_json(self.path))
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(map(str, fault["loc"]))
            raise MMBertError(
                f"{self.path} is not a result of this version ({place}: {fault['msg']}): delete it and evaluate again"
            ) from error

    def write(self, key: str, run: TaskRun) -> None:
        """Put one run in its place, atomically."""
        result = self.read()
        write_checked_json(
            self.path, result.model_copy(update={"runs": {**result.runs, key: run}}).model_dump(mode="json")
        )
