"""The model card of a tuned folder (README.md): from what, on what, how well, and how to use it.

Sentence tasks have sentence-transformers' own card instead, but for adapters.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from mmbert.finetuning.figures import COUNT, LEAST, split_languages
from mmbert.finetuning.recipe import FinetuneRecipe, Lora
from mmbert.hub_names import PIPELINES, called, front_matter, on_hub
from mmbert.version import __version__

_USES = {
    "classify": (PIPELINES["sequence"], "Classifier", '"A text"'),
    "tag": (PIPELINES["tokens"], "Tagger", '"A sentence"'),
    "answer": (PIPELINES["span"], "Answerer", '"Where is it?", "It is in the north."'),
    "choose": (PIPELINES["choice"], "MultipleChoice", '"A question", ["one choice", "another"]'),
    "embed": (PIPELINES["sentence"], "Embedder", '"A text"'),
    "rerank": ("text-ranking", "Reranker", '"A query", ["one document", "another"]'),
}
"""Task -> its name on the hub, our predictor, and an example of its arguments."""

_OPTIMIZERS = {"adamw": "AdamW", "muon": "Muon (AdamW beside the layers' matrices)"}
_CLASSES = {"answer": "AutoModelForQuestionAnswering", "choose": "AutoModelForMultipleChoice"}
"""Where transformers has no pipeline."""

_ADAPTED = {
    **dict.fromkeys(("classify", "rerank"), "AutoModelForSequenceClassification"),
    "tag": "AutoModelForTokenClassification",
    **_CLASSES,
}
"""What peft puts an adapter into."""


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
    listed = ", ".join(stated) if len(stated) <= 12 else f"{len(stated)} languages"
    figures = {split: split_languages(found) for split, found in metrics.items()}
    rows = [f"| {split} | {name} | {value:.4g} |" for split, (own, _) in figures.items() for name, value in own.items()]
    adapter = recipe.writes_adapter
    tags = ("modernbert", "mmbert", *(_adapter_tags(recipe) if adapter else ()))
    library = "transformers" if not adapter else "sentence-transformers" if recipe.task == "embed" else "peft"
    parts = [
        front_matter(stated, recipe.model, _USES[recipe.task][0], tags, library=library),
        f"# {recipe.name}",
        f"{'A LoRA adapter: ' if adapter else ''}{_start(recipe)} fine-tuned ({recipe.task}) with "
        "[mmbert](https://pypi.org/project/mmbert/) "
        f"{__version__} on {examples:,} examples" + (f" in {listed}" if stated else "") + _taught(recipe) + ".",
        "\n".join(["| split | metric | value |", "| --- | --- | ---: |", *rows]) if rows else "",
        *(_by_language(split, own) for split, (_, own) in figures.items()),
        _use_adapter(recipe) if adapter else _use(recipe),
        _training(recipe),
        f"## Labels\n\n{', '.join(labels)}" if labels else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _adapter_tags(recipe: FinetuneRecipe) -> tuple[str, ...]:
    """Return the tags by which the hub lists an adapter under its base."""
    return ("lora", *((f"base_model:adapter:{recipe.model}",) if on_hub(recipe.model) else ()))


def _start(recipe: FinetuneRecipe) -> str:
    """Return what the run began with, in words."""
    start = called(recipe.model)
    if recipe.student is not None:
        own = recipe.student
        fresh = f"A fresh encoder of {own.num_layers} layers with the tokens of {start},"
        start = fresh if own.keep is None else f"{own.keep} layers of {start}"
    return f"{start}, its vocabulary trimmed to the training text," if recipe.trim is not None else start


def _taught(recipe: FinetuneRecipe) -> str:
    if recipe.teacher is None:
        return ""
    return f", as a student of {called(recipe.teacher.model)} (weight {recipe.teacher.weight:g} of its logits)"


def _by_language(split: str, figures: Mapping[str, Mapping[str, float]]) -> str:
    """Return a table of each language's figures and examples; empty where there are none."""
    counts = figures.get(COUNT)
    names = [name for name in figures if name != COUNT]
    if not counts:
        return ""
    rows = []
    for code, count in counts.items():
        few = count < LEAST
        values = [f"{figures[name][code]:.4g}" if code in figures[name] else "" for name in names]
        rows.append(f"| {code} | {count:.0f}{'*' if few else ''} | {' | '.join(values)} |")
    note = f"\n\n\\* fewer than {LEAST} examples: no result" if any(count < LEAST for count in counts.values()) else ""
    heads = [f"| language | examples | {' | '.join(names)} |", f"| --- | ---: |{' ---: |' * len(names)}"]
    return f"## By language, {split}\n\n" + "\n".join([*heads, *rows]) + note


