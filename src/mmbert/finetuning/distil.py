"""``distil``: a student that learns the vectors of a teacher, any sentence encoder, from texts alone.

A run's folder has, beside what every run has (``finetune``):

    texts.jsonl, texts.json     the texts of the run, and how they were chosen (``distil_texts``)
    teacher/                    the teacher's vectors of them (``teacher_vectors``)
    student/                    what the run begins with, if that was made for it (``student``)

Each of them is made once; a run that was stopped goes on behind what is complete. Reimers and Gurevych (2004.09813)
train a student the same way, with the vectors of a sentence for its translations too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor
from transformers import TrainerCallback

from mmbert.errors import ConfigError
from mmbert.files import is_main_process, wait_for_main
from mmbert.finetuning.callbacks import last_checkpoint, log_kept
from mmbert.finetuning.card import distilled_card
from mmbert.finetuning.distil_losses import DistilLoss, Targets, TokenTargets, make_targets
from mmbert.finetuning.distil_texts import ChosenTexts, prepare_texts
from mmbert.finetuning.dry_run import warn_small_model
from mmbert.finetuning.evaluators import DENSE, CombinedEvaluator, make_evaluators
from mmbert.finetuning.examples import read_examples
from mmbert.finetuning.finetune import CHECKPOINTS, FINAL, FinetuneResult
from mmbert.finetuning.ranking_examples import Texts, fields_of, make_groups
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_sentence import Embed, Lookup, early_layers
from mmbert.finetuning.sentence_folder import save_folder
from mmbert.finetuning.sentence_model import body_of, dense_model, encoder_folder, encoder_of, quiet
from mmbert.finetuning.sentence_tasks import LayersLoss
from mmbert.finetuning.sentence_training import check_best, make_trainer, measure, plan_batches, sentence_arguments
from mmbert.finetuning.student import is_made, student_folder
from mmbert.finetuning.teacher import open_teacher, stated_licence
from mmbert.finetuning.teacher_vectors import import_vectors, is_complete, remove_tokens, teacher_vectors
from mmbert.model.weights import load_config
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.training.distributed import pick_device

log = logging.getLogger(__name__)

BATCH = 64
"""Held-out texts per forward pass."""


def train(recipe: FinetuneRecipe, folder: Path, callbacks: Sequence[TrainerCallback] = ()) -> FinetuneResult:
    """Choose texts, compute the teacher's vectors, train the student, keep the best, write ``folder/final``.

    callbacks  of the user, after ours
    """
    options, device = recipe.distil, pick_device(recipe.training.device, "training.device")
    licence = stated_licence(options)
    log.info("teacher %s: licence %s", options.teacher or options.vectors, licence or "not stated")
    # The others then read what the main process has made.
    wait_for_main(lambda: is_complete(folder) and (recipe.student is None or is_made(folder)))
    with quiet():
        if options.vectors is not None:
            import_vectors(options, recipe.training.seed, folder)
        start = student_folder(recipe, folder)
        tokenizer = Tokenizer.load(encoder_folder(start))
        texts = prepare_texts(options, recipe.training.seed, folder, tokenizer.token_texts)
        ids = [_with_ends(tokenizer, bare) for bare in tokenizer.encode_batch(texts.texts)]
        taught = ids if _learns_tokens(recipe) else None
        vectors = teacher_vectors(
            texts, folder, lambda: open_teacher(options, device), taught, required=bool(options.tokens)
        )
        config = load_config(encoder_folder(start))
        warn_small_model(recipe.training, config)
        targets = make_targets(vectors.texts, texts.training, options, config.hidden_size)
        model = _student(recipe, start, targets.width).to(device)
        evaluators = _evaluators(recipe, texts, targets)
        dev = (
            CombinedEvaluator(evaluators, recipe.training.metric or evaluators[0].primary_metric)
            if evaluators
            else None
        )
        args = sentence_arguments(recipe, folder, config, dev=dev is not None)
        rows = Dataset.from_dict({"text": texts.texts[: texts.training], "label": list(range(texts.training))})
        lengths = [len(own) for own in ids]
        plan_batches(recipe, args, rows, texts.languages[: texts.training], lengths[: texts.training])
        before = {} if dev is None else measure("dev before training", dev, model)
        parts = None
        if vectors.tokens is not None:
            parts = TokenTargets(vectors.tokens, np.cumsum([0, *lengths]), targets)
        loss: torch.nn.Module = DistilLoss(model, targets, options, parts)
        if options.layers:
            loss = LayersLoss(loss, body_of(model))
        trainer = make_trainer(recipe, folder, model, loss, args, rows, dev, callbacks)
        trainer.train(resume_from_checkpoint=last_checkpoint(folder / CHECKPOINTS))
        log_kept(trainer.state, "score")
        after = {} if dev is None else measure("dev", dev, model)
        chosen = after.get("score")
        check_best(trainer.state, chosen)
        metrics = {"dev": after, "dev_before": before} if dev is not None else {}
        if is_main_process():
            card = distilled_card(recipe, metrics, texts.languages[: texts.training], licence)
            save_folder(model, "embed", folder / FINAL, card)
            remove_tokens(folder)
        trainer.accelerator.wait_for_everyone()
    return FinetuneResult(folder / FINAL, metrics, chosen, [dict(line) for line in trainer.state.log_history])


def _learns_tokens(recipe: FinetuneRecipe) -> bool:
    """Return whether the teacher is asked for vectors of tokens."""
    options, student = recipe.distil, recipe.student
    if options.tokens is not None:
        return options.tokens > 0
    fresh = student is not None and student.keep is None and recipe.model == options.teacher
    return fresh and options.endpoint is None and options.vectors is None


def _with_ends(tokenizer: Tokenizer, bare: np.ndarray) -> np.ndarray:
    return np.concatenate([[tokenizer.bos_id], bare, [tokenizer.eos_id]]).astype(np.uint32)


def _student(recipe: FinetuneRecipe, start: Path, width: int) -> SentenceTransformer:
    """Return the model that is trained: vectors of unit length with the width of the targets.

    Raises ConfigError where they cannot have that width.
    """
    options = recipe.distil
    model = dense_model(recipe.model, start, Embed(), recipe.training.max_tokens)
    if options.documents > 1 and not any(isinstance(part, Pooling) and part.pooling_mode == "mean" for part in model):
        raise ConfigError(f"distil.documents takes the mean of a text's tokens, and {recipe.model} does not pool so")
    own = model.get_embedding_dimension()
    project = own != width if options.projection is None else options.projection
    if own != width and not project:
        raise ConfigError(f"distil.projection false: the student's vectors have {own} dimensions, the targets {width}")
    modules = [module for module in model.children() if not isinstance(module, Normalize)]
    if project:
        # Without a bias, like the axes of the targets: a bias would be the same for all texts.
        torch.manual_seed(recipe.training.seed)
        dense = Dense(own, width, bias=False, activation_function=torch.nn.Identity())
        torch.nn.init.orthogonal_(dense.linear.weight)
        modules.append(dense)
    if options.loss == "cosine":
        modules.append(Normalize())
    body = body_of(model)
    model = SentenceTransformer(modules=modules, device="cpu", prompts=model.prompts)
    body.layers = early_layers("distil", options.layers, body.encoder.config.num_layers)
    learned = recipe.student is None or recipe.student.keep is not None
    if not (learned if options.train_embeddings is None else options.train_embeddings):
        encoder_of(model).embeddings.tok_embeddings.weight.requires_grad_(False)
    return model


class TeacherSimilarity(BaseEvaluator):  # type: ignore[misc, unused-ignore]
    """The mean cosine of a student's vectors to the targets of held-out texts, over languages and over all texts."""

    def __init__(self, texts: Sequence[str], languages: Sequence[str], targets: Tensor) -> None:
        super().__init__()
        self._texts, self._languages, self._targets = list(texts), list(languages), targets
        self.primary_metric = "cosine"

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Return ``cosine``, the mean over texts, and ``languages_cosine``, the mean over languages."""
        found = model.encode(self._texts, batch_size=BATCH, convert_to_tensor=True, show_progress_bar=False)
        cosines = torch.cosine_similarity(found.float().cpu(), self._targets).tolist()
        by_language: dict[str, list[float]] = {}
        for language, cosine in zip(self._languages, cosines, strict=True):
            by_language.setdefault(language, []).append(cosine)
        means = [sum(values) / len(values) for values in by_language.values()]
        return {"cosine": sum(cosines) / len(cosines), "languages_cosine": sum(means) / len(means)}


def _evaluators(recipe: FinetuneRecipe, texts: ChosenTexts, targets: Targets) -> list[Any]:
    """Return what is measured while training: the similarity to the teacher, and retrieval of translations if given."""
    found: list[Any] = []
    if texts.heldout:
        aside = slice(texts.training, len(texts.texts))
        found.append(TeacherSimilarity(texts.texts[aside], texts.languages[aside], targets(aside)))
    spec = recipe.data.split("dev")
    if spec is not None:
        lookup = Texts(Lookup())
        groups = make_groups(
            read_examples(spec, "dev", fields_of("embed", "contrastive", lookup)), lookup, "contrastive"
        )
        found += make_evaluators(groups, "translation", DENSE, prompts=False)
    return found
