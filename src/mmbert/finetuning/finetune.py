"""``finetune``: a recipe in, a tuned model folder out. Finished runs are recognised, stopped ones resume.

A run's folder (``runs/<name>`` or ``out``):

    recipe.yaml      resolved, written before the first step
    environment.json versions, device, threads
    checkpoints/     the trainer's; a stopped run resumes from the last one
    tensorboard/     its curves
    student/         what the run begins with, if that was made for it
    trimmed/         the same with the tokens of the training text alone
    teacher/<split>/ logits of the recipe's teacher, if it has one
    final/           the model: transformers, sentence-transformers and this package load it
    result.json      metrics and history; written last, so its presence means finished
    sweep/<trial>/   of a sweep: such a folder for each trial; final/ is then the best one's

``TASKS`` names the module of each task, which has one function:

    def train(recipe: FinetuneRecipe, folder: Path, callbacks: Sequence[TrainerCallback] = ()) -> FinetuneResult

It reads ``recipe.data`` (``mmbert.finetuning.examples``), trains with the trainer's output in ``folder/checkpoints``,
writes the tuned model with its tokenizer to ``folder/final``, and returns what it measured. Every process of
``torchrun`` calls it; only the main one writes what is not the trainer's. Heavy libraries are imported in these
modules, never here.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from mmbert.errors import ConfigError, MissingExtra, TrainingError
from mmbert.extras import extra_of
from mmbert.files import is_main_process, publish_folder, read_json, write_json
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.hub import check_upload, upload
from mmbert.locks import lock_folder
from mmbert.memory import keep_memory
from mmbert.recipe_file import refuse_changes

log = logging.getLogger(__name__)

TASKS = {
    "classify": "mmbert.finetuning.classify",
    "tag": "mmbert.finetuning.tag",
    "answer": "mmbert.finetuning.span",
    "choose": "mmbert.finetuning.choose",
    **dict.fromkeys(("embed", "rerank", "sparse", "late_interaction"), "mmbert.finetuning.sentence_training"),
    "distil": "mmbert.finetuning.distil",
}

_LIBRARIES = ("transformers", "accelerate", "datasets", "sentence-transformers", "peft", "tokenizers", "numpy")
"""What results depend on beside torch, for ``environment.json``."""

RECIPE, RESULT, FINAL, CHECKPOINTS, SWEEP = "recipe.yaml", "result.json", "final", "checkpoints", "sweep"
TEACHER, TRIMMED = "teacher", "trimmed"


@dataclass(frozen=True)
class FinetuneResult:
    """A finished run.

    folder   the tuned model
    metrics  split -> name -> number
    chosen   the number on dev that decided, if there is a dev
    history  the trainer's log lines
    trials   of a sweep: each trial's changes and number, the best first
    """

    folder: Path
    metrics: dict[str, dict[str, float]]
    chosen: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    trials: list[dict[str, Any]] = field(default_factory=list)


def finetune(
    recipe: FinetuneRecipe | str | Path,
    *,
    out: str | Path | None = None,
    sweep: bool = False,
    callbacks: Sequence[Any] = (),
) -> FinetuneResult:
    """Tune a model on a task.

    out        the run's folder; default: runs/<name>
    sweep      run all combinations of ``recipe.sweep`` and keep the best on dev
    callbacks  ``transformers.TrainerCallback`` objects of your own, of every trial of a sweep
    Raises ConfigError, DataError, WeightsError or TrainingError; MissingExtra without the extra finetune.
    """
    wanted = recipe if isinstance(recipe, FinetuneRecipe) else FinetuneRecipe.load(recipe)
    folder = Path(out) if out is not None else Path("runs") / wanted.name
    if sweep and not (wanted.sweep.values or wanted.sweep.seeds):
        raise ConfigError(f"{wanted.name} has nothing to sweep over: give sweep.values or sweep.seeds")
    with lock_folder(folder) if is_main_process() else nullcontext():
        finished = _open(wanted, folder, sweep)
        if finished is not None:
            log.info("%s is finished: nothing to do", folder)
            return finished
        if wanted.training.push_to_hub is not None:
            check_upload(wanted.training.push_to_hub)  # now, not after hours
            if wanted.writes_adapter and Path(wanted.model).is_dir():
                raise ConfigError(
                    f"training.push_to_hub: the adapter would name {wanted.model} by its path on this machine: upload "
                    "that model first, and give its name on the hub as model"
                )
        if sweep:
            return _sweep(wanted, folder, callbacks)
        result = _train(wanted, folder, callbacks)
        if is_main_process():
            _finish(wanted, folder, result, sweep)
    return result


def _train(recipe: FinetuneRecipe, folder: Path, callbacks: Sequence[Any]) -> FinetuneResult:
    try:
        module = import_module(TASKS[recipe.task])
    except ModuleNotFoundError as error:
        if error.name is not None and extra_of(error.name):
            raise MissingExtra(error.name, "finetune") from error
        raise
    keep_memory()
    result: FinetuneResult = module.train(recipe, folder, callbacks)
    return result


def _open(recipe: FinetuneRecipe, folder: Path, sweep: bool) -> FinetuneResult | None:
    """Return the result that is there already; else write the recipe, or compare it with that of the begun run."""
    path = folder / RECIPE
    if path.is_file():
        compare_begun(recipe, folder)
    elif is_main_process():
        recipe.save(path)
        import torch

        from mmbert.training.run_folder import describe

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        write_json(folder / "environment.json", describe(device, _LIBRARIES))
    if not (folder / RESULT).is_file():
        return None
    kept = read_json(folder / RESULT)
    if kept["sweep"] != sweep:
        ways = ("one run", "a sweep")
        raise TrainingError(f"{folder} holds {ways[kept['sweep']]}, not {ways[sweep]}: give another --out")
    return FinetuneResult(folder / FINAL, kept["metrics"], kept["chosen"], kept["history"], kept["trials"])


def compare_begun(recipe: FinetuneRecipe, folder: Path) -> None:
    """Raise TrainingError where a run was begun in the folder with another recipe."""
    if not (folder / RECIPE).is_file():
        return
    refuse_changes(folder, _fixed(FinetuneRecipe.load(folder / RECIPE)), _fixed(recipe))


def _finish(recipe: FinetuneRecipe, folder: Path, result: FinetuneResult, sweep: bool) -> None:
    if recipe.training.push_to_hub is not None and not sweep:
        upload(result.folder, recipe.training.push_to_hub)
    values = {key: value for key, value in asdict(result).items() if key != "folder"}
    write_json(folder / RESULT, {"task": recipe.task, "model": recipe.model, "sweep": sweep, **values})


def _fixed(recipe: FinetuneRecipe) -> dict[str, Any]:
    """Return the options that must not change once a run has begun."""
    values = recipe.model_dump(mode="json")
    for free in ("device", "log_every", "keep", "tracker", "push_to_hub"):
        del values["training"][free]
    if values["teacher"] is not None:
        del values["teacher"]["cache"]
    for role in ("train", "dev", "test"):
        for note in ("licence", "checked") if values["data"][role] else ():
            del values["data"][role][note]
    return values


def _sweep(recipe: FinetuneRecipe, folder: Path, callbacks: Sequence[Any]) -> FinetuneResult:
    """Run every combination in a folder of its own; the model of the best one becomes ``final``."""
    if recipe.data.split("dev") is None and not recipe.data.dev_share:
        raise ConfigError(f"{recipe.name}: a sweep chooses by dev: give data.dev or data.dev_share")
    trials = plan_trials(recipe)
    runs: list[tuple[dict[str, Any], FinetuneResult]] = []
    for number, changes in enumerate(trials, 1):
        said = ", ".join(f"{key} {value}" for key, value in changes.items())
        log.info("trial %d of %d: %s", number, len(trials), said)
        shared = {"teacher.cache": str(folder / TEACHER)} if shares_teacher(recipe) else {}
        one = recipe.changed({**changes, **shared, "sweep": {}, "training.push_to_hub": None})
        result = finetune(one, out=folder / SWEEP / _trial_name(changes), callbacks=callbacks)
        log.info("trial %d of %d: %s on dev", number, len(trials), f"{result.chosen:.4f}")
        runs.append((changes, result))
    runs.sort(key=lambda run: -(run[1].chosen if run[1].chosen is not None else float("-inf")))
    changes, best = runs[0]
    listed = [{"changes": each, "chosen": result.chosen, "metrics": result.metrics} for each, result in runs]
    result = FinetuneResult(folder / FINAL, best.metrics, best.chosen, best.history, listed)
    if is_main_process():
        partial = folder / f"{FINAL}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(best.folder, partial)
        publish_folder(partial, folder / FINAL)
        _finish(recipe, folder, result, True)
    return result


def plan_trials(recipe: FinetuneRecipe) -> list[dict[str, Any]]:
    """Return the changes of each trial of a sweep: every combination of its values, with every seed."""
    values = dict(recipe.sweep.values)
    if recipe.sweep.seeds:
        values["training.seed"] = recipe.sweep.seeds
    return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]


def shares_teacher(recipe: FinetuneRecipe) -> bool:
    """Return whether the trials of a sweep learn from the same logits: one teacher, and the same texts for all."""
    if recipe.teacher is None or recipe.teacher.cache is not None:
        return False
    keys = {*recipe.sweep.values, *(["training.seed"] if recipe.sweep.seeds else [])}
    same = {"teacher.weight", "teacher.temperature"}
    # the length decides what is read of a text, and the seed which examples become dev
    other = {"training.max_tokens", *(["training.seed"] if recipe.data.dev_share else [])}
    return all((key.startswith(("training.", "sampling.")) and key not in other) or key in same for key in keys)


def _trial_name(changes: dict[str, Any]) -> str:
    """Return a readable name with a hash, so that two trials never share a folder."""
    text = json.dumps(changes, sort_keys=True)
    readable = "-".join(f"{key.rpartition('.')[2]}={value}" for key, value in changes.items())
    plain = "".join(sign if sign.isalnum() or sign in "=.-" else "_" for sign in readable)[:60]
    return f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
