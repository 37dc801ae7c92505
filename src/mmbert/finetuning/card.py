"""The model card of a tuned folder (README.md): from what, on what, how well, and how to use it.

Sentence tasks have sentence-transformers' own card instead.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.hub_names import PIPELINES, called, front_matter
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
    listed = ", ".join(stated) if len(stated) <= 12 else f"{len(stated)} languages"
    rows = [f"| {split} | {name} | {value:.4g} |" for split, found in metrics.items() for name, value in found.items()]
    parts = [
        front_matter(stated, recipe.model, _USES[recipe.task][0], ("modernbert", "mmbert")),
        f"# {recipe.name}",
        f"{called(recipe.model)} fine-tuned ({recipe.task}) with [mmbert](https://pypi.org/project/mmbert/) "
        f"{__version__} on {examples:,} examples" + (f" in {listed}" if stated else "") + ".",
        "\n".join(["| split | metric | value |", "| --- | --- | ---: |", *rows]) if rows else "",
        _use(recipe),
        _training(recipe),
        f"## Labels\n\n{', '.join(labels)}" if labels else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


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
        "``cosine`` compares vectors with the teacher's on texts that were held out." if rows else "",
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


def _training(recipe: FinetuneRecipe) -> str:
    own = recipe.training
    said = (
        f"{own.epochs:g} epochs, batches of {own.batch}, AdamW with a peak learning rate of {own.learning_rate:g} "
        f"({own.warmup:.0%} warm-up, then {own.schedule}), at most {own.max_tokens} tokens, seed {own.seed}"
        + (f", LoRA of rank {own.lora.rank}, merged" if own.lora is not None else "")
    )
    return f"## Training\n\n{textwrap.fill(said + '.', 120)}"
