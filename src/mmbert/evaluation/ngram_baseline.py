"""Baselines without a language model: n-grams of characters, by scikit-learn.

    classify  n-grams of characters (TF-IDF) and logistic regression; numbers by ridge regression
    tag       n-grams of a word, of its neighbours' and its shape, and a linear classifier
    bitext    cosine of n-grams: what shared spelling finds
    answer    the span of the text that shares most with the question around it (sliding window, Richardson 2013)
    choose    the choice whose n-grams are nearest to the question's

There are two feature sets: n-grams of up to four characters with words and neighbours around them (``NGRAMS``), and
character unigrams (``UNIGRAMS``). Both are fitted on the same training rows and scored by the same code as a model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from mmbert.errors import import_extra
from mmbert.evaluation.predict import Tagged, texts_of
from mmbert.evaluation.sources import Row
from mmbert.evaluation.task import Task
from mmbert.evaluation.word_spans import place_words, spans_of
from mmbert.finetuning.labels import as_label

Predict = Callable[[Sequence[Row]], Any]


@dataclass(frozen=True)
class FeatureSet:
    """What is seen of a text.

    longest  n-gram, in characters
    around   of a word also itself, its shape and its neighbours; n-grams end at spaces
    """

    longest: int
    around: bool


NGRAMS, UNIGRAMS = FeatureSet(4, True), FeatureSet(1, False)

_BUCKETS = 2**18
_WORD = re.compile(r"\w+")
_ANSWER_WORDS = 6
"""Longest answer of the sliding window, in words."""
_AROUND = 8
"""Words on either side of a span that are compared with the question."""


def fit(task: Task, rows: Sequence[Row], seed: int = 0, feature_set: FeatureSet = NGRAMS) -> Predict:
    """Fit the baseline of the task's kind; what is returned predicts as ``predict`` does. ``rows`` may be empty where
    nothing is learned (bitext, answer, choose)."""
    return _FIT[task.kind](task, rows, seed, feature_set)


def _classify(task: Task, rows: Sequence[Row], seed: int, feature_set: FeatureSet) -> Predict:
    problem = task.protocol.options.get("problem", "single_label")
    vectors = _vectorizer(feature_set)
    features = _pair_features(vectors, rows, fit=True)
    linear = _sklearn("linear_model")
    if problem == "regression":
        numbers = linear.Ridge().fit(features, [float(row["label"]) for row in rows])
        return lambda asked: numbers.predict(_pair_features(vectors, asked)).tolist()
    if problem == "multi_label":
        binarizer = _sklearn("preprocessing").MultiLabelBinarizer()
        wanted = binarizer.fit_transform([[as_label(label) for label in row["label"]] for row in rows])
        several = _sklearn("multiclass").OneVsRestClassifier(linear.LogisticRegression(C=10, max_iter=300))
        several.fit(features, wanted)
        return lambda asked: [
            list(found) for found in binarizer.inverse_transform(several.predict(_pair_features(vectors, asked)))
        ]
    labels = [as_label(row["label"]) for row in rows]
    if len(set(labels)) == 1:
        return lambda asked: [labels[0]] * len(asked)
    model = linear.LogisticRegression(C=10, max_iter=300, random_state=seed).fit(features, labels)
    return lambda asked: [str(label) for label in model.predict(_pair_features(vectors, asked))]


def _pair_features(vectors: Any, rows: Sequence[Row], *, fit: bool = False) -> Any:
    """n-grams of the text; of a pair also those of the second, and what they share."""
    texts = [texts_of(row) for row in rows]
    firsts = [text if isinstance(text, str) else text[0] for text in texts]
    if not any(isinstance(text, tuple) for text in texts):
        return vectors.fit_transform(firsts) if fit else vectors.transform(firsts)
    seconds = ["" if isinstance(text, str) else text[1] for text in texts]
    if fit:
        vectors.fit([*firsts, *seconds])
    one, other = vectors.transform(firsts), vectors.transform(seconds)
    sparse = import_module("scipy.sparse")
    shared = one.multiply(other)  # a linear model cannot compare the two texts by itself
    return sparse.hstack([one, other, shared, sparse.csr_matrix(shared.sum(axis=1))]).tocsr()


def _tag(task: Task, rows: Sequence[Row], seed: int, feature_set: FeatureSet) -> Predict:
    hashing = _sklearn("feature_extraction").FeatureHasher(_BUCKETS, input_type="string")
    linear = _sklearn("linear_model")
    model = linear.SGDClassifier(loss="log_loss", alpha=1e-6, max_iter=8, tol=None, random_state=seed)
    labels = [as_label(tag) for row in rows for tag in row["tags"]]
    model.fit(hashing.transform(_word_features(rows, feature_set)), labels)
    join = task.protocol.options.get("join", "auto")

    def predict(asked: Sequence[Row]) -> list[Tagged]:
        given = [str(label) for label in model.predict(hashing.transform(_word_features(asked, feature_set)))]
        found, start = [], 0
        for row in asked:
            tags = given[start : start + len(row["tokens"])]
            start += len(tags)
            _, places = place_words(row, join)
            found.append(Tagged(tags, spans_of(tags, places)))
        return found

    return predict


def _word_features(rows: Sequence[Row], feature_set: FeatureSet) -> list[list[str]]:
    """Of every word of every row: its n-grams and shape, and those of the words beside it; or its characters alone."""
    found: list[list[str]] = []
    for row in rows:
        words = [str(word) for word in row["tokens"]]
        if not feature_set.around:
            found.extend(["bias", *word] for word in words)
            continue
        own = [_grams(word, feature_set.longest) for word in words]
        for place in range(len(words)):
            features = ["bias", *own[place]]
            for step in (-2, -1, 1, 2):
                beside = place + step
                near = own[beside] if 0 <= beside < len(words) else ["edge"]
                features.extend(f"{step}:{gram}" for gram in (near if abs(step) == 1 else near[:2]))
            found.append(features)
    return found


def _grams(word: str, longest: int) -> list[str]:
    marked = f"<{word}>"
    sizes = range(1, longest + 1)
    grams = {marked[start : start + size] for size in sizes for start in range(len(marked) - size + 1)}
    shape = "".join("A" if c.isupper() else "a" if c.isalpha() else "0" if c.isdigit() else c for c in word)
    return [f"w={word.lower()}", f"s={shape[:6]}", *sorted(grams)]


def _bitext(task: Task, rows: Sequence[Row], seed: int, feature_set: FeatureSet) -> Predict:
    def predict(asked: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
        vectors = _vectorizer(feature_set, max_features=20_000, min_df=2)
        sides = [[str(row[name]) for row in asked] for name in ("text", "translation")]
        vectors.fit([*sides[0], *sides[1]])
        one, other = (vectors.transform(side).toarray().astype(np.float32) for side in sides)
        return one, other

    return predict


def _choose(task: Task, rows: Sequence[Row], seed: int, feature_set: FeatureSet) -> Predict:
    def predict(asked: Sequence[Row]) -> list[int]:
        vectors = _vectorizer(feature_set)
        questions = [str(row["question"]) for row in asked]
        choices = [str(choice) for row in asked for choice in row["choices"]]
        vectors.fit([*questions, *choices])
        keys, found, start = vectors.transform(choices), [], 0
        for row, question in zip(asked, vectors.transform(questions), strict=True):
            near = (keys[start : start + len(row["choices"])] @ question.T).toarray()[:, 0]
            start += len(row["choices"])
            found.append(int(near.argmax()))
        return found

    return predict


def _answer(task: Task, rows: Sequence[Row], seed: int, feature_set: FeatureSet) -> Predict:
    return lambda asked: [_slide(str(row["question"]), str(row["context"])) for row in asked]


def _slide(question: str, context: str) -> str:
    """The span of at most six words, none of them the question's, with most of the question's words around it; rarer
    words count more, and near ones."""
    wanted = {word.lower() for word in _WORD.findall(question)}
    words = list(_WORD.finditer(context))
    if not words:
        return context.strip()
    lower = [match[0].lower() for match in words]
    counts = {word: lower.count(word) for word in wanted}
    # a word of the question counts log(1 + 1 / its number in the text), and 1 / (1 + its distance)
    weight = np.array([np.log1p(1 / counts[word]) if word in wanted else 0.0 for word in lower])
    offsets = np.arange(-_AROUND, _AROUND + 1)
    around = np.convolve(weight, 1 / (1 + np.abs(offsets)), mode="same" if len(weight) >= len(offsets) else "full")
    if len(around) != len(weight):  # "same" gives the longer of both: cut "full" for texts shorter than the window
        around = around[_AROUND : _AROUND + len(weight)]
    open_places = np.flatnonzero(weight == 0)
    if not len(open_places):
        return words[0][0]
    best = int(open_places[around[open_places].argmax()])
    first = last = best
    while last + 1 < len(words) and weight[last + 1] == 0 and last + 1 - first < _ANSWER_WORDS // 2:
        last += 1
    return context[words[first].start() : words[last].end()]


def _vectorizer(feature_set: FeatureSet, **options: Any) -> Any:
    text = _sklearn("feature_extraction.text")
    analyzer, sizes = "char_wb" if feature_set.around else "char", (1, feature_set.longest)
    return text.TfidfVectorizer(analyzer=analyzer, ngram_range=sizes, sublinear_tf=True, dtype=np.float32, **options)


def _sklearn(name: str) -> Any:
    return import_extra(f"sklearn.{name}", "evaluate")


_FIT: dict[str, Callable[[Task, Sequence[Row], int, FeatureSet], Predict]] = {
    "classify": _classify,
    "tag": _tag,
    "bitext": _bitext,
    "answer": _answer,
    "choose": _choose,
}
