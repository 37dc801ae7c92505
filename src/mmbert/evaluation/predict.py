"""Predictions of a model folder, by the predictors that users have: Classifier, Tagger, Answerer, MultipleChoice, ...

    predictions = predict(task, folder, rows)       # what ``task_metrics.score`` compares

So a figure says what a user gets, long texts and odd scripts included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mmbert.evaluation.sources import Row
from mmbert.evaluation.task import Task
from mmbert.evaluation.word_spans import place_words
from mmbert.finetuning.examples import want_text
from mmbert.finetuning.word_labels import Span as Place
from mmbert.finetuning.word_labels import first_tokens
from mmbert.inference.answerer import Answerer
from mmbert.inference.classifier import Classifier
from mmbert.inference.embedder import Embedder
from mmbert.inference.entities import Scheme, read_entities
from mmbert.inference.multiple_choice import MultipleChoice
from mmbert.inference.tagger import Tagger, TokenScores
from mmbert.metrics.entities import Span


@dataclass(frozen=True)
class Tagged:
    """``labels`` of the words that were given, and entities as characters of the text (``spans``)."""

    labels: list[str]
    spans: set[Span]


def predict(task: Task, folder: Path, rows: Sequence[Row]) -> Any:
    """Return the predictions of the model in ``folder``, one a row; for ``bitext`` two matrices (n, d)."""
    return _PREDICT[task.kind](task, folder, rows)


def texts_of(row: Row) -> Any:
    """Return a text, or a pair of them. Raises DataError for one that is empty."""
    text = want_text(row, "text")
    return (text, want_text(row, "text_pair")) if row.get("text_pair") is not None else text


def _classify(task: Task, folder: Path, rows: Sequence[Row]) -> list[Any]:
    model: Classifier = _load(Classifier, folder)
    found = model([texts_of(row) for row in rows], progress=False)
    problem = task.protocol.options.get("problem", "single_label")
    if problem == "regression":
        return [one.score for one in found]
    return [list(one.labels) if problem == "multi_label" else one.label for one in found]


def _tag(task: Task, folder: Path, rows: Sequence[Row]) -> list[Tagged]:
    model: Tagger = _load(Tagger, folder)
    placed = [place_words(row, task.protocol.options.get("join", "auto")) for row in rows]
    scheme = Scheme(model.labels)
    found = model.tokens([text for text, _ in placed], progress=False)
    return [
        Tagged(_word_labels(scores, places, model.labels), _entities(scores, scheme))
        for scores, (_, places) in zip(found, placed, strict=True)
    ]


def _word_labels(scores: TokenScores, places: Sequence[Place], labels: Sequence[str]) -> list[str]:
    """A word is what its first token says; a word without a token is ``O``, or the first label."""
    fallback = "O" if "O" in labels else labels[0]
    if not len(scores.ids):
        return [fallback] * len(places)
    best = scores.probabilities.argmax(axis=1)
    firsts = first_tokens(scores.spans, places)
    return [labels[int(best[token])] if token >= 0 else fallback for token in firsts.tolist()]


def _entities(scores: TokenScores, scheme: Scheme) -> set[Span]:
    found = read_entities(scores.text, scores.spans, scores.probabilities, scheme, "first")
    return {(entity.start, entity.end, entity.label) for entity in found}


def _answer(task: Task, folder: Path, rows: Sequence[Row]) -> list[str]:
    model: Answerer = _load(Answerer, folder)
    options = task.protocol.options
    training = task.protocol.training
    window = min(int(training.get("max_tokens", 384)), model.loaded.max_tokens)
    found = model(
        [want_text(row, "question") for row in rows],
        [want_text(row, "context") for row in rows],
        longest=int(options.get("max_answer", 30)),
        overlap=min(int(options.get("doc_stride", 128)), window // 3),
        window=window,
        no_answer=bool(options.get("no_answer", False)),
        progress=False,
    )
    return [answers[0].text if answers else "" for answers in found]


def _choose(task: Task, folder: Path, rows: Sequence[Row]) -> list[int]:
    model: MultipleChoice = _load(MultipleChoice, folder)
    pairs = [(want_text(row, "question"), str(choice)) for row in rows for choice in row["choices"]]
    logits = np.concatenate([np.atleast_1d(one) for one in model.stream_logits(pairs, progress=False)])
    ends = np.cumsum([len(row["choices"]) for row in rows])
    return [int(part.argmax()) for part in np.split(logits, ends[:-1])]


def _bitext(task: Task, folder: Path, rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    model: Embedder = _load(Embedder, folder)
    sides = [[want_text(row, name) for row in rows] for name in ("text", "translation")]
    texts, translations = (np.asarray(model(side, progress=False)) for side in sides)
    return texts, translations


@lru_cache(maxsize=1)
def _load(kind: Any, folder: Path) -> Any:
    """One model in memory at a time, for all languages of a task."""
    return kind.load(folder)


_PREDICT: dict[str, Callable[[Task, Path, Sequence[Row]], Any]] = {
    "classify": _classify,
    "tag": _tag,
    "answer": _answer,
    "choose": _choose,
    "bitext": _bitext,
}
