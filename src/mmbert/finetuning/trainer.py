"""``transformers.Trainer`` on packed batches, and one function that runs it from a recipe.

The trainer is the field's own: callbacks, checkpoints, TensorBoard, early stopping, DDP by ``torchrun`` and resuming
are its. Some things are ours, each where it offers a place for them: the order of examples (``_get_train_sampler``),
groups of parameters (``create_optimizer``), what an evaluation gathers (``prediction_step``), and, with LoRA, which
weights of a checkpoint are gone on with (``_load_from_checkpoint``, ``_load_best_model``). Batches and losses are the
collator's and the model's.

Where the trainer stands in the way of packing: it counts a batch by the rows of its first tensor, so ``lengths`` comes
first; it puts the logits of batches under one another and gathers them over processes, so answers for tokens are laid
out as one row an example, on the way out only (``mmbert.finetuning.collate``), and flat labels stay where they are.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from mmbert.errors import ConfigError, UndefinedMetric
from mmbert.files import atomic_folder, environment, write_text
from mmbert.finetuning.callbacks import LastEvaluation, Patience, Progress, say_kept, tensorboard
from mmbert.finetuning.card import tuned_card
from mmbert.finetuning.collate import Feature, collate
from mmbert.finetuning.finetune import CHECKPOINTS, FINAL, Trained, main_process, summarise
from mmbert.finetuning.packed_model import ADAPTERS, PackedModel, add_lora
from mmbert.finetuning.param_groups import parameter_groups
from mmbert.finetuning.recipe import FinetuneRecipe, Training
from mmbert.finetuning.sampling import LanguageSampler
from mmbert.finetuning.task_rows import check_metric
from mmbert.training.run_folder import choose_precision

log = logging.getLogger(__name__)

Score = Callable[[str, Any], dict[str, float]]
"""(role, predictions of its examples in order) -> name -> number."""

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup", "inverse_sqrt": "inverse_sqrt"}


class PackedTrainer(Trainer):  # type: ignore[misc]
    """The trainer with our order of examples and our groups of parameters.

    order   the sampler of the training examples
    wanted  the recipe's ``training``
    """

    def __init__(self, *positional: Any, order: LanguageSampler, wanted: Training, **named: Any) -> None:
        super().__init__(*positional, **named)
        self._order, self._wanted = order, wanted
        self.optimizer: Any

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self._order

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None) -> Any:
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if labels is not None and logits is not None:
            labels = labels.new_zeros(len(logits))  # the score knows them: flat ones cannot be gathered over processes
        return loss, logits, labels

    def create_optimizer(self, model: Any = None) -> Any:
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = kind(parameter_groups(self.model, self._wanted), **options)
        return self.optimizer

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self._load_adapters(Path(resume_from_checkpoint)):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if not self._load_adapters(Path(self.state.best_model_checkpoint)):
            super()._load_best_model()

    def _load_adapters(self, checkpoint: Path) -> bool:
        """Take adapters and head of a checkpoint with LoRA: its own weights are merged ones."""
        if not (checkpoint / ADAPTERS).is_file():
            return False
        self.model.load_state_dict(load_file(checkpoint / ADAPTERS), strict=False)
        return True


def fit(
    recipe: FinetuneRecipe,
    folder: Path,
    model: PackedModel,
    data: Mapping[str, Sequence[Feature]],
    languages: Sequence[str],
    score: Score,
    metric: str,
    callbacks: Sequence[TrainerCallback] = (),
) -> Trained:
    """Train on ``data["train"]``, choose by ``metric`` on dev, score test, and write ``folder/final``.

    languages  of the training features
    metric     what decides unless the recipe names another
    callbacks  of the user, after ours
    """
    wanted = recipe.training
    metric = wanted.metric or metric
    if wanted.lora is not None:
        lora = wanted.lora
        add_lora(model, lora.rank, lora.alpha, lora.dropout, lora.targets)
    if wanted.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    arguments = _arguments(recipe, folder, model, len(data["train"]), metric, judged="dev" in data)
    judging = {"role": "dev"}
    trainer = PackedTrainer(
        model=model,
        args=arguments,
        train_dataset=data["train"],
        eval_dataset=data.get("dev"),
        data_collator=collate,
        compute_metrics=lambda found: _measure(score, judging["role"], found.predictions, metric),
        callbacks=[*_callbacks(recipe, folder, judged="dev" in data), *callbacks],
        order=LanguageSampler(languages, recipe.sampling, wanted.seed, wanted.epochs),
        wanted=wanted,
    )
    trainer.remove_callback(PrinterCallback)
    check_metric(metric, getattr(score, "names", (metric,)))
    trainer.train(resume_from_checkpoint=last_checkpoint(folder / CHECKPOINTS))
    say_kept(trainer.state, metric)
    metrics, chosen = _best(trainer.state.log_history, metric, judged="dev" in data)
    if "test" in data:
        judging["role"] = "test"
        trainer.remove_callback(Patience)  # it would miss its metric of dev here, and say so
        found = trainer.evaluate(data["test"], metric_key_prefix="test")
        metrics["test"] = _numbers(found, "test_")
        log.info("test: %s", summarise(metrics["test"]))
    if main_process():
        with atomic_folder(folder / FINAL) as partial:
            model.save_pretrained(partial)
            card = tuned_card(recipe, metrics, len(data["train"]), languages, model.names)
            write_text(partial / "README.md", card)
    trainer.accelerator.wait_for_everyone()
    return Trained(metrics, chosen, trainer.state.log_history)


def _arguments(
    recipe: FinetuneRecipe, folder: Path, model: PackedModel, examples: int, metric: str, *, judged: bool
) -> TrainingArguments:
    wanted = recipe.training
    world = int(environment("WORLD_SIZE") or 1)
    if wanted.batch % world or (wanted.micro_batch and wanted.batch // world % wanted.micro_batch):
        raise ConfigError(
            f"training.batch {wanted.batch} is not a multiple of {world} processes times "
            f"training.micro_batch {wanted.micro_batch or 1}: change one of them"
        )
    micro = wanted.micro_batch or wanted.batch // world
    steps = -(-examples // wanted.batch)
    every = max(1, round(wanted.eval_every * steps))
    cpu = wanted.device == "cpu" or not torch.cuda.is_available()
    if wanted.device == "cuda" and cpu:
        raise ConfigError("training.device is cuda, and there is none: set it to auto or cpu")
    precision = wanted.precision
    if precision == "auto":
        precision = choose_precision(torch.device("cpu" if cpu else "cuda"), model.model.config.hidden_size)
    arguments = TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        num_train_epochs=wanted.epochs,
        max_steps=wanted.max_steps or -1,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=wanted.batch // world // micro,
        per_device_eval_batch_size=max(micro, 32),
        learning_rate=wanted.learning_rate,
        weight_decay=wanted.weight_decay,
        warmup_steps=min(wanted.warmup, 0.9999),  # below 1 it is a share
        lr_scheduler_type=SCHEDULES[wanted.schedule],
        max_grad_norm=wanted.max_grad_norm,
        bf16=precision == "bf16",
        use_cpu=cpu,
        seed=wanted.seed,
        eval_strategy="steps" if judged else "no",
        eval_steps=every if judged else None,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=wanted.keep,
        load_best_model_at_end=judged,
        metric_for_best_model=metric if judged else None,
        greater_is_better=True if judged else None,
        logging_steps=wanted.log_every,
        report_to="none",  # TensorBoard is added by hand, with its own folder
        disable_tqdm=True,  # its bars write to stdout
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=not cpu,
        ddp_find_unused_parameters=False,
    )
    if arguments.n_gpu > 1:
        log.info("one of %d devices is used: start with torchrun --nproc-per-node to use all", arguments.n_gpu)
        arguments._n_gpu = 1  # torch's DataParallel, which the trainer would take, splits packed batches
    return arguments


def _callbacks(recipe: FinetuneRecipe, folder: Path, *, judged: bool) -> list[TrainerCallback]:
    wanted = recipe.training
    found: list[TrainerCallback] = [LastEvaluation(judged), Progress(recipe.name)]
    if wanted.patience is not None:
        found.append(Patience(wanted.patience))
    curves = tensorboard(folder / "tensorboard") if main_process() else None
    return found if curves is None else [*found, curves]


def last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint to go on from; one that was cut off while it was written is removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    while found:
        newest = found.pop()
        if (newest / "trainer_state.json").is_file():  # the trainer writes it last
            log.info("going on from %s", newest)
            return str(newest)
        if main_process():
            shutil.rmtree(newest)
    return None


def _measure(score: Score, role: str, predictions: Any, metric: str) -> dict[str, float]:
    """The metrics of a split. Raises UndefinedMetric where the one that decides has no value on dev."""
    found = score(role, predictions)
    if role == "dev" and metric not in found:
        raise UndefinedMetric(
            f"{metric}, which decides, has no value on data.dev: its gold labels are all alike, or there are none; "
            f"give other examples, or set training.metric to one of {', '.join(found)}"
        )
    return found


def _best(
    history: list[dict[str, Any]], metric: str, *, judged: bool
) -> tuple[dict[str, dict[str, float]], float | None]:
    """What was measured on dev when the chosen checkpoint was written."""
    lines = [line for line in history if f"eval_{metric}" in line]
    if not judged or not lines:
        return {}, None
    best = max(lines, key=lambda line: float(line[f"eval_{metric}"]))
    return {"dev": _numbers(best, "eval_")}, float(best[f"eval_{metric}"])


def _numbers(line: dict[str, Any], prefix: str) -> dict[str, float]:
    """The metrics in a log line, without what the trainer says of speed."""
    speed = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
    found = {key.removeprefix(prefix): float(value) for key, value in line.items() if key.startswith(prefix)}
    return {key: value for key, value in found.items() if key not in speed}
