"""One run of a sentence task: what sentence-transformers' four trainers have in common here.

The kinds (``embed``, ``rerank``, ``sparse``, ``late_interaction``) say in a :class:`TaskSpec` how their rows become columns,
what their loss is and what is measured; trainers, callbacks, checkpoints and DDP are the library's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers.base.model import BaseModel
from transformers import PrinterCallback, TrainerCallback

from mmbert.errors import ConfigError, TrainingError
from mmbert.files import environment
from mmbert.finetuning.callbacks import LastEvaluation, Patience, Progress, say_kept, tensorboard
from mmbert.finetuning.dry_run import say_small
from mmbert.finetuning.evaluators import CombinedEvaluator
from mmbert.finetuning.examples import read_splits
from mmbert.finetuning.finetune import CHECKPOINTS, FINAL, Trained, main_process, summarise
from mmbert.finetuning.language_batches import LanguageBatches
from mmbert.finetuning.mining import mine
from mmbert.finetuning.ranking_examples import Group, Texts, fields_of, judging_loss, make_groups
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_sentence import Sentences
from mmbert.finetuning.sampling import LanguageSampler
from mmbert.finetuning.sentence_adapters import AdapterCheckpoints, add_adapters
from mmbert.finetuning.sentence_folder import save_folder
from mmbert.finetuning.sentence_model import body_of, build_model, encoder_folder, pick_device, quiet
from mmbert.finetuning.trainer import SCHEDULES, last_checkpoint
from mmbert.model.config import ModelConfig
from mmbert.model.weights import load_config, model_folder
from mmbert.training.run_folder import choose_precision

log = logging.getLogger(__name__)

Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class TaskSpec:
    """What a kind of sentence task brings.

    trainer     sentence-transformers' class; ``arguments``: of its options
    options     the recipe's block; ``loss``: its name of the loss
    columns     of the training examples
    make_loss   of the model
    evaluators  of the examples of a split
    prompts     column -> text put before it in training
    """

    trainer: type[Any]
    arguments: type[Any]
    options: Sentences
    loss: str
    columns: Callable[[Sequence[Group]], Columns]
    make_loss: Callable[[BaseModel], torch.nn.Module]
    evaluators: Callable[[Sequence[Group]], list[Any]]
    prompts: Callable[[Columns], dict[str, str]]


def train_sentences(
    recipe: FinetuneRecipe, folder: Path, spec: TaskSpec, callbacks: Sequence[TrainerCallback]
) -> Trained:
    """Train as the recipe says, keep the best on dev, write ``folder/final``, measure it, and what it was before.

    callbacks  of the user, after ours
    """
    texts = Texts(spec.options.lookup)
    splits = {
        role: make_groups(examples, texts, spec.loss if role == "train" else judging_loss(spec.loss))
        for role, examples in read_splits(recipe, fields_of(recipe.task, spec.loss, texts)).items()
    }
    with quiet():
        if spec.options.mine is not None:
            with _arguments(recipe, folder, spec, False).main_process_first():  # the others read its file
                splits["train"] = mine(spec.options.mine, splits["train"], folder, pick_device(recipe))
        columns = spec.columns(splits["train"])
        languages = _languages(columns, splits["train"])
        rows = Dataset.from_dict(columns)
        args = _arguments(recipe, folder, spec, "dev" in splits)
        _plan_batches(recipe, spec, args, rows, languages)
        args.prompts = spec.prompts(columns) or None
        say_small(recipe, _config(recipe))
        model = build_model(recipe)
        add_adapters(recipe, model)
        measured = {
            role: CombinedEvaluator(spec.evaluators(groups), recipe.training.metric)
            for role, groups in splits.items()
            if role != "train"
        }
        before = {role: _measure(f"{role} before training", evaluator, model) for role, evaluator in measured.items()}
        trainer = _trainer(spec, recipe, folder, model, args, rows, measured.get("dev"), callbacks)
        trainer.train(resume_from_checkpoint=last_checkpoint(folder / CHECKPOINTS))
        say_kept(trainer.state, "score")
        after = {role: _measure(role, evaluator, model) for role, evaluator in measured.items()}
        chosen = after["dev"]["score"] if "dev" in after else None
        _check_best(trainer.state, chosen)
        if main_process():
            save_folder(model, recipe, folder / FINAL)
        trainer.accelerator.wait_for_everyone()
    return Trained({**after, **{f"{role}_before": found for role, found in before.items()}}, chosen, _history(trainer))


def _measure(what: str, evaluator: CombinedEvaluator, model: BaseModel) -> dict[str, float]:
    log.info("measuring on %s", what)
    found = evaluator.figures(model)
    log.info("%s: %s", what, summarise(found))
    return found


def column_prompts(columns: Columns, prompts: tuple[str, str]) -> dict[str, str]:
    """Column -> the text put before it: the query's for the first, the documents' for the others."""
    texts = [name for name in columns if name != "label"]
    found = {name: prompts[min(number, 1)] for number, name in enumerate(texts)}
    return {name: text for name, text in found.items() if text}


def _languages(columns: Columns, groups: Sequence[Group]) -> list[str]:
    """Of each row of the columns: one a group, or, where a group gives several rows, as the kind tells."""
    stated = columns.pop("language", None)
    return stated if stated is not None else [group.language for group in groups]


def _plan_batches(recipe: FinetuneRecipe, spec: TaskSpec, args: Any, rows: Dataset, languages: Sequence[str]) -> None:
    """Give the trainer our batches, and its evaluations their steps, which go by the number of batches there are."""
    processes = int(environment("WORLD_SIZE") or 1)
    make = partial(
        LanguageBatches,
        order=LanguageSampler(languages, recipe.sampling, recipe.training.seed, recipe.training.epochs),
        no_duplicates=spec.options.no_duplicates,
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


def _arguments(recipe: FinetuneRecipe, folder: Path, spec: TaskSpec, judged: bool) -> Any:
    """The trainer's options out of the recipe's, but for what depends on the number of batches."""
    training = recipe.training
    device = pick_device(recipe)
    processes = int(environment("WORLD_SIZE") or 1)
    share, left = divmod(training.batch, processes)
    micro = min(training.micro_batch or share, share)
    if left or share % micro:
        raise ConfigError(
            f"training.batch {training.batch} is not made of {processes} processes times micro-batches of {micro}"
        )
    precision = training.precision
    if precision == "auto":
        precision = choose_precision(torch.device(device), _config(recipe).hidden_size)
    return spec.arguments(
        output_dir=str(folder / CHECKPOINTS),
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=micro,
        gradient_accumulation_steps=share // micro,
        learning_rate=training.learning_rate,
        learning_rate_mapping=_learning_rates(recipe),
        weight_decay=training.weight_decay,
        warmup_steps=min(training.warmup, 0.9999),  # below 1 it is a share
        lr_scheduler_type=SCHEDULES[training.schedule],
        max_grad_norm=training.max_grad_norm,
        bf16=precision == "bf16",
        use_cpu=device == "cpu",
        seed=training.seed,
        eval_strategy="steps" if judged else "no",
        eval_steps=1 if judged else None,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=training.keep,
        load_best_model_at_end=judged,
        metric_for_best_model="eval_score" if judged else None,
        greater_is_better=True if judged else None,
        logging_steps=training.log_every,
        report_to="none",  # TensorBoard is added by hand, with its own folder
        disable_tqdm=True,
        dataloader_pin_memory=device == "cuda",
    )


def _learning_rates(recipe: FinetuneRecipe) -> dict[str, float]:
    """Pattern of names -> learning rate, where it is not ``training.learning_rate``."""
    training = recipe.training
    found = {}
    if training.layer_decay < 1:
        layers = _config(recipe).num_layers
        found = {
            rf"\.layers\.{index}\.": training.learning_rate * training.layer_decay ** (layers - index)
            for index in range(layers)
        }
        found[r"\.embeddings\."] = training.learning_rate * training.layer_decay ** (layers + 1)
    if training.head_learning_rate is not None and recipe.task == "rerank":
        found[r"\.(head|classifier)\."] = training.head_learning_rate
    if training.head_learning_rate is not None and recipe.task == "late_interaction":
        found[r"\.linear\."] = training.head_learning_rate
    if recipe.task == "embed" and recipe.embed.mix_layers:
        found["layer_weights"] = recipe.embed.mix_learning_rate
    return found


def _config(recipe: FinetuneRecipe) -> ModelConfig:
    return load_config(encoder_folder(model_folder(recipe.model, revision=recipe.model_revision)))


def _trainer(
    spec: TaskSpec,
    recipe: FinetuneRecipe,
    folder: Path,
    model: BaseModel,
    args: Any,
    rows: Dataset,
    dev: CombinedEvaluator | None,
    callbacks: Sequence[TrainerCallback],
) -> Any:
    patience = recipe.training.patience
    model.model_card_data.widget = [{"text": rows[0]["query"]}]  # the library's own choice draws a bar
    body_of(model).base.gradient_checkpointing = recipe.training.gradient_checkpointing
    maker = spec.trainer
    if recipe.training.lora is not None:
        maker = type(maker.__name__, (AdapterCheckpoints, maker), {})
    trainer = maker(
        model=model,
        args=args,
        train_dataset=rows,
        loss=spec.make_loss(model),
        evaluator=dev,
        callbacks=[Patience(patience)] if patience is not None and dev is not None else [],
    )
    trainer.remove_callback(PrinterCallback)  # which prints on stdout
    curves = tensorboard(folder / "tensorboard") if main_process() else None
    for callback in (LastEvaluation(dev is not None), Progress(recipe.name), curves, *callbacks):
        if callback is not None:
            trainer.add_callback(callback)
    return trainer


def _check_best(state: Any, chosen: float | None) -> None:
    """The library goes on with the last model, and a line in a log, where it cannot load the best one."""
    if chosen is not None and state.best_metric is not None and abs(chosen - state.best_metric) > 0.02:
        raise TrainingError(
            f"the best checkpoint scored {state.best_metric:.4f} on dev, the model loaded from it {chosen:.4f}: "
            f"{state.best_model_checkpoint} is damaged; remove it and run this again"
        )


def _history(trainer: Any) -> list[dict[str, Any]]:
    """The trainer's log lines."""
    return [dict(line) for line in trainer.state.log_history]
