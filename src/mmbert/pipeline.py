"""Run a whole recipe, from raw text to an evaluated model. Finished stages are skipped.

runs/<name>/
  recipe.yaml environment.json                     what is run, and on what
  data/{text,heldout,parallel,tokenizer,shards}    1. prepare: documents, tokenizer, shards
  mixture.json                                     what each phase draws
  start/                                           the model that the recipe starts from, if it does
  <phase>/{metrics.jsonl,step-...,final}           2. phases, in the order of their tree
  evaluation/<model>.json                          3. loss per language: before, after each phase; retrieval
  merge/report.json, final/                        4. the ends of phases become one, in Hugging Face form
  report.html, final/README.md                     5. all of it on one page, and the model card
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from mmbert.data.manifest import Manifest
from mmbert.data.mixture import mixture
from mmbert.data.prepare import prepare_data
from mmbert.errors import TrainingError
from mmbert.evaluation.heldout_evaluation import HeldoutSet, build_heldout_set, evaluate_baseline, evaluate_model
from mmbert.evaluation.results import MERGED, ModelResult
from mmbert.files import atomic_folder, damage, read_json, write_json, write_text
from mmbert.inference.load import hash_folder
from mmbert.locks import lock_folder
from mmbert.recipe import START, Merge, Recipe
from mmbert.reporting.card import model_card
from mmbert.reporting.page import write_report
from mmbert.reporting.record import read_record
from mmbert.start_model import resolve
from mmbert.surgery.merge import merge
from mmbert.training.pretrain import FINAL, checkpoints_of, pretrain
from mmbert.training.run_folder import choose_precision, open_run
from mmbert.training.start import open_start

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """The files of a finished run."""

    folder: Path
    model: Path
    """The final model, loadable by ``transformers`` and ``sentence-transformers``."""
    report: Path
    evaluation: ModelResult
    """Of the final model."""


def run(recipe: Recipe, *, out: Path | None = None) -> RunResult:
    """Run a recipe, or what is left of it, in ``out`` (default ``runs/<name>``).

    Raises the MMBertError of the stage that cannot go on; the same call resumes there. Raises MMBertError if another
    process is running in ``out``.
    """
    recipe = resolve(recipe)
    folder = out or Path("runs") / recipe.name
    with lock_folder(folder):
        return _run(recipe, folder)


def _run(recipe: Recipe, folder: Path) -> RunResult:
    data = Path(recipe.shards) if recipe.shards else folder / "data"
    open_run(recipe, folder)  # before anything is prepared: a recipe that changed since is refused here
    manifest, tokenizer = prepare_data(recipe, data)
    write_mixture(recipe, manifest, folder / "mixture.json")
    heldout = build_heldout_set(recipe, data, tokenizer)
    evaluate_baseline(heldout, data / "shards", folder / "evaluation")
    start = open_start(recipe, folder, tokenizer)
    if start is not None:
        _evaluate(recipe, START, start, heldout, folder)
    ends = pretrain(
        recipe, folder, data, after_phase=lambda name, model: _evaluate(recipe, name, model, heldout, folder)
    )
    model = folder / "final"
    if recipe.merge is not None:
        merge_phases(recipe, folder, model)
        result = _evaluate(recipe, MERGED, model, heldout, folder, retrieval=True)
    else:
        last = recipe.order()[-1]
        result = _evaluate(recipe, last, ends[last], heldout, folder, retrieval=True)
        with atomic_folder(model) as partial:
            shutil.copytree(ends[last], partial, dirs_exist_ok=True)
    report = write_report(folder, folder / "report.html")
    write_text(model / "README.md", model_card(read_record(folder)))
    return RunResult(folder, model, report, result)


def write_mixture(recipe: Recipe, manifest: Manifest, path: Path) -> None:
    """Write what each phase draws from the shards: phase -> streams with share, tokens and epochs."""
    sizes = manifest.sizes()
    drawn = {
        name: [asdict(stream) for stream in mixture(phase, sizes).streams] for name, phase in recipe.phases.items()
    }
    write_json(path, drawn)


def merge_phases(recipe: Recipe, folder: Path, out: Path) -> None:
    """Merge the ends of phases as the recipe says, unless ``out`` is already the merge of just these weights.

    Raises TrainingError naming a phase that is not finished.
    """
    spec = recipe.merge
    assert spec is not None, "the caller looks"
    models = {name: _models(spec, folder, name) for name in spec.phases}
    base = _models(spec, folder, spec.base)[-1] if spec.base is not None else None
    inputs = {
        "merge": spec.model_dump(mode="json"),
        "models": {name: [hash_folder(path) for path in paths] for name, paths in models.items()},
        "base": hash_folder(base) if base is not None else None,
    }
    record = folder / "merge" / "inputs.json"
    if out.is_dir() and record.is_file() and read_json(record) == inputs:
        log.info("the phases are merged: %s", out)
        return
    record.unlink(missing_ok=True)
    report = merge(spec, models, base, out)
    report.save(folder / "merge" / "report.json")
    write_json(record, inputs)


def _models(spec: Merge, folder: Path, name: str) -> list[Path]:
    """Return the last checkpoints of a phase that the merge takes, oldest first; for TIES only the last one."""
    end = folder / START if name == START else folder / name / FINAL
    if not end.is_dir():
        raise TrainingError(f"{end} is not there, and the merge needs it: run `mmbert pretrain` on the recipe first")
    if name != START and (fault := damage(end)) is not None:
        raise TrainingError(f"{end} is damaged ({fault}): `mmbert pretrain` on the recipe writes it again")
    return [end] if name == START else checkpoints_of(folder / name)[-spec.checkpoints :]


def _evaluate(
    recipe: Recipe, name: str, model: Path, heldout: HeldoutSet, folder: Path, *, retrieval: bool = False
) -> ModelResult:
    """Evaluate one model on held-out text, on the device and in the precision of its training."""
    device = torch.device("cuda" if recipe.runtime.device != "cpu" and torch.cuda.is_available() else "cpu")
    wanted = recipe.runtime.precision
    precision = choose_precision(device, recipe.shape.hidden_size) if wanted == "auto" else wanted
    return evaluate_model(
        name, model, heldout, folder / "evaluation", retrieval=retrieval, device=device.type, precision=precision
    )
