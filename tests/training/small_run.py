"""A small but real run for tests: text of three languages, a trained tokenizer, shards, two phases of a tiny model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmbert.data.prepare import prepare_data
from mmbert.recipe import Recipe

SYLLABLES = {
    "eng_Latn": "the ing er an tion st re al ou th",
    "swh_Latn": "wa ki mu ni ku ji ma ya li za",
    "ell_Grek": "και το να ου εί στ μα τη ρο πα",
}


def write_text(folder: Path, documents: int = 60) -> Path:
    """``folder/text/<language>.jsonl``: words of three languages, each from its own syllables; returns the folder."""
    random = np.random.default_rng(0)
    for language, syllables in SYLLABLES.items():
        parts = syllables.split()
        words = ["".join(random.choice(parts, random.integers(1, 4))) for _ in range(80)]
        path = folder / "text" / f"{language}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for number in range(documents):
                text = " ".join(random.choice(words, random.integers(20, 120)))
                file.write(json.dumps({"id": f"{language}-{number}", "text": text}, ensure_ascii=False) + "\n")
    return folder / "text"


def write_recipe(folder: Path, changes: Sequence[str] = ()) -> tuple[Recipe, Path]:
    """A recipe over ``write_text``'s folder, with overrides, and the file it is in."""
    path = folder / "recipe.yaml"
    path.write_text(
        f"""
name: small
seed: 3
sources: {{words: {{kind: jsonl, path: {folder / "text"}}}}}
tokenizer: {{vocab_size: 512, sample_characters: 100k}}
model: {{hidden_size: 32, intermediate_size: 48, num_layers: 3, num_heads: 2, window: 16, mlp_dropout: 0.1}}
phases:
  first:
    tokens: 16_384
    data: {{temperature: 0.7, max_epochs: null}}
    context: 64
    mask_rate: 0.3
    batch: 1024
    batch_start: 512
    batch_warmup: 4096
    micro_batch: 512
    peak_lr: 5e-3
    warmup: 2048
  second:
    follows: first
    tokens: 8192
    data: {{temperature: 0.3, max_epochs: null}}
    context: 128
    rope_theta: 40_000
    rope: {{type: yarn, factor: 2, original: 64}}
    mask_rate: 0.15
    batch: 1024
    micro_batch: 512
    peak_lr: 5e-3
    decay: {{}}
runtime: {{threads: 1, checkpoint_every: 3000, log_every: 2}}
""",
        encoding="utf-8",
    )
    return Recipe.load(path, list(changes)), path


def prepare(folder: Path) -> tuple[Recipe, Path]:
    """Text, tokenizer and shards below ``folder``; returns the recipe and the data folder."""
    write_text(folder)
    recipe, _ = write_recipe(folder)
    prepare_data(recipe, folder / "data")
    return recipe, folder / "data"
