"""The model folder that a run begins with: the recipe's model, or a smaller one that was made from it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from mmbert.data.corpus_texts import chosen_texts
from mmbert.files import is_main_process, wait_for_main
from mmbert.finetuning.finetune import TRIMMED
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.model.weights import model_folder
from mmbert.surgery.trim import trim

log = logging.getLogger(__name__)


def start_folder(recipe: FinetuneRecipe, folder: Path, texts: Iterable[str]) -> Path:
    """Return the folder to begin with. What is made for the run stays in its ``folder``; the main process makes it.

    texts  of training, whose tokens ``trim`` keeps; not read without it
    Raises ConfigError, WeightsError or TokenizerError for a model that cannot be made smaller.
    """
    if recipe.student is None and recipe.trim is None:
        return model_folder(recipe.model, revision=recipe.model_revision)
    if not is_main_process():
        place = folder / (TRIMMED if recipe.trim is not None else "student")
        wait_for_main((place / "config.json").is_file)
        return place
    if recipe.student is None:
        begin = model_folder(recipe.model, revision=recipe.model_revision)
    else:
        from mmbert.finetuning.student import student_folder  # it imports sentence-transformers, which takes seconds

        begin = student_folder(recipe, folder)
    return begin if recipe.trim is None else _trimmed(recipe, begin, folder / TRIMMED, texts)


def _trimmed(recipe: FinetuneRecipe, begin: Path, place: Path, texts: Iterable[str]) -> Path:
    if (place / "config.json").is_file():
        return place
    assert recipe.trim is not None
    own = recipe.trim
    report = trim(begin, chain(texts, _more(own.text)), place, min_count=own.min_count, max_tokens=own.max_tokens)
    log.info(
        "trimmed: %s of %s weights are left; the tokens that are kept make up %.1f%% of the text",
        f"{report.after.parameters:,}", f"{report.before.parameters:,}", 100 * report.covered / max(report.tokens, 1),
    )  # fmt: skip
    return place


def _more(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        yield from (text for _, text in chosen_texts([path], []))
