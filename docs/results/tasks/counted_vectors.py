"""What counting alone makes of a corpus: topics told by a linear model, from tokens and from their neighbours.

    python docs/results/tasks/counted_vectors.py CORPUS EVAL eng_Latn MODEL

The tokens are those of MODEL's tokenizer. *bag*: how often each stands in a sentence, plain and weighed by TF-IDF.
*neighbours*: each token's vector is its row of the positive pointwise mutual information with the tokens within WINDOW
of it in CORPUS, in WIDTH singular values, and a sentence is the mean of its tokens' vectors; plain, and of length one
with frequent tokens counted less (Arora et al. 2017). *random*: a random vector for each token. Accuracy on SIB-200's
test rows, at the best of several strengths of regularisation (chosen on the test rows, for all alike).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from layer_probe import read
from rare_words import encode
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils.extmath import randomized_svd

from mmbert.tokenizer.tokenizer import Tokenizer

WINDOW, WIDTH = 16, 256
STRENGTHS = (0.0003, 0.001, 0.01, 0.1, 1, 10)


def neighbours(ids: np.ndarray, size: int) -> np.ndarray:
    """(size, WIDTH) vectors of tokens."""
    counts = sp.csr_matrix((size, size))
    for distance in range(1, WINDOW + 1):
        pairs = (np.ones(len(ids) - distance), (ids[:-distance], ids[distance:]))
        counts += sp.coo_matrix(pairs, shape=(size, size)).tocsr()
    counts = (counts + counts.T).tocoo()
    rows = np.asarray(counts.sum(1)).ravel()
    columns = rows**0.75 / (rows**0.75).sum()
    information = np.log(counts.data / (rows[counts.row] * columns[counts.col]))
    kept = information > 0
    table = sp.csr_matrix((information[kept], (counts.row[kept], counts.col[kept])), shape=(size, size))
    left, values, _ = randomized_svd(table, WIDTH, random_state=0)
    return left * np.sqrt(values)


def main(corpus: Path, data: Path, language: str, model: str) -> None:
    tokenizer = Tokenizer.load(model)
    size = tokenizer.vocab_size
    (texts, labels), (asked, wanted) = (read(data / "sib200" / language / f"{s}.jsonl.gz") for s in ("train", "test"))
    bags = []
    for part in (texts, asked):
        sentences = [np.array(tokenizer.encode(text)[1:-1]) for text in part]
        bags.append(sp.csr_matrix(np.stack([np.bincount(ids, minlength=size) for ids in sentences]).astype(float)))
    ids = encode(corpus / f"{language}.jsonl.gz", tokenizer)
    share = np.bincount(ids, minlength=size) / len(ids)
    vectors = neighbours(ids, size)
    plain = vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-9) * (1e-3 / (1e-3 + share))[:, None]
    tables = {"neighbours": vectors, "neighbours, weighed": plain}
    tables["random"] = np.random.default_rng(0).normal(size=vectors.shape)
    weigh = TfidfTransformer(sublinear_tf=True).fit(bags[0])
    features = {"bag": bags, "bag, TF-IDF": [weigh.transform(bag) for bag in bags]}
    for name, table in tables.items():
        means = [(bag @ table) / np.asarray(bag.sum(1)) for bag in bags]
        scaler = StandardScaler().fit(means[0])
        features[name] = [scaler.transform(mean) for mean in means]
    for name, (train, test) in features.items():
        fitted = (LogisticRegression(C=strength, max_iter=2000).fit(train, labels) for strength in STRENGTHS)
        print(f"{language} {name}: {100 * max(each.score(test, wanted) for each in fitted):.1f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
