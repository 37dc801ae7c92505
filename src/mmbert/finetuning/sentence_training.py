"""One run of a sentence task: what sentence-transformers' four trainers have in common here.

``sentence_tasks.SPECS`` says in what the tasks differ; trainers, checkpoints and DDP are the library's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers.base.model import BaseModel
from transformers import PrinterCallback, TrainerCallback

from mmbert.errors import ConfigError, TrainingError
from mmbert.files import is_main_process, world_size
from mmbert.finetuning.adapters import add_lora, load_trained, save_trained
from mmbert.finetuning.callbacks import last_checkpoint, log_kept, run_callbacks
from mmbert.finetuning.card import tuned_card
from mmbert.finetuning.dry_run import warn_small_model
from mmbert.finetuning.evaluators import CombinedEvaluator, make_evaluators, rank_candidates
from mmbert.finetuning.examples import read_splits
from mmbert.finetuning.figures import summarise
from mmbert.finetuning.finetune import CHECKPOINTS, FINAL, FinetuneResult
from mmbert.finetuning.language_batches import LanguageBatches
from mmbert.finetuning.mining import mine
from mmbert.finetuning.muon import MuonAdamW, matrices_of_layers
from mmbert.finetuning.ranking_examples import Group, Texts, fields_of, group_splits, training_columns
from mmbert.finetuning.recipe import FinetuneRecipe, Lora
from mmbert.finetuning.sampling import LanguageSampler
from mmbert.finetuning.sentence_folder import save_folder
from mmbert.finetuning.sentence_model import body_of, build_model, encoder_folder, encoder_of, quiet
from mmbert.finetuning.sentence_tasks import SPECS, make_loss
from mmbert.finetuning.start_folder import start_folder
from mmbert.finetuning.teacher_pairs import taught_columns
from mmbert.finetuning.trainer_arguments import learning_rates, training_arguments
from mmbert.model.config import ModelConfig
from mmbert.model.weights import load_config
from mmbert.training.distributed import pick_device

log = logging.getLogger(__name__)


def train(recipe: FinetuneRecipe, folder: Path, callbacks: Sequence[TrainerCallback] = ()) -> FinetuneResult:
    """Train as the recipe says, keep the best on dev, write ``folder/final``, measure it, and what it was before.

    callbacks  of the user, after ours
    """
    options, task = recipe.options, recipe.task
    texts = Texts(options.lookup)
    taught = recipe.teacher is not None
    rows_of = read_splits(recipe, fields_of(task, options.loss, texts, taught=taught))
    splits = group_splits(rows_of, texts, options.loss, taught=taught)
    words = (text for group in splits["train"] for text in (group.query, *group.documents))
    begin = start_folder(recipe, folder, words)
    config = load_config(encoder_folder(begin))
    with quiet():
        args = sentence_arguments(recipe, folder, config, dev="dev" in splits)
        if options.mine is not None:
            with args.main_process_first():  # the others read its file
                device = pick_device(recipe.training.device, "training.device")
                splits["train"] = mine(options.mine, splits["train"], folder, device)
        if taught:
            columns = taught_columns(recipe, folder, splits["train"])
        else:
            columns = training_columns(task, options.loss, splits["train"], options.negatives)
        # a group may give several rows, of which each then states its language
        languages = columns.pop("language", None) or [group.language for group in splits["train"]]
        rows = Dataset.from_dict(columns)
        plan_batches(recipe, args, rows, languages)
        args.prompts = _column_prompts(columns, options) or None
        warn_small_model(recipe.training, config)
        model = build_model(recipe, begin)
        if recipe.training.lora is not None:
            _add_adapters(model, task, recipe.training.lora)
        measured = {
            role: CombinedEvaluator(_evaluators(recipe, groups), recipe.training.metric)
            for role, groups in splits.items()
            if role != "train"
        }
        before = {role: measure(f"{role} before training", evaluator, model) for role, evaluator in measured.items()}
        loss = make_loss(recipe, model)
        trainer = make_trainer(recipe, folder, model, loss, args, rows, measured.get("dev"), callbacks)
        trainer.train(resume_from_checkpoint=last_checkpoint(folder / CHECKPOINTS))
        log_kept(trainer.state, "score")
        after = {role: measure(role, evaluator, model) for role, evaluator in measured.items()}
        chosen = after["dev"]["score"] if "dev" in after else None
        check_best(trainer.state, chosen)
        metrics = {**after, **{f"{role}_before": found for role, found in before.items()}}
        if is_main_process():
            # a whole model has the library's own card
            card = tuned_card(recipe, metrics, len(rows), languages, ()) if recipe.writes_adapter else None
            save_folder(model, task, folder / FINAL, card, recipe if recipe.writes_adapter else None)
        trainer.accelerator.wait_for_everyone()
    return FinetuneResult(folder / FINAL, metrics, chosen, [dict(line) for line in trainer.state.log_history])


def _add_adapters(model: BaseModel, task: str, lora: Lora) -> None:
    if not lora.merge and body_of(model).mix is not None:
        raise ConfigError(
            "training.lora.merge false: libraries that read adapters take the last layer alone, and this model pools a "
            "mix of all: leave out merge"
        )
    inner = encoder_of(model)
    add_lora(inner.model if task == "rerank" else inner, lora)  # a reranker's head trains too


def _evaluators(recipe: FinetuneRecipe, groups: Sequence[Group]) -> list[Any]:
    measures, options = SPECS[recipe.task].measures, recipe.options
    if measures is None:
        return rank_candidates(groups, options.candidates)
    return make_evaluators(groups, options.evaluator, measures, prompts=any(options.prompts.values()))


def measure(what: str, evaluator: CombinedEvaluator, model: BaseModel) -> dict[str, float]:
    """Return the figures of a split, by name; a log line says the most important."""
    log.info("measuring on %s", what)
    found = evaluator.figures(model)
    log.info("%s: %s", what, summarise(found))
    return found


def _column_prompts(columns: dict[str, list[Any]], options: Any) -> dict[str, str]:
    """Return column -> the text put before it: the query's for the first, the documents' for the others."""
    prompts = list(options.prompts.values()) or ["", ""]
    texts = [name for name in columns if name != "label"]
    return {name: text for number, name in enumerate(texts) if (text := prompts[min(number, 1)])}


def plan_batches(
    recipe: FinetuneRecipe, args: Any, rows: Dataset, languages: Sequence[str], lengths: Sequence[int] | None = None
) -> None:
    """Give the trainer our batches, and its evaluations their steps, which depend on the number of batches.

    lengths  of each row, where a batch shall have rows of similar length
    """
    processes = world_size()
    make = partial(
        LanguageBatches,
        order=LanguageSampler(languages, recipe.sampling, recipe.training.seed, recipe.training.epochs),
        no_duplicates=getattr(recipe.options, "no_duplicates", False),
        lengths=lengths,
        processes=processes,
    )
    args.batch_sampler = make
    args.dataloader_drop_last = False  # the library sets it for DDP; our batches are as many for every process
    size = args.per_device_train_batch_size
    count, least = len(make(rows, size, False)), -(-len(rows) // size)
    if count > least + processes:
        log.info(
            "%d batches an epoch instead of %d, and smaller ones: no text may come twice in a batch, and one comes in "
            "many rows. Remove such rows, or set %s.no_duplicates=false", count, least, recipe.task,
        )  # fmt: skip
    steps = -(-count // (processes * args.gradient_accumulation_steps))
    args.save_steps = max(1, round(steps * recipe.training.eval_every))
    if args.eval_steps is not None:
        args.eval_steps = args.save_steps


def sentence_arguments(recipe: FinetuneRecipe, folder: Path, config: ModelConfig, *, dev: bool) -> Any:
    """Return the trainer's arguments, but for what depends on the number of batches."""
    spec = SPECS[recipe.task]
    rates = learning_rates(recipe.training, config.num_layers, spec.head)
    if recipe.task == "embed" and recipe.embed.mix_layers:
        rates["layer_weights"] = recipe.embed.mix_learning_rate
    metric = "eval_score" if dev else None
    return training_arguments(
        spec.arguments, recipe.training, folder, config.hidden_size, metric=metric, learning_rate_mapping=rates,
        ddp_find_unused_parameters=recipe.task != "distil",  # a student uses all of its weights
    )  # fmt: skip


