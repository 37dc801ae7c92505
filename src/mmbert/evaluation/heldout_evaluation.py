"""Held-out evaluation: the same text, masks, pairs and sentences for all models of a run.

    heldout = build_heldout_set(recipe, data, tokenizer)
    baseline = evaluate_baseline(heldout, data / "shards", run / "evaluation")
    result = evaluate_model("decay_all", run / "decay_all" / "final", heldout, run / "evaluation")

A result that is already there for the same weights and the same held-out set is read, not computed again.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mmbert.data.heldout import heldout_batches
from mmbert.data.mask import Vocabulary
from mmbert.data.prepare import heldout_texts
from mmbert.errors import ConfigError, DataError
from mmbert.evaluation.fill_mask_samples import MaskedSentence, choose_sentences, fill
from mmbert.evaluation.heldout_loss import evaluate_mlm, masked_lm
from mmbert.evaluation.results import BASELINE, Baseline, ModelResult, read_current, save
from mmbert.evaluation.retrieval import Pair, evaluate_retrieval, evaluate_spelling, read_pairs
from mmbert.evaluation.unigram_baseline import evaluate_unigram
from mmbert.files import sha256
from mmbert.inference.load import hash_folder, load
from mmbert.packed import Packed
from mmbert.recipe import Evaluation, Precision, Recipe
from mmbert.tokenizer.tokenizer import Tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class HeldoutSet:
    """What every model of a run is evaluated on; ``fingerprint`` changes with any part of it."""

    tokenizer: Tokenizer
    batches: Mapping[str, Packed]
    pairs: Mapping[str, Sequence[Pair]]
    sentences: Sequence[MaskedSentence]
    options: Evaluation
    fingerprint: str

    @cached_property
    def spelling(self) -> dict[str, tuple[float, float]]:
        """Accuracies of retrieval by spelling alone, which needs no model."""
        return evaluate_spelling(self.pairs)


def build_heldout_set(recipe: Recipe, data: Path, tokenizer: Tokenizer) -> HeldoutSet:
    """Return the held-out text of ``data`` (as ``prepare`` left it), masked and packed as the recipe says.

    Raises DataError if nothing was held out.
    """
    options = recipe.evaluation
    texts = heldout_texts(data)
    if not texts:
        raise DataError(
            f"{data} holds no held-out text: raise cleaning.holdout, or give sources a heldout path, and prepare again"
        )
    batches = heldout_batches(tokenizer, texts, options, recipe.seed)
    if not any(packed.labels.size for packed in batches.values()):
        raise DataError(f"the held-out text of {data} has no token to mask: hold out more (cleaning.holdout)")
    pairs = {language: pairs for language, pairs in _pairs(options, data).items() if language in batches}
    sentences = choose_sentences(texts, tokenizer, seed=recipe.seed)
    return HeldoutSet(
        tokenizer, batches, pairs, sentences, options, _fingerprint(tokenizer, batches, pairs, sentences, options)
    )


def evaluate_baseline(heldout: HeldoutSet, shards: Path, out: Path) -> Baseline:
    """Fit the unigram model of each language to the shards, evaluate it and write ``out/unigram.json``."""
    path = out / f"{BASELINE}.json"
    training_text = sha256(shards / "manifest.json")[:16]
    found = read_current(Baseline, path, heldout=heldout.fingerprint, training_text=training_text)
    if found is None:
        regular = ~Vocabulary.of(heldout.tokenizer).is_special
        losses = evaluate_unigram(shards, heldout.batches, heldout.tokenizer.token_bytes(), regular)
        found = Baseline(heldout=heldout.fingerprint, training_text=training_text, losses=losses)
        save(found, path)
    return found


def evaluate_model(
    name: str,
    folder: Path,
    heldout: HeldoutSet,
    out: Path,
    *,
    retrieval: bool = True,
    device: str = "cpu",
    precision: Precision = "fp32",
) -> ModelResult:
    """Measure loss per language, retrieval and filled masks of the model in ``folder``; write ``out/<name>.json``.

    retrieval  whether to embed the pairs, which often takes longer than the loss

    Raises ConfigError if the name is the baseline's, MMBertError if the folder holds no model.
    """
    if name == BASELINE:
        raise ConfigError(f"a phase cannot be called {BASELINE}: its results would replace the baseline's; rename it")
    path = out / f"{name}.json"
    weights = hash_folder(folder)
    found = read_current(ModelResult, path, weights=weights, heldout=heldout.fingerprint)
    if found is not None and (found.retrieval or not retrieval or not heldout.pairs):
        log.info("%s is evaluated: %s", name, path)
        return found
    started = time.monotonic()
    loaded = load(folder, device=device, precision="plain")  # autocast, as in training: its layers follow it
    model, batch = masked_lm(loaded), heldout.options.batch
    losses = evaluate_mlm(model, heldout.batches, heldout.tokenizer.token_bytes(), batch=batch, precision=precision)
    found_pairs = []
    if retrieval and heldout.pairs:
        found_pairs = evaluate_retrieval(
            loaded, heldout.pairs, heldout.spelling, batch=batch, context=heldout.options.context, precision=precision
        )
    filled = fill(model, heldout.tokenizer, heldout.sentences, precision=precision)
    result = ModelResult(
        model=name,
        weights=weights,
        heldout=heldout.fingerprint,
        losses=losses,
        retrieval=found_pairs,
        filled=filled,
        seconds=round(time.monotonic() - started, 1),
    )
    save(result, path)
    log.info("evaluated %s in %.0f s: %s", name, result.seconds, path)
    return result


def _pairs(options: Evaluation, data: Path) -> dict[str, list[Pair]]:
    if options.pairs_per_language == 0:
        return {}
    folder = Path(options.parallel) if options.parallel else data / "parallel"
    if not options.parallel and not folder.is_dir():
        return {}  # only catalogs bring parallel messages
    return read_pairs(folder, options.pairs_per_language)


def _fingerprint(
    tokenizer: Tokenizer,
    batches: Mapping[str, Packed],
    pairs: Mapping[str, Sequence[Pair]],
    sentences: Sequence[MaskedSentence],
    options: Evaluation,
) -> str:
    digest = hashlib.sha256(f"1 {tokenizer.fingerprint} {options.context}".encode())
    for language, packed in batches.items():
        digest.update(language.encode())
        for array in (packed.ids, packed.offsets, packed.targets, packed.labels):
            digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(repr([(language, list(listed)) for language, listed in pairs.items()]).encode())
    digest.update(repr(list(sentences)).encode())
    return digest.hexdigest()[:16]
