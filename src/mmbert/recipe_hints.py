"""What an unknown key of a recipe was meant to be: a misspelt option, or what another trainer calls it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

_OURS = {
    "learning_rate": ("lr", "peak_lr", "max_lr", "peak_learning_rate", "base_lr"),
    "peak_lr": ("lr", "learning_rate", "max_lr", "peak_learning_rate", "base_lr"),
    "batch": ("batch_size", "train_batch_size", "per_device_train_batch_size", "global_batch_size", "bs",
              "global_train_batch_size", "effective_batch_size"),
    "micro_batch": ("micro_batch_size", "gradient_accumulation_steps", "grad_accum", "accumulate_grad_batches",
                    "device_train_microbatch_size"),
    "epochs": ("num_train_epochs", "num_epochs", "n_epochs", "epoch", "max_epochs", "train_epochs"),
    "max_steps": ("steps", "max_train_steps", "num_train_steps", "num_training_steps", "total_steps", "train_steps"),
    "tokens": ("max_steps", "max_tokens", "max_duration", "train_tokens", "num_tokens", "steps", "max_train_steps"),
    "warmup": ("warmup_ratio", "warmup_steps", "num_warmup_steps", "warmup_proportion", "t_warmup"),
    "weight_decay": ("wd", "l2"),
    "max_tokens": ("max_length", "max_seq_length", "max_seq_len", "seq_len", "model_max_length", "sequence_length",
                   "block_size", "max_source_length"),
    "context": ("max_length", "max_seq_length", "max_seq_len", "seq_len", "model_max_length", "sequence_length",
                "block_size"),
    "schedule": ("lr_scheduler_type", "lr_scheduler", "scheduler", "lr_schedule"),
    "decay": ("lr_scheduler_type", "lr_scheduler", "scheduler", "lr_schedule", "schedule"),
    "max_grad_norm": ("grad_clip", "gradient_clipping", "clip_grad_norm", "gradient_clip_val"),
    "precision": ("bf16", "fp16", "dtype", "torch_dtype", "mixed_precision"),
    "patience": ("early_stopping", "early_stopping_patience"),
    "metric": ("metric_for_best_model",),
    "keep": ("save_total_limit",),
    "log_every": ("logging_steps", "log_interval", "log_every_n_steps"),
    "eval_every": ("eval_steps", "eval_strategy", "evaluation_strategy", "eval_interval", "save_steps",
                   "save_strategy"),
    "checkpoint_every": ("save_steps", "save_interval", "save_strategy"),
    "seed": ("random_seed", "data_seed", "random_state"),
    "push_to_hub": ("hub_model_id",),
    "layer_decay": ("llrd", "layerwise_lr_decay", "layer_lr_decay"),
    "head_learning_rate": ("head_lr", "classifier_lr"),
    "dropout": ("classifier_dropout", "hidden_dropout_prob", "lora_dropout"),
    "rank": ("r", "lora_r", "lora_rank"),
    "alpha": ("lora_alpha",),
    "targets": ("target_modules",),
    "gradient_checkpointing": ("activation_checkpointing", "grad_checkpoint"),
    "mask_rate": ("mlm_probability", "mlm_prob", "mask_prob"),
    "matryoshka": ("matryoshka_dims",),
    "mini_batch": ("mini_batch_size", "chunk_size"),
    "pos_weight": ("positive_weight",),
    "model": ("model_name", "model_name_or_path", "pretrained_model_name_or_path", "base_model"),
    "start": ("model_name", "model_name_or_path", "pretrained_model_name_or_path", "base_model"),
    "hub": ("dataset_name", "dataset"),
    "config": ("dataset_config_name", "dataset_config", "subset"),
    "limit": ("max_train_samples", "max_eval_samples", "max_samples"),
    "path": ("data_files", "file"),
    "data.train.path": ("train_file", "train_data"),
    "data.dev.path": ("validation_file", "eval_file", "dev_file"),
    "data.test.path": ("test_file",),
}  # fmt: skip
"""Our options -> what they are called in transformers, sentence-transformers, peft, Composer and Lightning."""

_BLOCKS = ("training", "phases", "data")
"""Blocks in which an option is looked for before others."""


def suggest(root: type[BaseModel], place: tuple[str, ...], known: list[str], inner: Any = None) -> str:
    """Return a hint for a key that is not there: the option that was meant, with its dotted path if it is elsewhere.

    root   the whole recipe
    place  keys down to the unknown one; ``known``: those that there are beside it
    inner  what was given: where it is a map, its first key may tell more than the name of a block that is not there
    """
    name = place[-1]
    here = [ours for ours in _meant(name) if ours in known] or difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    if here:
        return f"did you mean {here[0]}?"
    names = [name]
    if isinstance(inner, dict) and inner:
        names.append(str(next(iter(inner))))
    for each in names:
        elsewhere = _elsewhere(root, [*_meant(each), each])
        if elsewhere is not None:
            return f"did you mean {elsewhere}?"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"


def _meant(name: str) -> list[str]:
    return [ours for ours, theirs in _OURS.items() if name.lower() in theirs]


def _elsewhere(root: type[BaseModel], names: list[str]) -> str | None:
    """Return the dotted path of the first of these options that the recipe has anywhere."""
    places = list(_options(root, ()))
    for name in names:
        found = [place for place in places if name in (place[-1], ".".join(place))]
        if found:
            ranked = sorted((place[0] not in _BLOCKS, len(place), number) for number, place in enumerate(found))
            return ".".join(found[ranked[0][2]])
    return None


def _options(model: type[BaseModel], above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the place of every option; ``NAME`` stands for keys that a recipe chooses."""
    for name, field in model.model_fields.items():
        yield (*above, name)
        for inner, keyed in _models(field.annotation):
            yield from _options(inner, (*above, name, *(("NAME",) if keyed else ())))


def _models(annotation: Any) -> Iterator[tuple[type[BaseModel], bool]]:
    """Yield the blocks that a value may be made of, and whether they stand under keys."""
    origin = get_origin(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, False
    elif origin is Annotated or origin in (Union, UnionType):
        for form in get_args(annotation)[: 1 if origin is Annotated else None]:
            yield from _models(form)
    elif origin is dict:
        for inner, _ in _models(get_args(annotation)[1]):
            yield inner, True
