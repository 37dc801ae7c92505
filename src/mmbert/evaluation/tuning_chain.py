"""Models that are fine-tuned on the way to a score: a suite's ``tune``, then the chain of a task's protocol.

    folder = tune_first(recipe, base, weights, results / weights / "models", results / "pins.json")
    step = plan_tuning(find, "rte", "eng_Latn", 42, {})   # MNLI first, then RTE on top of it
    model = tune(step, folder, hash_folder(folder), results / weights / "models")

Each is kept and used again. The key of a model covers everything it was made of: the start's weights, the training
rows' revision, the recipe and the seed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbert.errors import DataError
from mmbert.evaluation.sources import FIELDS, LOCAL, Row, TaskSource, pin
from mmbert.evaluation.task import Task
from mmbert.files import sha256
from mmbert.finetuning.examples import read_examples
from mmbert.finetuning.finetune import CHECKPOINTS, FINAL, RECIPE, RESULT, finetune
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_data import DataSpec
from mmbert.finetuning.tables import find_tables

log = logging.getLogger(__name__)

Training = dict[str, Any]


@dataclass(frozen=True)
class TuningStep:
    """One fine-tuning: a task's protocol with a seed, and what comes before it."""

    task: Task
    source: TaskSource
    languages: tuple[str, ...]
    """Whose training rows are read."""
    training: Training
    seed: int
    before: TuningStep | None

    def protocol(self, weights: str) -> dict[str, Any]:
        """Return everything that the tuned model depends on, for its key and the result's file.

        weights  hash of the pretrained model
        """
        return {
            "task": self.task.name,
            "revision": self.source.revision,
            "languages": list(self.languages),
            "columns": self.task.source.local_columns if self.source.folder else self.task.source.columns,
            "train_limit": self.task.protocol.train_limit,
            "training": self.training,
            "options": self.task.protocol.options,
            "seed": self.seed,
            "start": weights if self.before is None else self.before.protocol(weights),
        }


def plan_tuning(
    find: Callable[[str], tuple[Task, TaskSource]], name: str, language: str, seed: int, training: Training
) -> TuningStep | None:
    """Return the chain that ends in the model which is scored in ``language``; None if the pretrained one is.

    find      a task's declaration and source, by name
    training  changes of the last one's ``training``, of a grid
    Raises DataError where nothing is there to train on.
    """
    task, source = find(name)
    start = task.protocol.start
    own = {**task.protocol.training, **training}
    # A grid is about the task that is scored; where that one is not trained, about the last that is.
    before = (
        None if start is None else plan_tuning(find, start, language, seed, {} if task.protocol.train else training)
    )
    if not task.protocol.train:
        return before
    return TuningStep(task, source, train_languages(task, source, language), own, seed, before)


def train_languages(task: Task, source: TaskSource, language: str) -> tuple[str, ...]:
    """Return the languages whose training rows make the model that is scored in ``language``.

    Raises DataError naming one without training rows.
    """
    wanted = (language,) if task.protocol.per_language else task.protocol.train_languages
    there = source.languages("train")
    missing = [code for code in wanted if code not in there]
    if missing:
        what = "per_language" if task.protocol.per_language else "train_languages"
        raise DataError(
            f"{task.name}: {missing[0]} has no training rows (languages that have: {', '.join(there) or 'none'}): "
            f"set tasks.{task.name}.{what}" + ("=false, or languages" if task.protocol.per_language else "")
        )
    return tuple(wanted)


def read_training(step: TuningStep) -> list[Row]:
    """Return the training rows of a step, for baselines that are fitted to them."""
    specs = [step.source.spec(language, "train") for language in step.languages]
    return [row for spec in specs for row in read_examples(spec, "train", FIELDS[step.task.kind]).rows]


def tune(step: TuningStep, model: Path, weights: str, folder: Path) -> Path:
    """Return the tuned model of a step, made now unless it is in ``folder``.

    model    the pretrained one; ``weights`` its hash
    """
    out = folder / f"{step.task.name}-{hash_of(step.protocol(weights))}"
    if (out / RESULT).is_file():
        return out / FINAL
    start = model if step.before is None else tune(step.before, model, weights, folder)
    recipe = FinetuneRecipe.model_validate(
        {
            "name": out.name,
            "task": step.task.kind,
            "model": str(start),
            "data": {"train": train_spec(step).model_dump()},
            "training": {**step.training, "seed": step.seed},
            step.task.kind: step.task.protocol.options,
        }
    )
    said = ", ".join(step.languages[:6]) + (" ..." if len(step.languages) > 6 else "")
    log.info("fine-tuning on %s (%s), seed %d: %s", step.task.title, said, step.seed, out)
    return _finish(recipe, out)


def tune_first(recipe: FinetuneRecipe, model: Path, weights: str, folder: Path, pins: Path) -> Path:
    """Return a model tuned by a recipe of its own, made now unless it is in ``folder``; what was stopped goes on.

    model    the one to tune, in place of the recipe's; ``weights`` its hash
    pins     file that keeps the commits of hub data sets that the recipe does not pin
    """
    values = recipe.model_dump(mode="json")
    rows: dict[str, Any] = {}
    for role in ("train", "dev", "test"):
        spec = recipe.data.split(role)
        if spec is not None and spec.path is not None:
            rows[role] = [sha256(table.path) for table in find_tables(spec, role)]
        elif spec is not None and spec.hub is not None and spec.revision is None:
            commit = pin(spec.hub, pins)
            values["data"][role]["revision"] = None if commit == LOCAL else commit
    # neither the name nor the path of the model is in the key: its hash is
    values |= {"model": str(model), "model_revision": None, "sweep": {}}
    values["training"]["push_to_hub"] = None
    made_of = {k: v for k, v in values.items() if k not in ("name", "model")}
    made_of["training"] = {k: v for k, v in values["training"].items() if k != "tracker"}
    key = hash_of({**made_of, "rows": rows, "start": weights})
    out = folder / f"{recipe.name}-{key}"
    if (out / RESULT).is_file():
        log.info("tuned by %s: %s", recipe.name, out)
        return out / FINAL
    log.info("tuning by %s, once: %s", recipe.name, out)
    return _finish(FinetuneRecipe.model_validate({**values, "name": out.name}), out)


def _finish(recipe: FinetuneRecipe, out: Path) -> Path:
    """Train, or train on; the folder is called by all that the model is made of, so its recipe need not be compared."""
    (out / RECIPE).unlink(missing_ok=True)  # the same model may lie elsewhere now
    tuned = finetune(recipe, out=out).folder
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)  # of a finished run nobody goes on with them
    return tuned


def train_spec(step: TuningStep) -> DataSpec:
    """Return one spec for the training rows of all languages of the step."""
    specs = [step.source.spec(language, "train") for language in step.languages]
    if len(specs) == 1:
        return specs[0]
    codes = step.languages
    if step.source.folder is not None:
        return specs[0].model_copy(update={"path": str(step.source.folder), "languages": codes, "language": None})
    spelled = {code: step.task.languages[code] for code in codes}
    own = step.task.source
    changes = {"config": own.config, "files": own.files, "languages": codes, "spelled": spelled, "language": None}
    return specs[0].model_copy(update=changes)


def hash_of(values: dict[str, Any]) -> str:
    """Return 12 hexadecimal digits of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]
