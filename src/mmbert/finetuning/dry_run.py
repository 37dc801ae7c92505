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

from mmbert.files import read_json
from mmbert.finetuning.examples import Examples, Fields, label_number, read_examples, read_splits, want_text
from mmbert.finetuning.finetune import compare_begun
from mmbert.finetuning.ranking_examples import Texts, columns, fields_of, judging_loss, labelled_pairs, make_groups
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_data import DataSpec
from mmbert.finetuning.task_rows import (
    UNTAGGED,
    check_example,
    check_metric,
    choices_of,
    class_names,
    labels_of,
    metric_names,
    number_of,
    read_all,
    read_questions,
    right_choice,
    tag_names,
    task_fields,
)
from mmbert.model.config import ModelConfig, config_from_hf
from mmbert.model.count import parameters

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
    specs = {role: spec for role in ("train", "dev", "test") if (spec := recipe.data.split(role)) is not None}
    far = {role: spec for role, spec in specs.items() if spec.path is None}
    wanted = task_reads(recipe)
    if "train" in far:
        local = {role: read_examples(spec, role, wanted) for role, spec in specs.items() if role not in far}
        found, count, labels = local, None, ""
    else:
        near = recipe.model_copy(update={"data": recipe.data.model_copy(update=dict.fromkeys(far))})
        found = read_splits(near, wanted, recipe.classify.labels if recipe.task == "classify" else ())
        count, labels = _check(recipe, found)
    config = _config(recipe)
    lines = [("task", recipe.task), ("model", _model(recipe, config))]
    lines += [(role, _split(found[role])) for role in ("train", "dev", "test") if role in found]
    lines += [(role, f"{_hub(spec)}: not read in a dry run") for role, spec in far.items()]
    if labels:
        lines.append(("labels", labels))
    lines.append(("steps", _steps(recipe, count, judged="dev" in found or "dev" in far)))
    if config is not None:
        say_small(recipe, config)
    return [*lines, ("run", str(folder))]


def say_small(recipe: FinetuneRecipe, config: ModelConfig) -> None:
    """Warn of a learning rate of large models on a small one."""
    size, rate = parameters(config).encoder, recipe.training.learning_rate
    if size < SMALL and rate < SMALL_RATE and recipe.training.lora is None:
        log.warning(
            "training.learning_rate %g suits models of 100 million weights and more; this one has %.1f million, and "
            "may learn next to nothing: of 1.2 million, on SIB-200 in English, the accuracy after 10 epochs is 0.26 "
            "with 2e-5, 0.35 with 1e-4 and 0.53 with 1e-3. Set training.learning_rate=1e-3, or sweep", rate, size / 1e6,
        )  # fmt: skip


def task_reads(recipe: FinetuneRecipe) -> Fields:
    """What any task reads of a row, with its check of a row."""
    if recipe.task in ("classify", "tag", "answer", "choose"):
        return task_fields(recipe)
    options = getattr(recipe, recipe.task)
    looked_up = options.lookup.queries or options.lookup.documents
    return fields_of(recipe.task, options.loss, None if looked_up else Texts(options.lookup))


def _check(recipe: FinetuneRecipe, splits: Mapping[str, Examples]) -> tuple[int, str]:
    """Check the rows of all splits; how many examples an epoch has, and its labels in words."""
    if recipe.task == "classify":
        return len(splits["train"]), _check_classes(recipe, splits)
    if recipe.task == "tag":
        sentences = read_all(dict(splits), recipe.tag, recipe.data.no_label)
        names = tag_names(sentences["train"], splits["train"].names.get("tags", ()), recipe.tag)
        check_metric(recipe.training.metric, metric_names(recipe, len(names)))
        numbers = {name: number for number, name in enumerate(names)}
        for each in (each for part in sentences.values() for each in part):
            for tag in each.tags:
                if tag != UNTAGGED:
                    label_number(numbers, each.row, "tag", tag, "tag.labels")
        counts = Counter(tag for each in sentences["train"] for tag in each.tags if tag != UNTAGGED)
        return len(sentences["train"]), _counted({name: counts[name] for name in names})
    if recipe.task == "answer":
        questions = {role: read_questions(examples, recipe.answer) for role, examples in splits.items()}
        check_metric(recipe.training.metric, metric_names(recipe, 0))
        return len(questions["train"]), ""
    if recipe.task == "choose":
        check_metric(recipe.training.metric, metric_names(recipe, 0))
        for examples in splits.values():
            for row in examples.rows:
                want_text(row, "question")
                declared = examples.names.get("label", ())
                right_choice(row, len(choices_of(row)), recipe.choose.first_label, declared)
        return len(splits["train"]), ""
    return _check_groups(recipe, splits), ""


def _check_classes(recipe: FinetuneRecipe, splits: Mapping[str, Examples]) -> str:
    own = recipe.classify
    names = class_names(splits["train"], own)
    check_metric(recipe.training.metric, metric_names(recipe, len(names)))
    numbers = {name: number for number, name in enumerate(names)}
    for examples in splits.values():
        for row in examples.rows:
            check_example(row, own)
            for label in labels_of(row, own) if own.problem != "regression" else ():
                label_number(numbers, row, "label", label, "classify.labels")
    if own.problem == "regression":
        values = [number_of(row) for row in splits["train"].rows]
        return f"numbers from {min(values):g} to {max(values):g}"
    counts = Counter(label for row in splits["train"].rows for label in labels_of(row, own))
    return _counted({name: counts[name] for name in names})


def _check_groups(recipe: FinetuneRecipe, splits: Mapping[str, Examples]) -> int:
    options = getattr(recipe, recipe.task)
    lookup = options.lookup
    if any(spec is not None and spec.path is None for spec in (lookup.queries, lookup.documents)):
        return len(splits["train"])  # the texts are on the hub
    texts = Texts(lookup)
    groups = {
        role: make_groups(examples, texts, options.loss if role == "train" else judging_loss(options.loss))
        for role, examples in splits.items()
    }
    single = recipe.task == "rerank" and options.loss != "margin_mse"
    negatives = None if options.mine is not None else options.negatives
    made = (labelled_pairs if single else columns)(groups["train"], options.loss, negatives)
    return len(made["query"])


def _config(recipe: FinetuneRecipe) -> ModelConfig | None:
    """The model's shape; None for one of the hub."""
    name = recipe.model
    if not Path(name).is_dir() and len(Path(name).parts) == 2 and not name.startswith((".", "/", "~", "runs/")):
        return None
    path = Path(name) / "config.json"
    if path.is_file():
        return config_from_hf(read_json(path), str(path))
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
    parted = recipe.task in ("embed", "sparse", "late_interaction") and getattr(recipe, recipe.task).no_duplicates
    least = "at least " if several or parted else ""
    said = f"{least}{total:,} ({epochs} of {least}{epoch:,}, batches of {own.batch})"
    said += f", {round(total * own.warmup):,} of them warm-up to {own.learning_rate:g}"
    every = max(1, round(own.eval_every * epoch))
    return said + (f", judged every {every:,} by {own.metric or 'the default metric'}" if judged else ", without dev")


def show(lines: Sequence[tuple[str, str]]) -> str:
    """Return the plan as text."""
    return "\n".join(f"{name:<7} {text}" for name, text in lines)
