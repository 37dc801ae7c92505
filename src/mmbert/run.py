"""A whole recipe, from raw text to an evaluated model. Every stage leaves files and is skipped when they are there.

    runs/<name>/
      recipe.yaml environment.json            what is run, and on what
      data/{text,heldout,parallel,tokenizer,shards}    1. prepare: documents, tokenizer, shards
      mixture.json                            what each phase draws
      <phase>/{metrics.jsonl,step-...,final}  2. phases, in the order of their tree
      evaluation/<model>.json                 3. after each phase: loss per language, retrieval
      merge/report.json                       4. the ends of phases become one
      final/                                  the model, in Hugging Face form, with its card
      report.html                             5. all of it on one page
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from mmbert.data.manifest import Manifest
from mmbert.data.mixture import mixture
from mmbert.data.prepare import prepare_data
from mmbert.evaluation.evaluate import evaluate_baseline, evaluate_model, set_exam
from mmbert.evaluation.results import MERGED, ModelResult
from mmbert.files import atomic_folder, write_json, write_text
from mmbert.recipe import Recipe
from mmbert.reporting.card import model_card
from mmbert.reporting.page import write_report
from mmbert.reporting.record import read_record
from mmbert.surgery.merge import merge
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.training.pretrain import checkpoints_of, pretrain

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """Where a finished run left what it made."""

    folder: Path
    model: Path
    """The final model, loadable by ``transformers`` and ``sentence-transformers``."""
    report: Path
    evaluation: ModelResult
    """Of the final model."""


def run(recipe: Recipe, *, out: Path | None = None) -> RunResult:
    """Run a recipe, or what is left of it, in ``out`` (default ``runs/<name>``)."""
    folder = out or Path("runs") / recipe.name
    data = Path(recipe.shards) if recipe.shards else folder / "data"
    manifest, tokenizer = prepare_data(recipe, data)
    write_mixture(recipe, manifest, folder / "mixture.json")
    exam = set_exam(recipe, data, tokenizer)
    evaluate_baseline(exam, data / "shards", folder / "evaluation")

    def evaluate(name: str, model: Path) -> ModelResult:
        return evaluate_model(name, model, exam, folder / "evaluation")

    ends = pretrain(recipe, folder, data, after_phase=lambda phase, model: evaluate(phase, model))
    model = folder / "final"
    if recipe.merge is None:
        last = recipe.order()[-1]
        result = evaluate(last, ends[last])
        with atomic_folder(model) as partial:
            shutil.copytree(ends[last], partial, dirs_exist_ok=True)
    else:
        merge_phases(recipe, folder, ends, model)
        result = evaluate(MERGED, model)
    report = write_report(folder, folder / "report.html")
    write_text(model / "README.md", model_card(read_record(folder)))
    return RunResult(folder, model, report, result)
