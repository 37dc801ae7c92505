"""How often the words that tell topics stand in the text a model was pretrained on.

    python docs/results/tasks/topic_words.py CORPUS EVAL eng_Latn,swh_Latn,deu_Latn,hau_Latn

Content words: those of the test sentences that are not among the language's 200 most frequent words in CORPUS. Telling
words: for each topic the 20 with the largest weights of a linear model of words (TF-IDF) fitted to the training rows.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

WORD = re.compile(r"[^\W\d_]+")
COMMON, TELLING, RARE = 200, 20, 10


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def main(corpus: Path, data: Path, languages: list[str]) -> None:
    print("language, words in the corpus; content words never there, fewer than 10 times; telling words: median, never")
    for language in languages:
        counts: Counter[str] = Counter()
        for row in read(corpus / f"{language}.jsonl.gz"):
            counts.update(WORD.findall(row["text"].lower()))
        common = {word for word, _ in counts.most_common(COMMON)}
        test = read(data / "sib200" / language / "test.jsonl.gz")
        words = [word for row in test for word in WORD.findall(row["text"].lower()) if word not in common]
        seen = np.array([counts[word] for word in words])
        train = read(data / "sib200" / language / "train.jsonl.gz")
        vectors = TfidfVectorizer(token_pattern=WORD.pattern)
        features = vectors.fit_transform([row["text"] for row in train])
        model = LogisticRegression(C=10, max_iter=300).fit(features, [row["label"] for row in train])
        names = vectors.get_feature_names_out()
        telling = {name for weights in model.coef_ for name in names[np.argsort(-weights)[:TELLING]]}
        there = np.array([counts[word] for word in telling])
        print(
            f"{language}, {counts.total():,}; {100 * np.mean(seen == 0):.1f} %, {100 * np.mean(seen < RARE):.1f} %; "
            f"{np.median(there):g}, {100 * np.mean(there == 0):.0f} %"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(","))
