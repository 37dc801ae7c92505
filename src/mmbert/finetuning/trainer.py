"""``transformers.Trainer`` on packed batches, and one function that runs it from a recipe.

The library provides callbacks, checkpoints, TensorBoard, early stopping, DDP by ``torchrun`` and resuming. We override
methods that it has for this: the order of examples (``_get_train_sampler``), groups of parameters
(``create_optimizer``), what an evaluation gathers (``prediction_step``), and, with LoRA, which weights of a checkpoint
are loaded (``_load_from_checkpoint``, ``_load_best_model``). The collator makes batches and the model has the loss.

Packing has to fit the trainer in two places. It takes the rows of the first tensor for the size of a batch, so
``lengths`` comes first. It concatenates the logits of batches and gathers them over processes, so predictions of tokens
are padded to one row an example, in evaluation only (``mmbert.finetuning.collate``), and flat labels are not gathered.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from mmbert.errors import UndefinedMetric
from mmbert.files import atomic_folder, is_main_process, write_text
from mmbert.finetuning.adapters import ADAPTERS, adapter_state, add_lora, load_trained, make_adapter
from mmbert.finetuning.callbacks import Patience, last_checkpoint, log_kept, run_callbacks
from mmbert.finetuning.card import tuned_card
from mmbert.finetuning.collate import Feature, collate
from mmbert.finetuning.figures import summarise
from mmbert.finetuning.finetune import CHECKPOINTS, FINAL, FinetuneResult
from mmbert.finetuning.muon import MuonAdamW, matrices_of_layers
from mmbert.finetuning.packed_model import PackedModel
from mmbert.finetuning.recipe import FinetuneRecipe, Training
from mmbert.finetuning.sampling import LanguageSampler
from mmbert.finetuning.scores import SplitScores
from mmbert.finetuning.trainer_arguments import parameter_groups, training_arguments

log = logging.getLogger(__name__)


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
            self.optimizer = kind(parameter_groups(self.model, self._wanted, len(self.model.model.layers)), **options)
            if self._wanted.optimizer == "muon":
                self.optimizer = MuonAdamW(self.optimizer, matrices_of_layers(self.model))
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
        load_trained(self.model, checkpoint)
        return True


def fit(
    recipe: FinetuneRecipe,
    folder: Path,
    model: PackedModel,
    data: Mapping[str, Sequence[Feature]],
    languages: Sequence[str],
    score: SplitScores,
    callbacks: Sequence[TrainerCallback] = (),
) -> FinetuneResult:
    """Train on ``data["train"]``, choose the best on dev, score test, and write ``folder/final``.

    languages  of the training features
    score      what is measured; its first name is the metric that chooses unless the recipe names another
    callbacks  of the user, after ours
    """
    wanted = recipe.training
    metric = wanted.metric or score.names[0]
    if wanted.lora is not None:
        add_lora(model.model, wanted.lora)
    if wanted.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    steps = -(-len(data["train"]) // wanted.batch)
    arguments = training_arguments(
        TrainingArguments, wanted, folder, model.model.config.hidden_size, metric=metric if "dev" in data else None,
        every=max(1, round(wanted.eval_every * steps)), remove_unused_columns=False, label_names=["labels"],
        ddp_find_unused_parameters=False,
    )  # fmt: skip
    judging = {"role": "dev"}
    trainer = PackedTrainer(
        model=model, args=arguments, train_dataset=data["train"], eval_dataset=data.get("dev"), data_collator=collate,
        compute_metrics=lambda found: _measure(score, judging["role"], found.predictions, metric),
        callbacks=run_callbacks(recipe, folder, callbacks, dev="dev" in data), wanted=wanted,
        order=LanguageSampler(languages, recipe.sampling, wanted.seed, wanted.epochs),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder / CHECKPOINTS))
    log_kept(trainer.state, metric)
    metrics, chosen = _best(trainer.state.log_history, metric, judged="dev" in data)
    if "test" in data:
        judging["role"] = "test"
        trainer.remove_callback(Patience)  # it would miss its metric of dev here, and say so
        found = trainer.evaluate(data["test"], metric_key_prefix="test")
        metrics["test"] = _numbers(found, "test_")
        log.info("test: %s", summarise(metrics["test"]))
    for role in [role for role in ("dev", "test") if role in data]:
        if of_teacher := score.of_teacher(role, metric):
            metrics[f"{role}_teacher"] = of_teacher
    if is_main_process():
        with atomic_folder(folder / FINAL) as partial:
            model.save_pretrained(partial)
            if recipe.writes_adapter:
                make_adapter(partial, adapter_state(model), recipe)
            card = tuned_card(recipe, metrics, len(data["train"]), languages, model.names)
            write_text(partial / "README.md", card)
    trainer.accelerator.wait_for_everyone()
    return FinetuneResult(folder / FINAL, metrics, chosen, trainer.state.log_history)


def _measure(score: SplitScores, role: str, predictions: Any, metric: str) -> dict[str, float]:
    """Return the metrics of a split. Raises UndefinedMetric if the deciding one has no value on dev."""
    found = score.with_languages(role, score.read(role, predictions), metric)
    if role == "dev" and metric not in found:
        raise UndefinedMetric(
            f"{metric}, which decides, has no value on data.dev: its gold labels are all alike, or there are none; "
            f"give other examples, or set training.metric to one of {', '.join(found)}"
        )
    return found


def _best(
    history: list[dict[str, Any]], metric: str, *, judged: bool
) -> tuple[dict[str, dict[str, float]], float | None]:
    """Return what was measured on dev when the chosen checkpoint was written."""
    lines = [line for line in history if f"eval_{metric}" in line]
    if not judged or not lines:
        return {}, None
    best = max(lines, key=lambda line: float(line[f"eval_{metric}"]))
    return {"dev": _numbers(best, "eval_")}, float(best[f"eval_{metric}"])


def _numbers(line: dict[str, Any], prefix: str) -> dict[str, float]:
    """Return the metrics in a log line, without the trainer's measures of speed."""
    speed = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
    found = {key.removeprefix(prefix): float(value) for key, value in line.items() if key.startswith(prefix)}
    return {key: value for key, value in found.items() if key not in speed}