def distilled_card(
    recipe: FinetuneRecipe,
    metrics: Mapping[str, Mapping[str, float]],
    languages: Sequence[str],
    licence: str | None,
) -> str:
    """Return README.md of a distilled student.

    languages  of each text that it learned from
    licence    of the teacher, as its card states it
    """
    stated = sorted(set(languages))
    listed = ", ".join(stated) if len(stated) <= 12 else f"{len(stated)} languages"
    rows = [f"| {split} | {name} | {value:.4g} |" for split, found in metrics.items() for name, value in found.items()]
    taught_by, start = recipe.distil.teacher or str(recipe.distil.vectors), called(recipe.model)
    made = f"a fresh encoder with the tokenizer and token embeddings of {start}"
    if recipe.student is None:
        made = start
    elif recipe.student.keep is not None:
        made = f"{recipe.student.keep} layers of {start}"
    parts = [
        front_matter(stated, recipe.model, "sentence-similarity", ("modernbert", "mmbert", "sentence-transformers")),
        f"# {recipe.name}",
        f"A sentence encoder that was distilled from {called(taught_by)} with "
        f"[mmbert](https://pypi.org/project/mmbert/) {__version__}: {made}, trained to give the teacher's vectors of "
        f"{len(languages):,} texts in {listed}.",
        f"Licence of the teacher, as its card states it: {licence or 'not stated'}. It may hold for this model too.",
        "\n".join(["| split | metric | value |", "| --- | --- | ---: |", *rows]) if rows else "",
        "`cosine` compares vectors with the teacher's on texts that were held out." if rows else "",
        "## Use\n\n```python\nfrom sentence_transformers import SentenceTransformer\n\n"
        'vectors = SentenceTransformer("FOLDER").encode(["A text", "Ein Text"])\n```',
        _training(recipe),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _use(recipe: FinetuneRecipe) -> str:
    pipeline, predictor, arguments = _USES[recipe.task]
    auto = _CLASSES.get(recipe.task)
    taken = auto or "pipeline"
    made = f'{auto}.from_pretrained("FOLDER")' if auto else f'pipeline("{pipeline}", model="FOLDER")'
    return f"""## Use

```python
import mmbert

mmbert.{predictor}.load("FOLDER")({arguments})
```

```python
from transformers import {taken}

model = {made}
```"""


def _use_adapter(recipe: FinetuneRecipe) -> str:
    _, predictor, arguments = _USES[recipe.task]
    base, auto = recipe.model if on_hub(recipe.model) else "BASE", _ADAPTED.get(recipe.task)
    others = f"""from peft import PeftModel
from transformers import AutoConfig, {auto}

config = AutoConfig.from_pretrained("FOLDER")
base = {auto}.from_pretrained("{base}", config=config, ignore_mismatched_sizes=True)
model = PeftModel.from_pretrained(base, "FOLDER")"""
    if recipe.task == "embed":
        others = """from sentence_transformers import SentenceTransformer  # with peft installed

vectors = SentenceTransformer("FOLDER").encode(["A text", "Ein Text"])"""
    return f"""## Use

```python
import mmbert

mmbert.{predictor}.load("FOLDER")({arguments})
```

```python
{others}
```

One base with this adapter and others: `mmbert serve {base} --adapter NAME=FOLDER`"""


def _training(recipe: FinetuneRecipe) -> str:
    own = recipe.training
    how = _OPTIMIZERS[own.optimizer]
    said = (
        f"{own.epochs:g} epochs, batches of {own.batch}, {how} with a peak learning rate of {own.learning_rate:g} "
        f"({own.warmup:.0%} warm-up, then {own.schedule}), at most {own.max_tokens} tokens, seed {own.seed}"
        + _lora(own.lora)
    )
    return f"## Training\n\n{textwrap.fill(said + '.', 120)}"


def _lora(lora: Lora | None) -> str:
    if lora is None:
        return ""
    how = "merged" if lora.merge else f"alpha {lora.alpha:g}, of {', '.join(lora.targets)}"
    return f", LoRA of rank {lora.rank}, {how}"
