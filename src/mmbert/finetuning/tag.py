"""``tag``: classes of words, such as names and parts of speech, on the raw sentence.

A word's class is that of the token that begins it; the others carry no label. A sentence that is longer than the model
reads goes in windows that overlap, each word judged where it stands farther from the edge, so none is lost. Entities
are scored on the characters of the sentence.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmbert.finetuning.classify import class_weights
from mmbert.finetuning.collate import Feature, best_as_rows
from mmbert.finetuning.examples import (
    label_number,
    read_splits,
)
from mmbert.finetuning.finetune import Trained
from mmbert.finetuning.init_model import Start, load_start
from mmbert.finetuning.losses import IGNORED, ClassLoss
from mmbert.finetuning.packed_model import PackedModel
from mmbert.finetuning.recipe import FinetuneRecipe, Tag
from mmbert.finetuning.task_rows import METRICS, NOTHING, UNTAGGED, Sentence, read_all, tag_names, task_fields
from mmbert.finetuning.trainer import fit
from mmbert.finetuning.word_labels import Span, first_tokens
from mmbert.inference.chunking import plan_windows
from mmbert.inference.entities import trim_spans
from mmbert.metrics.entities import Counts, count_spans, entity_f1, read_chunks, token_accuracy
from mmbert.model.tasks import TokenClassifier

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Window:
    """A feature's part of a sentence: which words it judges, and where in it each begins."""

    sentence: int
    words: np.ndarray
    places: np.ndarray


def train(recipe: FinetuneRecipe, folder: Path, callbacks: Sequence[Any] = ()) -> Trained:
    """The contract of ``mmbert.finetuning.finetune``."""
    own = recipe.tag
    splits = read_splits(recipe, task_fields(recipe))
    sentences = read_all(splits, own, recipe.data.no_label)
    names = tag_names(sentences["train"], splits["train"].names.get("tags", ()), own)
    start = load_start(recipe, TokenClassifier, names, None)
    numbers = {name: number for number, name in enumerate(start.names)}
    data, windows = {}, {}
    for role, each in sentences.items():
        data[role], windows[role] = make_features(each, own, numbers, start)
    counts = Counter(tag for sentence in sentences["train"] for tag in sentence.tags if tag != UNTAGGED)
    weights = class_weights(own.class_weights, start.names, [counts[name] for name in start.names], "tag")
    model = PackedModel(
        start.task,
        ClassLoss(weights, own.focal_gamma),
        best_as_rows,
        start.names,
        start.tokenizer,
        max_tokens=start.task.config.max_context,
    )
    languages = [sentences["train"][window.sentence].row["language"] or "" for window in windows["train"]]
    score = Scores(sentences, windows, start.names)
    return fit(recipe, folder, model, data, languages, score, score.names[0], callbacks)


