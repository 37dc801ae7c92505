"""What counting alone makes of a text, by the units that are counted: topics told by a linear model.

    python docs/results/tasks/counted_vectors.py EVAL eng_Latn,hau_Latn CORPUS[,NEAR ...] words TOKENIZER [...]

Units are whole words, or the tokens of a tokenizer. *bag*: which units stand in a sentence, by TF-IDF. *neighbours*:
the mean of the units' vectors, each made of the company it keeps in ``<folder>/<language>.jsonl[.gz]`` of the folders
(``mmbert.training.cooccurrence_init``), weighed by TF-IDF too; documents with a line of SIB-200 are left out. *both*:
side by side. *random*: as neighbours, with a random vector for each unit. Accuracy over all of SIB-200's 1,004
sentences of a language, cross-validated in five parts, at the best of several strengths of regularisation (for all
alike).
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from layer_probe import read
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.preprocessing import normalize

from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.training.cooccurrence_init import factorise, shared_information

WIDTH = 256
RAREST = 5
"""Whole words that stand less often have no vector."""
STRENGTHS = (1, 3, 10, 30, 100)
PARTS = StratifiedKFold(5, shuffle=True, random_state=0)

Cut = Callable[[str], Sequence[Hashable]]


def documents(folders: list[Path], language: str, without: set[str]) -> Iterator[str]:
    """The text of a language, less the documents that hold one of the lines ``without``."""
    for folder in folders:
        for path in sorted(folder.glob(f"{language}.jsonl*")):
            with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
                for line in file:
                    text = json.loads(line)["text"]
                    if without.isdisjoint(text.split("\n")):
                        yield text


def whole_words(text: str) -> list[str]:
    """Runs of letters and digits, in lower case."""
    return re.findall(r"\w+", text.lower())


def accuracy(features: sp.csr_matrix | np.ndarray, labels: list[str]) -> float:
    """Percent, at the best strength."""
    models = (LogisticRegression(C=strength, max_iter=500) for strength in STRENGTHS)
    return 100 * max(float(cross_val_score(model, features, labels, cv=PARTS).mean()) for model in models)


def report(cut: Cut, rarest: int, texts: list[str], sentences: list[str], labels: list[str]) -> str:
    """The line of one kind of units."""
    vocabulary: dict[Hashable, int] = {}
    lines = [np.array([vocabulary.setdefault(unit, len(vocabulary)) for unit in cut(text)], int) for text in texts]
    counts = np.bincount(np.concatenate(lines), minlength=len(vocabulary))
    kept = np.flatnonzero(counts >= rarest)
    vectors = np.zeros((len(vocabulary), WIDTH), np.float32)
    vectors[kept] = factorise(shared_information([line[counts[line] >= rarest] for line in lines], kept), WIDTH, seed=0)
    found = [[vocabulary.setdefault(unit, len(vocabulary)) for unit in cut(sentence)] for sentence in sentences]
    ends = np.cumsum([0, *map(len, found)])
    size = len(vocabulary)
    bag = sp.csr_matrix((np.ones(ends[-1]), np.concatenate(found), ends), shape=(len(found), size))
    bag.sum_duplicates()
    weighed = TfidfTransformer(sublinear_tf=True).fit_transform(bag)
    vectors = np.concatenate([vectors, np.zeros((size - len(vectors), WIDTH), np.float32)])
    means = normalize(weighed @ vectors)
    random = normalize(weighed @ np.random.default_rng(0).normal(size=vectors.shape))
    features = {"bag": weighed, "neighbours": means, "both": sp.hstack([weighed, means]).tocsr(), "random": random}
    return "  ".join(f"{name} {accuracy(each, labels):.1f}" for name, each in features.items())


def main(data: Path, languages: list[str], folders: list[Path], kinds: list[str]) -> None:
    for language in languages:
        parts = [read(data / "sib200" / language / f"{part}.jsonl.gz") for part in ("train", "dev", "test")]
        sentences, labels = ([value for part in parts for value in part[field]] for field in (0, 1))
        texts = list(documents(folders, language, set(sentences)))
        print(f"{language}: {sum(map(len, texts)):,} characters")
        for kind in kinds:
            cut, rarest = (whole_words, RAREST) if kind == "words" else (Tokenizer.load(kind).encode, 1)
            print(f"  {kind}: {report(cut, rarest, texts, sentences, labels)}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","), [Path(each) for each in sys.argv[3].split(",")], sys.argv[4:])
