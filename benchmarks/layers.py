"""Quality and speed of a tuned embedding model over layers and dimensions: finding translations.

    python benchmarks/layers.py RUN [--split dev] [--dimensions 128 64 32 16] [--layers 1 2 3 4] [--rounds 5]

RUN is the folder of a fine-tuning run on pairs, with ``recipe.yaml`` and ``final``; its data must be where the recipe
says. Quality, on its ``dev`` or ``test`` rows: how often the nearest positive of a language is the right one, the mean
over languages and both directions, as ``evaluator: translation`` measures it. Speed: tokens per second of this
process's own time (neighbours do not count), one thread, medians over rounds in which the numbers of layers take turns.
Fewer dimensions do not speed up the encoder, but the index and its search. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from mmbert import Embedder
from mmbert.finetuning.examples import read_splits
from mmbert.finetuning.ranking_examples import Texts, fields_of, group_splits
from mmbert.finetuning.recipe import FinetuneRecipe

Pairs = list[tuple[str, str]]


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    languages = _pairs(options.run, options.split)
    models = {
        count: Embedder.load(options.run / "final", num_layers=count, device="cpu", precision=options.precision)
        for count in options.layers
    }
    seconds: dict[int, list[float]] = {count: [] for count in models}
    texts = [text for pairs in languages.values() for pair in pairs for text in pair]
    for number in range(options.rounds):
        for count in options.layers if number % 2 else reversed(options.layers):
            start = time.process_time()
            models[count](texts, progress=False)
            seconds[count].append(time.process_time() - start)
    tokenizer = next(iter(models.values())).loaded.tokenizer
    tokens = sum(len(ids) + 2 for ids in tokenizer.encode_batch(texts))
    print(f"{len(texts):,} texts of {tokens / len(texts):.1f} tokens, {len(languages)} languages, one thread\n")
    widths = options.dimensions
    print(f"| layers | {' | '.join(f'{width} dimensions' for width in widths)} | tokens/s | of all layers |")
    print(f"| ---: |{' ---: |' * (len(widths) + 2)}")
    times = {count: statistics.median(found) for count, found in seconds.items()}
    for count, model in models.items():
        shares = [f"{_accuracy(model, languages, width):.1%}" for width in widths]
        speed = f"{tokens / times[count]:,.0f} | {times[max(times)] / times[count]:.2f}x"
        print(f"| {count} | {' | '.join(shares)} | {speed} |", flush=True)


def _pairs(run: Path, split: str) -> dict[str, Pairs]:
    """Return the rows of a split, as the run read them, by language."""
    recipe = FinetuneRecipe.load(run / "recipe.yaml")
    texts = Texts(recipe.options.lookup)
    splits = read_splits(recipe, fields_of(recipe.task, recipe.options.loss, texts))
    found: dict[str, Pairs] = {}
    for group in group_splits(splits, texts, recipe.options.loss)[split]:
        found.setdefault(group.language, []).append((group.query, group.documents[0]))
    return found


def _accuracy(model: Embedder, languages: dict[str, Pairs], width: int) -> float:
    """Return the share of sentences whose nearest translation is their own."""
    found = []
    for pairs in languages.values():
        own, english = (
            np.asarray(model([pair[side] for pair in pairs], dimensions=width, progress=False)) for side in (0, 1)
        )
        scores = own @ english.T
        right = np.arange(len(pairs))
        found += [np.mean(scores.argmax(axis) == right) for axis in (0, 1)]
    return float(np.mean(found))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="dev", choices=("dev", "test"))
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[128, 64, 32, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()
