"""The model card of a tuned folder (README.md): from what, on what, how well, and how to use it.

Sentence tasks have sentence-transformers' own card instead.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence

from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.hub_names import PIPELINES, called, iso_codes, on_hub
from mmbert.version import __version__

_USES = {
    "classify": (PIPELINES["sequence"], "Classifier", '"A text"'),
    "tag": (PIPELINES["tokens"], "Tagger", '"A sentence"'),
    "answer": (PIPELINES["span"], "Answerer", '"Where is it?", "It is in the north."'),
    "choose": (PIPELINES["choice"], "MultipleChoice", '"A question", ["one choice", "another"]'),
}
"""Task -> its name on the hub, our predictor, and an example of its arguments."""

_CLASSES = {"answer": "AutoModelForQuestionAnswering", "choose": "AutoModelForMultipleChoice"}
"""Where transformers has no pipeline."""


def tuned_card(
    recipe: FinetuneRecipe,
    metrics: Mapping[str, Mapping[str, float]],
    examples: int,
    languages: Sequence[str],
    labels: Sequence[str],
) -> str:
    """Return README.md of a run's ``final``.

    metrics    split -> name -> number
    examples   that it was trained on, in ``languages`` ("" where none is stated)
    labels     names of the classes, if it has some
    """
    stated = sorted({code for code in languages if code})
    parts = [
        _front_matter(recipe, stated),
        f"# {recipe.name}",
        f"{called(recipe.model)} fine-tuned ({recipe.task}) with [mmbert](https://pypi.org/project/mmbert/) "
        f"{__version__} on {examples:,} examples" + (f" in {_listed(stated)}" if stated else "") + ".",
        _figures(metrics),
        _use(recipe),
        _training(recipe),
        f"## Labels\n\n{', '.join(labels)}" if labels else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(recipe: FinetuneRecipe, languages: Sequence[str]) -> str:
    # quoted, for readers of YAML 1.1 take the Norwegian code no for false
    codes = "".join(f"- {json.dumps(code)}\n" for code in iso_codes(languages))
    return (
        "---\n"
        + (f"language:\n{codes}" if codes else "")
        + (f"base_model: {json.dumps(recipe.model)}\n" if on_hub(recipe.model) else "")
        + f"library_name: transformers\npipeline_tag: {_USES[recipe.task][0]}\ntags:\n- modernbert\n- mmbert\n---"
    )


def _listed(codes: Sequence[str]) -> str:
    return ", ".join(codes) if len(codes) <= 12 else f"{len(codes)} languages"


def _figures(metrics: Mapping[str, Mapping[str, float]]) -> str:
    rows = [f"| {split} | {name} | {value:.4g} |" for split, found in metrics.items() for name, value in found.items()]
    return "\n".join(["| split | metric | value |", "| --- | --- | ---: |", *rows]) if rows else ""


def _use(recipe: FinetuneRecipe) -> str:
    pipeline, predictor, arguments = _USES[recipe.task]
    auto = _CLASSES.get(recipe.task)
    taken, made = ("pipeline", f'pipeline("{pipeline}", model="FOLDER")')
    if auto is not None:
        taken, made = auto, f'{auto}.from_pretrained("FOLDER")'
    lines = [
        "## Use", "", "```python", "import mmbert", "", f'mmbert.{predictor}.load("FOLDER")({arguments})', "```", "",
        "```python", f"from transformers import {taken}", "", f"model = {made}", "```",
    ]  # fmt: skip
    return "\n".join(lines)


def _training(recipe: FinetuneRecipe) -> str:
    own = recipe.training
    said = (
        f"{own.epochs:g} epochs, batches of {own.batch}, AdamW with a peak learning rate of {own.learning_rate:g} "
        f"({own.warmup:.0%} warm-up, then {own.schedule}), at most {own.max_tokens} tokens, seed {own.seed}"
        + (f", LoRA of rank {own.lora.rank}, merged" if own.lora is not None else "")
    )
    return f"## Training\n\n{textwrap.fill(said + '.', 120)}"
