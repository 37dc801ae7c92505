"""What a masked language model knows of frequent and of rare words: bits gained over their frequency.

    python docs/results/tasks/rare_words.py CORPUS HELDOUT eng_Latn,deu_Latn MODEL [MODEL ...]

CORPUS and HELDOUT hold ``<language>.jsonl.gz``. 15 % of the words of HELDOUT's text are masked, once with all their
tokens, so that the sentence alone must tell, and once with their first token alone, so that spelling tells too. Of both
the first token is judged: log2 p by the model, less that by the token's frequency in the language's text in CORPUS (0:
nothing but frequency is known). Printed are the means of groups of words, by how often their first token stands there.
"""

from __future__ import annotations

import gzip
import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed
from mmbert.tokenizer.tokenizer import Tokenizer

LONGEST, SEQUENCES, RATE = 256, 300, 0.15
EDGES = (0, 100, 1000, 10_000, 10**9)
"""Counts in CORPUS that part the groups."""


def encode(path: Path, tokenizer: Tokenizer) -> NDArray[np.int64]:
    """The ids of all documents, without <bos> and <eos>."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return np.concatenate([np.array(tokenizer.encode(json.loads(line)["text"])[1:-1]) for line in file])


def gains(model: MaskedLM, ids: NDArray[np.int64], places: NDArray[np.int64], hidden: NDArray[np.bool_]) -> np.ndarray:
    """log2 p of the tokens at ``places`` of a stretch of text whose ``hidden`` tokens are masked."""
    shown = np.where(hidden, model.config.mask_id, ids)
    packed = Packed.from_lists([np.array([model.config.bos_id, *shown, model.config.eos_id])])
    asked = replace(packed, targets=places + 1, labels=ids[places]).to("cpu")
    with torch.inference_mode():
        return model.logits(asked).float().log_softmax(-1).gather(1, asked.labels[:, None])[:, 0].numpy() / np.log(2)


def main(corpus: Path, heldout: Path, languages: list[str], models: list[str]) -> None:
    print(
        "words whose first token stands there " + ", ".join(f"{a:,}-{b - 1:,}" for a, b in pairwise(EDGES)) + " times"
    )
    for name in models:
        model, tokenizer = MaskedLM.load(name).eval(), Tokenizer.load(name)
        size = model.config.vocab_size
        begins = np.array(
            [tokenizer.decode([1000, token])[len(tokenizer.decode([1000])) :][:1] == " " for token in range(size)]
        )
        for language in languages:
            counts = np.bincount(encode(corpus / f"{language}.jsonl.gz", tokenizer), minlength=size)
            unigram = np.log2((counts + 0.5) / (counts + 0.5).sum())
            text = encode(heldout / f"{language}.jsonl.gz", tokenizer)
            draw = np.random.default_rng(0)
            words, whole, first = [], [], []
            for start in range(0, min(len(text), LONGEST * SEQUENCES) - LONGEST, LONGEST):
                ids = text[start : start + LONGEST]
                places = np.flatnonzero(begins[ids])
                places = places[draw.random(len(places)) < RATE]
                if len(places):
                    starts = np.zeros(LONGEST, dtype=bool)
                    starts[places] = True
                    word = np.cumsum(begins[ids])
                    words.append(ids[places])
                    whole.append(gains(model, ids, places, np.isin(word, word[places])) - unigram[ids[places]])
                    first.append(gains(model, ids, places, starts) - unigram[ids[places]])
            group = np.searchsorted(EDGES, counts[np.concatenate(words)], side="right") - 1
            print(name, language)
            for label, found in (("whole words", np.concatenate(whole)), ("first token", np.concatenate(first))):
                means = [found[group == g].mean() if (group == g).any() else np.nan for g in range(len(EDGES) - 1)]
                print(
                    f"  {label}: {found.mean():.2f} of all {len(found):,}; " + " ".join(f"{mean:.2f}" for mean in means)
                )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(","), sys.argv[4:])
