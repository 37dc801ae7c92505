"""Errors of recipes in a user's words: pydantic's faults in one line, and what an unknown key was meant to be."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

_ALIASES = """
learning_rate peak_lr: lr learning_rate peak_lr max_lr peak_learning_rate base_lr
batch: batch_size train_batch_size per_device_train_batch_size global_batch_size bs global_train_batch_size
  effective_batch_size
micro_batch: micro_batch_size gradient_accumulation_steps grad_accum accumulate_grad_batches
  device_train_microbatch_size
epochs: num_train_epochs num_epochs n_epochs epoch max_epochs train_epochs
max_steps: steps max_train_steps num_train_steps num_training_steps total_steps train_steps
tokens: max_steps max_tokens max_duration train_tokens num_tokens steps max_train_steps
warmup: warmup_ratio warmup_steps num_warmup_steps warmup_proportion t_warmup
weight_decay: wd l2
max_tokens context: max_length max_seq_length max_seq_len seq_len model_max_length sequence_length block_size
max_tokens: max_source_length
schedule decay: lr_scheduler_type lr_scheduler scheduler lr_schedule
decay: schedule
max_grad_norm: grad_clip gradient_clipping clip_grad_norm gradient_clip_val
precision: bf16 fp16 dtype torch_dtype mixed_precision
patience: early_stopping early_stopping_patience
metric: metric_for_best_model
keep: save_total_limit
log_every: logging_steps log_interval log_every_n_steps
eval_every: eval_steps eval_strategy evaluation_strategy eval_interval save_steps save_strategy
checkpoint_every: save_steps save_interval save_strategy
seed: random_seed data_seed random_state
push_to_hub: hub_model_id
tracker: report_to logger loggers wandb_project
layer_decay: llrd layerwise_lr_decay layer_lr_decay
head_learning_rate: head_lr classifier_lr
dropout: classifier_dropout hidden_dropout_prob lora_dropout
rank: r lora_r lora_rank
alpha: lora_alpha
targets: target_modules
gradient_checkpointing: activation_checkpointing grad_checkpoint
mask_rate: mlm_probability mlm_prob mask_prob
matryoshka: matryoshka_dims
mini_batch: mini_batch_size chunk_size
pos_weight: positive_weight
model start: model_name model_name_or_path pretrained_model_name_or_path base_model
hub: dataset_name dataset
config: dataset_config_name dataset_config subset
limit: max_train_samples max_eval_samples max_samples
path: data_files file
data.train.path: train_file train_data
data.dev.path: validation_file eval_file dev_file
data.test.path: test_file
"""
"""Options -> what they are called in transformers, sentence-transformers, peft, Composer and Lightning."""

_BLOCKS = ("training", "phases", "data")
"""Blocks in which an option is looked for before others."""

_ANY = "NAME"
"""Stands for keys that a recipe chooses."""

_PLAIN_WORDS = {
    "a valid tuple": "a list", "a valid dictionary": "a map", "a valid string": "text",
    "a valid integer": "a whole number", "a valid number": "a number", "greater than or equal to": "at least",
    "less than or equal to": "at most",
}  # fmt: skip

Place = tuple[str, ...]


def explain(error: ValidationError, model: type[BaseModel], path: Path, values: Any) -> str:
    """Return the first fault in one line: file, dotted path, what is wrong, and the nearest valid name.

    values  what was validated. Where a value may have several forms (a tokenizer: text or a map), pydantic reports the
            complaint of each form; the line tells the one that lies deepest: it is about the form that was meant
    """
    faults = [(_place(fault["loc"], values, fault["type"] == "missing"), fault) for fault in error.errors()]
    deepest = [
        (place, fault)
        for place, fault in faults
        if not any(len(other) > len(place) and other[: len(place)] == place for other, _ in faults)
    ]
    deepest.sort(key=lambda entry: entry[1]["type"] != "extra_forbidden")  # a misspelt key also leaves another missing
    place, fault = deepest[0]
    others = len({other for other, _ in deepest} - {place})
    more = f" (and {others} more)" if others else ""
    dotted = ".".join(place)
    if fault["type"] == "extra_forbidden":
        return f"{path}: unknown key {dotted}: {suggest(model, place, fault['input'])}{more}"
    if fault["type"] == "missing" or (fault["input"] is None and fault["type"] != "value_error"):
        return f"{path}: {dotted} is missing{more}"
    said = _joined([each["msg"] for other, each in deepest if other == place])
    given = "" if isinstance(fault["input"], dict) else f" (given: {str(fault['input'])[:60]})"
    return f"{path}: {dotted + ': ' if dotted else ''}{said}{given}{more}"


def _place(loc: tuple[int | str, ...], values: Any, missing: bool) -> Place:
    """Return the keys of the file in pydantic's location, without what it adds: the forms of a union and ``[key]``.

    A key of the file is there in the values; only the last part of a location may be one that is missing.
    """
    place = []
    for number, part in enumerate(loc, 1):
        there = part in values if isinstance(values, dict) else isinstance(part, int)
        if there or (missing and number == len(loc)):
            place.append(str(part))
            values = values[part] if there else None
    return tuple(place)


def _joined(messages: list[str]) -> str:
    """Return one sentence from the complaints about one value, in a user's words."""
    said = list(dict.fromkeys(message.removeprefix("Value error, ") for message in messages))
    if said[0].startswith("Input should be "):
        noise = r"^Input should be |, (unable|got) .*| or instance of \w+"
        text = "should be " + " or ".join(re.sub(noise, "", message) for message in said)
        for formal, plain in _PLAIN_WORDS.items():
            text = text.replace(formal, plain)
        return text
    return said[0][0].lower() + said[0][1:]


def suggest(root: type[BaseModel], place: Place, inner: Any = None) -> str:
    """Return a hint for a key that is not there: the option that was meant, with its dotted path if it is elsewhere.

    root   the whole recipe; ``place``: keys down to the unknown one
    inner  what was given: where it is a map, its first key may tell more than the name of a block that is not there
    """
    options, name = list(_options(root, ())), place[-1]
    known = [each[-1] for each in options if _matches(each[:-1], place[:-1])]
    here = [ours for ours in _meant(name) if ours in known] or difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    if here:
        return f"did you mean {here[0]}?"
    for each in [name, *(str(key) for key in list(inner)[:1])] if isinstance(inner, dict) else [name]:
        for ours in [*_meant(each), each]:
            elsewhere = [option for option in options if ours in (option[-1], ".".join(option))]
            if elsewhere:
                best = min(elsewhere, key=lambda option: (option[0] not in _BLOCKS, len(option)))
                return f"did you mean {'.'.join(best)}?"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"


def _meant(name: str) -> list[str]:
    rows = (row.split(": ") for row in _ALIASES.replace("\n  ", " ").strip().splitlines())
    return [each for ours, theirs in rows if name.lower() in theirs.split() for each in ours.split() if each != name]


def _matches(option: Place, place: Place) -> bool:
    return len(option) == len(place) and all(ours in (theirs, _ANY) for ours, theirs in zip(option, place, strict=True))


def _options(annotation: Any, above: Place) -> Iterator[Place]:
    """Yield the place of every option in a value of this type."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield (*above, name)
            yield from _options(field.annotation, (*above, name))
    elif origin in (Union, UnionType):
        for form in arguments:
            yield from _options(form, above)
    elif origin is Annotated:
        yield from _options(arguments[0], above)
    elif origin is dict:
        yield from _options(arguments[1], (*above, _ANY))