def make_features(
    sentences: list[Sentence], own: Tag, numbers: dict[str, int], start: Start
) -> tuple[list[Feature], list[Window]]:
    """Ids and labels of tokens, and which words each feature judges."""
    encoded = _split_words(sentences, start) if own.words == "split" else _raw(sentences, start)
    capacity = start.max_tokens - 2
    bos, eos = [start.tokenizer.bos_id], [start.tokenizer.eos_id]
    features: list[Feature] = []
    windows: list[Window] = []
    for index, (sentence, (ids, firsts)) in enumerate(zip(sentences, encoded, strict=True)):
        labels = np.array([
            IGNORED if tag == UNTAGGED else label_number(numbers, sentence.row, "tag", tag, "tag.labels")
            for tag in sentence.tags
        ])  # fmt: skip
        for window in plan_windows(len(ids), capacity, capacity // 4 if len(ids) > capacity else 0):
            words = np.flatnonzero((firsts >= window.first) & (firsts < window.last))
            places = firsts[words] - window.start + 1  # behind <bos>
            marks = np.full(window.end - window.start + 2, IGNORED, np.int64)
            marks[places[::-1]] = labels[words[::-1]]  # of words that share a token, the first one's
            features.append({"ids": np.concatenate([bos, ids[window.start : window.end], eos]), "labels": marks})
            windows.append(Window(index, words, places))
    return features, windows


def _raw(sentences: list[Sentence], start: Start) -> list[tuple[np.ndarray, np.ndarray]]:
    """(ids, token that begins each word) of raw sentences."""
    encoded = start.tokenizer.encode_spans([sentence.text for sentence in sentences], specials=True)
    return [
        (ids, first_tokens(trim_spans(sentence.text, spans), sentence.words))
        for sentence, (ids, spans) in zip(sentences, encoded, strict=True)
    ]


def _split_words(sentences: list[Sentence], start: Start) -> list[tuple[np.ndarray, np.ndarray]]:
    """The same where each word is encoded by itself, as ``is_split_into_words=True`` does."""
    words = [sentence.text[begin:end] for sentence in sentences for begin, end in sentence.words]
    encoded = iter(start.tokenizer.encode_batch(words, specials=True))
    found = []
    for sentence in sentences:
        own = [next(encoded) for _ in sentence.words]
        sizes = np.array([len(ids) for ids in own])
        firsts = np.where(sizes > 0, np.cumsum(sizes) - sizes, -1)
        found.append((np.concatenate(own), firsts))
    return found


class Scores:
    """F1 of entities on characters, and part of the words that are right; for parts of speech F1 as seqeval counts.

    A word that begins in another's token (``Accra.`` may be one) has no answer of its own: signs are ``O`` or PUNCT,
    any other word goes on with that one's. A word without any token is ``O``, or has the commonest tag.
    """

    names = METRICS["tag"]

    def __init__(
        self, sentences: dict[str, list[Sentence]], windows: dict[str, list[Window]], names: tuple[str, ...]
    ) -> None:
        self._sentences, self._windows, self._names = sentences, windows, names
        counts = Counter(tag for sentence in sentences["train"] for tag in sentence.tags if tag != UNTAGGED)
        self._usual = NOTHING if NOTHING in names else counts.most_common(1)[0][0]
        self._entities = NOTHING in names

    def __call__(self, role: str, best: Any) -> dict[str, float]:
        sentences = self._sentences[role]
        said = [[self._usual] * len(sentence.words) for sentence in sentences]
        for window, row in zip(self._windows[role], best, strict=True):
            text, places = sentences[window.sentence], window.places.tolist()
            for at, (word, place) in enumerate(zip(window.words.tolist(), places, strict=True)):
                begin, end = text.words[word]
                shared = at > 0 and places[at - 1] == place
                tag = self._names[int(row[place])]
                said[window.sentence][word] = self._follow(tag, text.text[begin:end]) if shared else tag
        kept = [[at for at, tag in enumerate(sentence.tags) if tag != UNTAGGED] for sentence in sentences]
        said = [[tags[at] for at in places] for tags, places in zip(said, kept, strict=True)]
        gold = [[sentence.tags[at] for at in places] for sentence, places in zip(sentences, kept, strict=True)]
        found = {"accuracy": token_accuracy(said, gold)}
        if not self._entities:
            return {"f1": entity_f1(said, gold), **found}
        words = [[sentence.words[at] for at in places] for sentence, places in zip(sentences, kept, strict=True)]
        counts = _on_characters(words, said, gold)
        if not counts.gold:  # without an entity they have no value
            return found
        return {"f1": counts.f1, "precision": counts.precision, "recall": counts.recall, **found}

    def _follow(self, tag: str, word: str) -> str:
        """The tag of a word that begins in the token of the one before."""
        if not any(sign.isalnum() for sign in word):
            return next((name for name in (NOTHING, "PUNCT") if name in self._names), tag)
        inner = f"I{tag[1:]}"
        return inner if tag[:2] in ("B-", "B_") and inner in self._names else tag


def _on_characters(words: list[list[Span]], said: list[list[str]], gold: list[list[str]]) -> Counts:
    """Entities of both sides as characters of their sentences."""

    def spans(tags: list[list[str]]) -> list[list[tuple[int, int, str]]]:
        return [
            [(places[first][0], places[last][1], kind) for kind, first, last in read_chunks(each)]
            for places, each in zip(words, tags, strict=True)
        ]

    return count_spans(spans(said), spans(gold))
