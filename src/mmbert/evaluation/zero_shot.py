"""Tasks that take a model as it is and bring their own way of scoring: mteb's, loss per language, efficiency."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mmbert.errors import DataError, MissingExtra, WeightsError
from mmbert.evaluation.results import TaskScore
from mmbert.evaluation.sources import FIELDS, TaskSource
from mmbert.evaluation.systems import Model
from mmbert.evaluation.task import Task
from mmbert.io.find import packed, walk

log = logging.getLogger(__name__)

KINDS = ("mteb", "loss", "efficiency")

TEXTS = 64
"""Texts of each set of ``efficiency`` where the task sets no limit."""

Keep = Callable[[str, TaskScore], None]


def revision(task: Task) -> str:
    """Return mteb's version, which pins its data sets; ``random`` for a kind without data."""
    if task.kind != "mteb":
        return "random"
    try:
        return f"mteb-{version('mteb')}"
    except PackageNotFoundError as error:
        raise MissingExtra("mteb", "evaluate") from error


def protocol(task: Task) -> dict[str, Any]:
    """Return what the figures depend on beside model and data."""
    kept: dict[str, Any] = {"kind": task.kind, "limit": task.limit}
    if task.kind == "mteb":
        return {"kind": task.kind}  # which of its tasks are asked does not change what each of them gives
    if task.kind == "efficiency":
        from mmbert.evaluation.efficiency import BATCH, SETS

        return {**kept, "batch": BATCH, "sets": list(SETS)}
    from mmbert.recipe import Evaluation

    return {**kept, "options": Evaluation().model_dump(mode="json")}


def run(task: Task, source: TaskSource | None, model: Model, known: dict[str, TaskScore], keep: Keep) -> list[str]:
    """Score what is not in ``known``, telling ``keep`` each; returns the names of all units, in their order."""
    if task.kind == "mteb":
        return _mteb(task, model, known, keep)
    if task.kind == "efficiency":
        return _efficiency(task, model, known, keep)
    assert source is not None, "loss is read from a source"
    return _loss(task, source, model, known, keep)


def _mteb(task: Task, model: Model, known: dict[str, TaskScore], keep: Keep) -> list[str]:
    try:
        from mmbert.evaluation.mteb_model import MtebModel, open_tasks, run_tasks
    except ModuleNotFoundError as error:
        if error.name != "mteb":
            raise
        raise MissingExtra("mteb", "evaluate") from error
    from mmbert.inference.embedder import Embedder

    tasks = open_tasks(task)
    names = [each.metadata.name for each in tasks]
    if any(name not in known for name in names):
        embedder = MtebModel(Embedder.load(model.folder), model.name, model.weights)
        run_tasks(embedder, tasks, known, keep)
    return names


def _efficiency(task: Task, model: Model, known: dict[str, TaskScore], keep: Keep) -> list[str]:
    from mmbert.evaluation.efficiency import measure

    if not known:
        for name, found in measure(model.folder, task.limit or TEXTS).items():
            keep(name, found)
    if not known:
        raise WeightsError(f"{model.folder} reads too few tokens for any of the sets, of 512 and 8,192: leave it out")
    return list(known)


def _loss(task: Task, source: TaskSource, model: Model, known: dict[str, TaskScore], keep: Keep) -> list[str]:
    from mmbert.data.heldout import heldout_batches
    from mmbert.evaluation.heldout_loss import evaluate_mlm, masked_lm
    from mmbert.finetuning.examples import read_examples
    from mmbert.finetuning.recipe_data import DataSpec
    from mmbert.inference.load import load
    from mmbert.recipe import Evaluation

    files = {} if task.languages else _files(source)
    languages = list(task.languages or files)
    missing = [language for language in languages if language not in known]
    if not missing:
        return [language for language in languages if language in known]
    loaded = load(model.folder)
    head = masked_lm(loaded)
    options = Evaluation()
    texts = {}
    for language in missing:
        spec = source.spec(language, "test") if task.languages else DataSpec(path=str(files[language]))
        texts[language] = [str(row["text"]) for row in read_examples(spec, "test", FIELDS["loss"]).rows]
    batches = heldout_batches(loaded.tokenizer, texts, options, seed=0)
    losses = evaluate_mlm(head, batches, loaded.tokenizer.token_bytes(), batch=options.batch)
    without = [language for language in missing if language not in losses]
    if without and not losses and not known:
        raise DataError(f"{task.name}: the text of {', '.join(without[:5])} has no token to mask: give longer text")
    if without:
        log.warning("%s: left out, no token to mask in the text of %s", task.name, ", ".join(without))
    for language, loss in losses.items():
        scores = {"bits_per_byte": loss.bits_per_byte, "accuracy": loss.accuracy}
        keep(language, TaskScore(rows=loss.tokens, scores=scores))
    return [language for language in languages if language in known]


def _files(source: TaskSource) -> dict[str, Path]:
    """Language -> file of a local folder, for a task that declares no languages."""
    assert source.folder is not None, "a task without languages is local"
    files: dict[str, Path] = {}
    for path in walk(source.folder, packed(".jsonl"), deep=False):
        files.setdefault(path.name.partition(".")[0], path)
    return dict(sorted(files.items()))