class _TrainedCheckpoints:
    """Put before a trainer class of sentence-transformers: its checkpoints then hold the weights that train."""

    model: Any

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None, "checkpoints have a folder"
        save_trained(self.model, Path(output_dir))

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        load_trained(self.model, Path(checkpoint_path))


class _ByMuon:
    """Put before such a class: matrices of the layers are moved by Muon."""

    model: Any
    optimizer: Any

    def create_optimizer(self, *model: Any) -> Any:
        if self.optimizer is None:
            adamw = super().create_optimizer(*model)  # type: ignore[misc]
            self.optimizer = MuonAdamW(adamw, matrices_of_layers(self.model))
        return self.optimizer


def make_trainer(
    recipe: FinetuneRecipe,
    folder: Path,
    model: BaseModel,
    loss: torch.nn.Module,
    args: Any,
    rows: Dataset,
    dev: Any,
    callbacks: Sequence[Any],
) -> Any:
    """Return sentence-transformers' trainer of a task, with our callbacks.

    Where some weights are frozen, its checkpoints hold the others alone.
    """
    model.model_card_data.widget = [{"text": rows[0][rows.column_names[0]]}]  # the library's own choice draws a bar
    body_of(model).base.gradient_checkpointing = recipe.training.gradient_checkpointing
    kind = SPECS[recipe.task].trainer
    if not all(parameter.requires_grad for parameter in model.parameters()):
        kind = type(kind.__name__, (_TrainedCheckpoints, kind), {})
    if recipe.training.optimizer == "muon":
        kind = type(kind.__name__, (_ByMuon, kind), {})
    trainer = kind(
        model=model, args=args, train_dataset=rows, loss=loss, evaluator=dev,
        callbacks=run_callbacks(recipe, folder, callbacks, dev=dev is not None),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)  # it prints on stdout
    return trainer


def check_best(state: Any, chosen: float | None) -> None:
    """Raise TrainingError if the library could not load the best model: it then goes on with the last one."""
    if chosen is not None and state.best_metric is not None and abs(chosen - state.best_metric) > 0.02:
        raise TrainingError(
            f"the best checkpoint scored {state.best_metric:.4f} on dev, the model loaded from it {chosen:.4f}: "
            f"{state.best_model_checkpoint} is damaged; remove it and run this again"
        )
