"""Who is judged: a model, the same architecture untrained, or what characters alone tell. All face the same rows."""

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
CHARACTERS = "characters"
UNIGRAMS = "bag"
BASELINES = (UNTRAINED, CHARACTERS, UNIGRAMS)
READINGS = {CHARACTERS: ngram_baseline.NGRAMS, UNIGRAMS: ngram_baseline.UNIGRAMS}


class System(Protocol):
    """One column of the table."""

    name: str
    weights: str
    """Hash of the model; the folder of its results is called so."""

    def predict(self, task: Task, stage: TuningStep | None, rows: Sequence[Row]) -> Any:
        """What it says of rows, after the fine-tunings of ``stage`` (None: as it is)."""
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
    """What tables say of a suite's ``tune``: by what it was tuned before all tasks."""

    def predict(self, task: Task, stage: TuningStep | None, rows: Sequence[Row]) -> Any:
        """By the facade of the task's kind."""
        folder = self.folder if stage is None else tune(stage, self.folder, self.weights, self.models)
        return predict(task, folder, rows)


@dataclass
class Characters:
    """A baseline of ``characters``, by the name of its reading; fitted to a task's training rows, or its start's."""

    name: str
    weights: str = field(init=False)
    _fitted: dict[str, ngram_baseline.Predict] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weights = self.name  # there are none to hash

    def predict(self, task: Task, stage: TuningStep | None, rows: Sequence[Row]) -> Any:
        """Fitted once for each set of training rows."""
        key = hash_of({"task": task.name, "stage": stage.protocol(self.name) if stage else None})
        if key not in self._fitted:
            training, seed = (read_training(stage), stage.seed) if stage else ([], 0)
            self._fitted = {key: ngram_baseline.fit(task, training, seed, READINGS[self.name])}
        return self._fitted[key](rows)


def open_model(name: str | Path, out: Path) -> Model:
    """A folder or hub name. Raises WeightsError."""
    folder = model_folder(name)
    weights = hash_folder(folder)
    return Model(str(name), folder, weights, out / weights / "models")


def tuned_first(model: Model, recipe: FinetuneRecipe, by: str, out: Path) -> Model:
    """The model after a suite's ``tune``, kept in ``out``; one that is tuned for embeddings already is as it was.

    by  what tables call the recipe
    """
    if (model.folder / "modules.json").is_file():
        log.info("%s is tuned for embeddings already (modules.json): it is not tuned by %s", model.name, by)
        return replace(model, tuned=TUNED_BEFORE)
    folder = tune_first(recipe, model.folder, model.weights, model.models, out / "pins.json")
    weights = hash_folder(folder)
    return Model(model.name, folder, weights, out / weights / "models", f"tuned by {by} first")


def untrained(model: Model, out: Path, seed: int = 0) -> Model:
    """The architecture and tokenizer of a model with fresh weights, in ``out/untrained/<hash of the model>``.

    Raises WeightsError for a model that is more than an encoder with a masked-LM head.
    """
    folder = out / UNTRAINED / model.weights
    if not folder.is_dir():
        loaded = load(model.folder, device="cpu", precision="fp32")
        if loaded.after:
            raise WeightsError(f"{model.folder} has modules behind pooling: take the pretrained model for {UNTRAINED}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = MaskedLM(loaded.config)
        with atomic_folder(folder) as partial:
            fresh.save(partial)
            loaded.tokenizer.save(partial, max_tokens=loaded.max_tokens)
        log.info("fresh weights of the same shape: %s", folder)
    weights = hash_folder(folder)
    return Model(UNTRAINED, folder, weights, out / weights / "models")
