"""What a fine-tuning run would do, and what is wrong with it, before a model is loaded: ``mmbert finetune --dry-run``.

Read are the recipe, local data and the model's config: no weights, nothing of the hub. What is wrong raises the error
that the run would.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmbert.errors import ConfigError
from mmbert.finetuning.examples import read_examples, read_splits
from mmbert.finetuning.finetune import compare_begun
from mmbert.finetuning.labels import Examples, Fields
from mmbert.finetuning.ranking_examples import Texts, fields_of, group_splits, training_columns
from mmbert.finetuning.recipe import FinetuneRecipe, Training
from mmbert.finetuning.recipe_data import DataSpec
from mmbert.finetuning.recipe_sentence import early_layers
from mmbert.finetuning.recipe_teacher import Teacher
from mmbert.finetuning.task_rows import NUMBER, TRAINED_HERE, TaskRows, read_task, task_fields
from mmbert.finetuning.teacher_config import TeacherConfig, is_near, read_teacher
from mmbert.io.rows import read_rows
from mmbert.model.config import ModelConfig, config_from_hf
from mmbert.model.count import parameters
from mmbert.model.folder import read_config

log = logging.getLogger(__name__)

Lines = list[tuple[str, str]]
"""(what, in words)"""

SMALL, SMALL_RATE = 20_000_000, 2e-4
"""Models with fewer weights than this learn little at rates below this."""

SHOWN = 8
"""Languages and labels that are listed; more are counted."""


def dry_run(recipe: FinetuneRecipe, folder: Path) -> Lines:
    """Return what the run would do. Raises the error that the run would, as far as local files tell.

    folder  of the run, which may have been begun with another recipe; nothing is written
    """
    compare_begun(recipe, folder)
    if recipe.task == "distil":
        return _distillation(recipe, folder)
    specs = {role: spec for role in ("train", "dev", "test") if (spec := recipe.data.split(role)) is not None}
    far = {role: spec for role, spec in specs.items() if spec.path is None}
    wanted = task_reads(recipe)
    teacher = read_teacher(recipe) if recipe.teacher is not None and is_near(recipe.teacher) else None
    if "train" in far:
        local = {role: read_examples(spec, role, wanted) for role, spec in specs.items() if role not in far}
        found, count, labels = local, None, ""
    else:
        near = recipe.model_copy(update={"data": recipe.data.model_copy(update=dict.fromkeys(far))})
        if recipe.task in TRAINED_HERE:
            rows = read_task(near, teacher)
            found, count, labels = rows.splits, len(rows.items["train"]), _label_counts(rows)
        else:
            found = read_splits(near, wanted)
            count, labels = _check_groups(recipe, found), ""
    config = _config(recipe)
    lines = [("task", recipe.task), ("model", _model(recipe, config))]
    if student := _student(recipe):
        lines.append(("student", student))
    if recipe.teacher is not None:
        lines.append(("teacher", _teacher(recipe.teacher, teacher)))
    lines += [(role, _split(found[role])) for role in ("train", "dev", "test") if role in found]
    lines += [(role, f"{_hub(spec)}: not read in a dry run") for role, spec in far.items()]
    if labels:
        lines.append(("labels", labels))
    lines.append(("steps", _steps(recipe, count, judged="dev" in found or "dev" in far)))
    if config is not None:
        early_layers(recipe.task, getattr(recipe.options, "layers", ()), config.num_layers)
        warn_small_model(recipe.training, config)
    return [*lines, ("run", str(folder))]


def _distillation(recipe: FinetuneRecipe, folder: Path) -> Lines:
    """Return the plan of a distillation. Texts are not read, only looked for."""
    from mmbert.data.corpus_texts import text_files

    options = recipe.distil
    where = f" behind {options.endpoint}" if options.endpoint is not None else ""
    lines = [("task", recipe.task), ("teacher", options.vectors or f"{options.teacher}{where}")]
    lines.append(("student", _student(recipe) or _model(recipe, _config(recipe))))
    count = options.texts
    if options.vectors is not None:
        count = sum(1 for _ in read_rows(options.text[0] if options.text else options.vectors))
        count -= min(options.heldout, count // 10)
        lines.append(("text", f"{count:,} texts of {options.vectors}"))
    else:
        if not options.text:
            raise ConfigError("distil.text names no text to learn from: give distil.text=[FOLDER]")
        files = sum(text_files(path) for path in options.text)
        lists = round(count * options.vocabulary)
        said = f", and {lists:,} lists of words" if lists else ""
        lines.append(("text", f"at most {count:,} texts of {files:,} file{'s' if files > 1 else ''}{said}"))
        count += lists
    judged = bool(options.heldout) or recipe.data.split("dev") is not None
    return [*lines, ("steps", _steps(recipe, count, judged=judged)), ("run", str(folder))]


def warn_small_model(training: Training, config: ModelConfig) -> None:
    """Warn of a learning rate of large models on a small one."""
    size, rate = parameters(config).encoder, training.learning_rate
    if size < SMALL and rate < SMALL_RATE and training.lora is None:
        log.warning(
            "training.learning_rate %g suits models of 100 million weights and more; this one has %.1f million, and "
            "may learn next to nothing: of 1.2 million, on SIB-200 in English, the accuracy after 10 epochs is 0.26 "
            "with 2e-5, 0.35 with 1e-4 and 0.53 with 1e-3. Set training.learning_rate=1e-3, or sweep", rate, size / 1e6,
        )  # fmt: skip


def task_reads(recipe: FinetuneRecipe) -> Fields:
    """Return what any task reads of a row, with its check of a row."""
    if recipe.task in TRAINED_HERE:
        return task_fields(recipe)
    options = recipe.options
    looked_up = options.lookup.queries or options.lookup.documents
    texts = None if looked_up else Texts(options.lookup)
    return fields_of(recipe.task, options.loss, texts, taught=recipe.teacher is not None)


def _label_counts(rows: TaskRows) -> str:
    """Return the labels of the training rows in words."""
    if rows.names == (NUMBER,):
        numbers = [number for number in rows.items["train"] if number is not None]
        return f"numbers from {min(numbers):g} to {max(numbers):g}" if numbers else ""
    return _counted({name: rows.counts[name] for name in rows.names})


def _check_groups(recipe: FinetuneRecipe, splits: Mapping[str, Examples]) -> int:
    options = recipe.options
    lookup = options.lookup
    if any(spec is not None and spec.path is None for spec in (lookup.queries, lookup.documents)):
        return len(splits["train"])  # the texts are on the hub
    texts = Texts(lookup)
    groups = group_splits(splits, texts, options.loss, taught=recipe.teacher is not None)
    if recipe.teacher is not None:  # each document is an example, or all of a query together
        count = None if options.negatives is None else options.negatives + 1
        pairs = sum(len(group.documents[:count]) for group in groups["train"])
        return len(groups["train"]) if options.loss == "margin_mse" else pairs
    negatives = None if options.mine is not None else options.negatives
    return len(training_columns(recipe.task, options.loss, groups["train"], negatives)["query"])


def _config(recipe: FinetuneRecipe) -> ModelConfig | None:
    """Return the model's shape; None for a model of the hub."""
    name = recipe.model
    if not Path(name).is_dir() and len(Path(name).parts) == 2 and not name.startswith((".", "/", "~", "runs/")):
        return None
    path = Path(name) / "config.json"
    if path.is_file():
        return config_from_hf(read_config(path.parent), str(path))
    from mmbert.model.weights import load_config, model_folder  # for what is wrong; it imports torch

    folder = model_folder(name)
    if (folder / "modules.json").is_file():
        from mmbert.finetuning.sentence_model import encoder_folder

        folder = encoder_folder(folder)
    return load_config(folder)


