"""The model that a run starts from, in the run's own folder and form: ``runs/<name>/start``.

The start may be sharded, in half precision, on the hub, or store the tied matrix twice; it may be deleted later. So it
is copied into one folder like those of the phases: fp32 weights, our ``config.json``, the run's tokenizer. Training,
merging and evaluation then treat it like a phase.
"""

from __future__ import annotations

import logging
from pathlib import Path

from mmbert.errors import TokenizerError
from mmbert.files import atomic_folder
from mmbert.model.heads import MaskedLM
from mmbert.model.weights import model_folder
from mmbert.recipe import START, Recipe
from mmbert.tokenizer.tokenizer import Tokenizer

log = logging.getLogger(__name__)


def open_start(recipe: Recipe, folder: Path, tokenizer: Tokenizer) -> Path | None:
    """Copy the model of ``recipe.start`` to ``folder/start``, once; returns that folder, None without a start.

    Raises WeightsError if it is no whole model, TokenizerError if it was trained with another tokenizer than the run's.
    """
    if recipe.start is None:
        return None
    home = folder / START
    # Once: a start that changes or disappears later must not change the run.
    if not home.is_dir():
        source = model_folder(recipe.start)
        # Rows of the embedding belong to ids: with another tokenizer every token would take another one's vector.
        _same_tokenizer(source, tokenizer, recipe.start)
        model = MaskedLM.load(source)
        with atomic_folder(home) as partial:
            model.save(partial)
            tokenizer.save(partial, max_tokens=model.config.max_context)
        log.info("the run starts from %s: %s", recipe.start, home)
    return home


def _same_tokenizer(source: Path, tokenizer: Tokenizer, name: str) -> None:
    """Raise TokenizerError if a model's folder has another tokenizer; one without a tokenizer is accepted."""
    if not (source / "tokenizer.json").is_file():
        return
    theirs = Tokenizer.load(source)
    if theirs.fingerprint != tokenizer.fingerprint:
        raise TokenizerError(
            f"the run's tokenizer ({tokenizer.fingerprint}, {tokenizer.vocab_size} tokens) is not that of its start "
            f"{name} ({theirs.fingerprint}, {theirs.vocab_size} tokens): leave `tokenizer` out, it is the start's"
        )
