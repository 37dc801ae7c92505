"""The systems that are evaluated on the same rows: a model, the same architecture untrained, n-gram baselines."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from mmbert.errors import WeightsError
from mmbert.evaluation import ngram_baseline
from mmbert.evaluation.predict import predict
from mmbert.evaluation.sources import Row
from mmbert.evaluation.summary import TUNED_BEFORE
from mmbert.evaluation.task import Task
from mmbert.evaluation.tuning_chain import TuningStep, hash_of, read_training, tune, tune_first
from mmbert.files import atomic_folder
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.inference.load import hash_folder, load
from mmbert.model.heads import MaskedLM
from mmbert.model.weights import model_folder

log = logging.getLogger(__name__)

UNTRAINED = "untrained"
FEATURE_SETS = {"characters": ngram_baseline.NGRAMS, "character-unigrams": ngram_baseline.UNIGRAMS}
"""Baselines without a model, by name."""
BASELINES = (UNTRAINED, *FEATURE_SETS)


class System(Protocol):
    """One column of the table."""

    name: str
    tuned: str
    """By what it was tuned before all tasks, as tables say it; empty if by nothing."""

    @property
    def weights(self) -> str:
        """Hash of the model, or the name of a baseline; the folder of its results is called so."""
        ...

    def predict(self, task: Task, last: TuningStep | None, rows: Sequence[Row]) -> Any:
        """Return its predictions, after a fine-tuning chain that ends in ``last`` (None: as it is)."""
        ...


@dataclass
class Model:
    """A model folder, fine-tuned where the protocol says so."""

    name: str
    folder: Path
    weights: str
    models: Path
    """Where tuned models are kept."""
    tuned: str = ""

    def predict(self, task: Task, last: TuningStep | None, rows: Sequence[Row]) -> Any:
        """Return the predictions of the predictor of the task's kind."""
        folder = self.folder if last is None else tune(last, self.folder, self.weights, self.models)
        return predict(task, folder, rows)


@dataclass
class NgramBaseline:
    """A baseline of ``FEATURE_SETS``, fitted to a task's training rows, or to those of the task it starts from."""

    name: str
    tuned: str = ""
    _fitted: dict[str, ngram_baseline.Predict] = field(default_factory=dict)

    @property
    def weights(self) -> str:
        """Its name: there are none to hash."""
        return self.name

    def predict(self, task: Task, last: TuningStep | None, rows: Sequence[Row]) -> Any:
        """Return its predictions; it is fitted once for each set of training rows."""
        key = hash_of({"task": task.name, "stage": last.protocol(self.name) if last else None})
        if key not in self._fitted:
            training, seed = (read_training(last), last.seed) if last else ([], 0)
            self._fitted = {key: ngram_baseline.fit(task, training, seed, FEATURE_SETS[self.name])}
        return self._fitted[key](rows)


def open_model(name: str | Path, out: Path) -> Model:
    """Open a folder or hub name. Raises WeightsError in one line."""
    folder = model_folder(name)
    weights = hash_folder(folder)
    return Model(str(name), folder, weights, out / weights / "models")


def tuned_first(model: Model, recipe: FinetuneRecipe, by: str, out: Path) -> Model:
    """Return the model after a suite's ``tune``, kept in ``out``; one tuned for embeddings already is unchanged.

    by  what tables call the recipe
    """
    if (model.folder / "modules.json").is_file():
        log.info("%s is tuned for embeddings already (modules.json): it is not tuned by %s", model.name, by)
        return replace(model, tuned=TUNED_BEFORE)
    folder = tune_first(recipe, model.folder, model.weights, model.models, out / "pins.json")
    weights = hash_folder(folder)
    return Model(model.name, folder, weights, out / weights / "models", f"tuned by {by} first")


def untrained(model: Model, out: Path) -> Model:
    """Return the architecture and tokenizer of a model with fresh weights, in ``out/untrained/<hash of the model>``.

    Raises WeightsError for a model that is more than an encoder with a masked-LM head.
    """
    folder = out / UNTRAINED / model.weights
    if not folder.is_dir():
        loaded = load(model.folder, device="cpu", precision="fp32")
        if loaded.after:
            raise WeightsError(f"{model.folder} has modules behind pooling: take the pretrained model for {UNTRAINED}")
        # the same weights for the same model, and the caller's random state as it was
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            fresh = MaskedLM(loaded.config)
        with atomic_folder(folder) as partial:
            fresh.save(partial)
            loaded.tokenizer.save(partial, max_tokens=loaded.max_tokens)
        log.info("fresh weights of the same shape: %s", folder)
    weights = hash_folder(folder)
    return Model(UNTRAINED, folder, weights, out / weights / "models")