def _model(recipe: FinetuneRecipe, config: ModelConfig | None) -> str:
    if config is None:
        return f"{recipe.model} of the hub: not read in a dry run"
    longest = min(recipe.training.max_tokens, config.max_context)
    size = parameters(config).encoder
    return f"{recipe.model}, {size / 1e6:,.1f} million weights, reads {longest} tokens of a text"


def _student(recipe: FinetuneRecipe) -> str:
    """Return what is made of the model before training; empty where nothing is."""
    own, said = recipe.student, []
    if own is not None and own.keep is not None:
        said = [f"{own.keep} layers of {recipe.model}"]
    elif own is not None:
        shape = f"{own.num_layers} layers of {own.hidden_size}"
        said = [f"{shape}, fresh, with tokenizer and token embeddings of {recipe.model}"]
    if recipe.trim is not None:
        most = f"at most {recipe.trim.max_tokens:,} " if recipe.trim.max_tokens else ""
        said.append(f"with {most}tokens, those of the training text")
    return ", ".join(said)


def _teacher(stated: Teacher, config: TeacherConfig | None) -> str:
    if config is None:
        return f"{stated.model} of the hub: not read in a dry run"
    return f"{stated.model}, {len(config.labels)} labels; its logits are computed first"


def _split(examples: Examples) -> str:
    languages = Counter(code for code in examples.languages if code)
    told = f", {_counted(languages)}" if languages else ""
    return f"{len(examples):,} examples{told}"


def _hub(spec: DataSpec) -> str:
    return f"{spec.hub}{f' ({spec.config})' if spec.config else ''} of the hub"


def _counted(counts: Mapping[str, int]) -> str:
    listed = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:SHOWN])
    return f"{listed}, and {len(counts) - SHOWN} more" if len(counts) > SHOWN else listed


def _steps(recipe: FinetuneRecipe, examples: int | None, *, judged: bool) -> str:
    own = recipe.training
    epochs = f"{own.epochs:g} epoch{'' if own.epochs == 1 else 's'}"
    if examples is None:
        return f"{own.epochs:g} epochs, batches of {own.batch}" + (
            f", {own.max_steps:,} steps" if own.max_steps else ""
        )
    epoch = math.ceil(examples / own.batch)
    total = own.max_steps or math.ceil(own.epochs * epoch)
    several = recipe.task in ("tag", "answer")  # long texts are several windows
    parted = recipe.task in ("embed", "sparse", "late_interaction") and recipe.options.no_duplicates
    least = "at least " if several or parted else ""
    said = f"{least}{total:,} ({epochs} of {least}{epoch:,}, batches of {own.batch})"
    said += f", {round(total * own.warmup):,} of them warm-up to {own.learning_rate:g}"
    every = max(1, round(own.eval_every * epoch))
    return said + (
        f", evaluated every {every:,} by {own.metric or 'the default metric'}" if judged else ", without dev"
    )


def show(lines: Sequence[tuple[str, str]]) -> str:
    """Return the plan as text."""
    return "\n".join(f"{name:<7} {text}" for name, text in lines)
