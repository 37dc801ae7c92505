"""The model that a task starts from: the encoder of any folder, and as much of its head as fits.

As ``transformers`` does it (``from_pretrained`` with ``ignore_mismatched_sizes``): the head's dense layer and norm are
taken from a masked language model or from another task; the classifier only where kind and labels are the same.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from mmbert.errors import TokenizerError
from mmbert.files import read_json
from mmbert.finetuning.dry_run import warn_small_model
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.model.encoder import Encoder
from mmbert.model.folder import read_labels
from mmbert.model.tasks import ChoiceClassifier, SpanClassifier, TaskModel
from mmbert.model.weights import load_state, model_folder
from mmbert.tokenizer.tokenizer import Tokenizer

log = logging.getLogger(__name__)

Kind = TypeVar("Kind", bound=TaskModel)


@dataclass(frozen=True)
class Start:
    """What a run starts with.

    task        the model, its fresh parts drawn from torch's global generator
    names       of its classes, in the order of its classifier
    max_tokens  longest sequence in training: the recipe's, or the model's where that is less
    """

    task: TaskModel
    tokenizer: Tokenizer
    names: tuple[str, ...]
    max_tokens: int


def load_start(
    recipe: FinetuneRecipe, kind: type[TaskModel], names: Sequence[str], pooling: str | None, begin: Path | None = None
) -> Start:
    """Return the recipe's model with a head for these classes. Raises WeightsError or TokenizerError.

    begin  the folder to begin with (``start_folder``); None: that of the recipe's model
    """
    folder = model_folder(recipe.model, revision=recipe.model_revision) if begin is None else begin
    tokenizer = Tokenizer.load(folder)
    torch.manual_seed(recipe.training.seed)
    encoder = Encoder.load(folder)
    warn_small_model(recipe.training, encoder.config)
    if tokenizer.vocab_size > encoder.config.vocab_size:
        raise TokenizerError(
            f"the tokenizer of {folder} has {tokenizer.vocab_size} tokens, its model rows for "
            f"{encoder.config.vocab_size}: not its tokenizer"
        )
    task = kind(encoder, len(names), pooling=pooling, dropout=recipe.training.dropout)
    name = recipe.model if recipe.student is None and recipe.trim is None else str(folder)
    kept = _take_head(task, load_state(folder), read_json(folder / "config.json"), tuple(names), name)
    return Start(task, tokenizer, kept, min(recipe.training.max_tokens, encoder.config.max_context))


def _take_head(
    task: TaskModel, state: dict[str, Tensor], config: dict[str, object], names: tuple[str, ...], model: str
) -> tuple[str, ...]:
    """Give the task what fits of a folder's head; the names of its classes in the order that then holds."""
    own = task.state_dict()
    shared: list[str] = [
        name
        for name in ("head.dense.weight", "head.norm.weight")
        if name in state and own[name].shape == state[name].shape
    ]
    if len(shared) == 2:
        _copy(task, state, shared)
    order = _same_classes(task, config, names, model)
    fits = all(name in state and own[name].shape == state[name].shape for name in own if name.startswith("classifier."))
    if order is not None and fits:
        _copy(task, state, [name for name in own if name.startswith("classifier.")])
        log.info("%s: encoder and head taken over", model)
        return order
    part = "encoder, dense layer and norm of the head" if len(shared) == 2 else "encoder"
    log.info("%s: %s taken over; the classifier (%d classes) is fresh", model, part, len(names))
    return names


def _same_classes(
    task: TaskModel, config: dict[str, object], names: tuple[str, ...], model: str
) -> tuple[str, ...] | None:
    """Return the classes in the folder's order, if it is of this kind and has the same ones."""
    if config.get("architectures") != [task.architecture]:
        return None
    if isinstance(task, SpanClassifier | ChoiceClassifier):
        return names
    order = tuple(read_labels(config, f"{model}: config.json").values())
    return order if sorted(order) == sorted(names) else None


@torch.no_grad()
def _copy(task: TaskModel, state: dict[str, Tensor], names: Sequence[str]) -> None:
    for name in names:
        task.get_parameter(name).copy_(state[name])
