"""The Embedder as a model of mteb's, and the runner of mteb's tasks.

mteb (the field's yardstick for embeddings) loads, embeds and scores; this file only speaks its protocol (2.26,
``EncoderProtocol``). Its tasks pin their data sets themselves.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from typing import Any

import mteb
import numpy as np
from mteb.models import ModelMeta

from mmbert.errors import ConfigError, DataError, first_line
from mmbert.evaluation.results import TaskScore
from mmbert.evaluation.task import Task
from mmbert.inference.embedder import Embedder
from mmbert.log import progress

log = logging.getLogger(__name__)


class MtebModel:
    """What mteb asks of an encoder: ``encode``, ``similarity``, ``similarity_pairwise`` and ``mteb_model_meta``.

    The folder's prompts for queries and documents are put before them, if it has any.
    """

    def __init__(self, embedder: Embedder, name: str, revision: str) -> None:
        self._embedder = embedder
        organisation, _, last = name.replace("\\", "/").strip("/").rpartition("/")
        self._meta = ModelMeta.create_empty(
            overwrites={
                "name": f"{organisation.rpartition('/')[2] or 'local'}/{last}",  # as on the hub
                "revision": revision,
                "max_tokens": embedder.max_tokens,
                "embed_dim": embedder.dimensions,
                "framework": ["PyTorch"],
            }
        )

    @property
    def mteb_model_meta(self) -> Any:
        """Name and size, for mteb's files."""
        return self._meta

    def encode(self, inputs: Iterable[dict[str, Any]], *, prompt_type: Any = None, **options: Any) -> np.ndarray:
        """Return (texts, d) fp32 of unit length. ``inputs``: batches with a list of ``text``; ``options``: mteb's."""
        texts = [text for batch in inputs for text in batch["text"]]
        prompt = None if prompt_type is None else str(getattr(prompt_type, "value", prompt_type))
        # an empty string is a text to mteb; one space has the same tokens but for the ends
        found: np.ndarray = self._embedder([text or " " for text in texts], prompt=prompt, progress=False)
        return found

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the cosine of each row with each, as a torch tensor."""
        return self._tensors(embeddings1) @ self._tensors(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the cosine of each row with the row of the same number."""
        return (self._tensors(embeddings1) * self._tensors(embeddings2)).sum(dim=-1)

    @staticmethod
    def _tensors(vectors: Any) -> Any:
        import torch
        import torch.nn.functional as F

        rows = torch.as_tensor(np.atleast_2d(np.asarray(vectors)), dtype=torch.float32)
        return F.normalize(rows, dim=-1)


def open_tasks(task: Task) -> list[Any]:
    """Return mteb's tasks of a declaration, without their data. Raises ConfigError for a name that mteb lacks."""
    try:
        tasks = list(mteb.get_benchmark(task.benchmark).tasks) if task.benchmark is not None else []
        if task.subtasks:
            known = {each.metadata.name: each for each in tasks}
            tasks = [known[name] if name in known else mteb.get_task(name) for name in task.subtasks]
    except KeyError as error:
        said = str(error.args[0]).splitlines()[0][:200]
        raise ConfigError(f"{task.name}: {said}: see mteb.get_benchmarks() and mteb.get_tasks()") from error
    return tasks


def run_tasks(
    model: MtebModel, tasks: Iterable[Any], known: dict[str, TaskScore], keep: Callable[[str, TaskScore], None]
) -> None:
    """Run the tasks that are not in ``known``; ``keep`` is told each score as it comes. Raises DataError where mteb
    cannot load a task's data."""
    wanted = [task for task in tasks if task.metadata.name not in known]
    with progress[None](total=len(wanted), desc="mteb", unit="task") as bar:
        for task in wanted:
            name = task.metadata.name
            bar.note(task=name)
            with _quiet():
                found = _run(model, task, name)
            keep(name, TaskScore(rows=0, scores={"main_score": found}, group=str(task.metadata.type)))
            bar.update()


def _run(model: MtebModel, task: Any, name: str) -> float:
    try:
        result = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
    except (OSError, ConnectionError) as error:
        raise DataError(
            f"mteb cannot load {name}: {first_line(error)} (check the network; results so far are kept)"
        ) from error
    score = float(result.task_results[0].get_score())
    if not math.isfinite(score):
        raise DataError(f"mteb gives {score} for {name}, which is no score: results so far are kept")
    return score


@contextmanager
def _quiet() -> Any:
    """mteb and what it calls warn of matters that are not the user's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
