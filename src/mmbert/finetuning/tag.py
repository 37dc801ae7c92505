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

from mmbert.errors import DataError
from mmbert.finetuning.classify import class_weights
from mmbert.finetuning.collate import Feature, best_as_rows
from mmbert.finetuning.examples import (
    Examples,
    Fields,
    Row,
    as_label,
    label_names,
    label_number,
    read_splits,
)
from mmbert.finetuning.finetune import Trained
from mmbert.finetuning.losses import IGNORED, ClassLoss
from mmbert.finetuning.packed_model import PackedModel
from mmbert.finetuning.recipe import FinetuneRecipe, Tag
from mmbert.finetuning.start import Start, load_start
from mmbert.finetuning.trainer import fit
from mmbert.finetuning.words import Span, find_words, first_tokens, join_words
from mmbert.inference.chunking import plan_windows
from mmbert.inference.entities import trim_spans
from mmbert.model.tasks import TokenClassifier
from mmbert.scoring.entities import Counts, count_spans, entity_f1, read_chunks, token_accuracy

log = logging.getLogger(__name__)

FIELDS = Fields(("tokens", "tags"), ("text",), ("tokens", "tags"))

NOTHING = "O"


@dataclass(frozen=True)
class Sentence:
    """A tagged sentence.

    text   raw, or put together of its words
    words  characters of each
    tags   of each
    """

    text: str
    words: list[Span]
    tags: list[str]
    row: Row


@dataclass(frozen=True)
class Window:
    """A feature's part of a sentence: which words it judges, and where in it each begins."""

    sentence: int
    words: np.ndarray
    places: np.ndarray


def train(recipe: FinetuneRecipe, folder: Path, callbacks: Sequence[Any] = ()) -> Trained:
    """The contract of ``mmbert.finetuning.finetune``."""
    own = recipe.tag
    splits = read_splits(recipe, FIELDS)
    sentences = {role: read_sentences(examples, role, own) for role, examples in splits.items()}
    found = [tag for sentence in sentences["train"] for tag in sentence.tags]
    names = label_names(found, splits["train"].names.get("tags", ()), own.labels)
    if not own.labels and NOTHING in names and "tags" not in splits["train"].names:
        names = (NOTHING, *(name for name in names if name != NOTHING))
    start = load_start(recipe, TokenClassifier, names, None)
    numbers = {name: number for number, name in enumerate(start.names)}
    data, windows = {}, {}
    for role, each in sentences.items():
        data[role], windows[role] = make_features(each, own, numbers, start)
    counts = Counter(found)
    weights = class_weights(own.class_weights, start.names, [counts[name] for name in start.names], "tag")
    model = PackedModel(
        start.task,
        ClassLoss(weights, own.focal_gamma),
        best_as_rows,
        start.names,
        start.tokenizer,
        max_tokens=start.task.config.max_context,
    )
    languages = [splits["train"].languages[window.sentence] for window in windows["train"]]
    score = Scores(sentences, windows, start.names)
    return fit(recipe, folder, model, data, languages, score, score.names[0], callbacks)


def read_sentences(examples: Examples, role: str, own: Tag) -> list[Sentence]:
    """Words in their sentences. Raises DataError with the place of what is wrong."""
    found, rebuilt = [], 0
    for row in examples.rows:
        words, tags = _lists(row)
        text = row.get("text")
        if text is not None and not isinstance(text, str):
            raise DataError(f"{row['place']}: text is {type(text).__name__}, not text: mend or remove the row")
        spans = None if text is None else find_words(text, words)
        if spans is None:
            rebuilt += text is not None
            text, spans = join_words(words, own.join)
        found.append(Sentence(str(text), spans, tags, row))
    if rebuilt:
        log.info("%s: in %d of %d sentences the words are not those of the text: put together again", role, rebuilt,
                 len(found))  # fmt: skip
    return found


def _lists(row: Row) -> tuple[list[str], list[str]]:
    for name in ("tokens", "tags"):
        if not isinstance(row[name], list) or not row[name]:
            said = "is empty" if row[name] == [] else f"is {type(row[name]).__name__}, not a list"
            raise DataError(f"{row['place']}: {name} {said}: mend or remove the row")
    words, tags = row["tokens"], [as_label(tag) for tag in row["tags"]]
    if len(words) != len(tags):
        raise DataError(f"{row['place']}: {len(words)} tokens and {len(tags)} tags: give each token one")
    for number, word in enumerate(words):
        if not isinstance(word, str) or not word:
            raise DataError(f"{row['place']}: token {number} is {word!r}: mend or remove the row")
    return words, tags


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
        labels = np.array([label_number(numbers, sentence.row, "tag", tag, "tag.labels") for tag in sentence.tags])
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
    pieces = iter(start.tokenizer.encode_batch(words, specials=True))
    found = []
    for sentence in sentences:
        own = [next(pieces) for _ in sentence.words]
        sizes = np.array([len(piece) for piece in own])
        firsts = np.where(sizes > 0, np.cumsum(sizes) - sizes, -1)
        found.append((np.concatenate(own), firsts))
    return found


class Scores:
    """F1 of entities on characters, and part of the words that are right; for parts of speech F1 as seqeval counts.

    A word that begins in another's token (``Accra.`` may be one) has no answer of its own: signs are ``O`` or PUNCT,
    any other word goes on with that one's. A word without any token is ``O``, or has the commonest tag.
    """

    names = ("f1", "precision", "recall", "accuracy")

    def __init__(
        self, sentences: dict[str, list[Sentence]], windows: dict[str, list[Window]], names: tuple[str, ...]
    ) -> None:
        self._sentences, self._windows, self._names = sentences, windows, names
        counts = Counter(tag for sentence in sentences["train"] for tag in sentence.tags)
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
        gold = [sentence.tags for sentence in sentences]
        found = {"accuracy": token_accuracy(said, gold)}
        if not self._entities:
            return {"f1": entity_f1(said, gold), **found}
        counts = _on_characters(sentences, said, gold)
        return {"f1": counts.f1, "precision": counts.precision, "recall": counts.recall, **found}

    def _follow(self, tag: str, word: str) -> str:
        """The tag of a word that begins in the token of the one before."""
        if not any(sign.isalnum() for sign in word):
            return next((name for name in (NOTHING, "PUNCT") if name in self._names), tag)
        inner = f"I{tag[1:]}"
        return inner if tag[:2] in ("B-", "B_") and inner in self._names else tag


def _on_characters(sentences: list[Sentence], said: list[list[str]], gold: list[list[str]]) -> Counts:
    """Entities of both sides as characters of their sentences."""

    def spans(tags: list[list[str]]) -> list[list[tuple[int, int, str]]]:
        return [
            [(sentence.words[first][0], sentence.words[last][1], kind) for kind, first, last in read_chunks(each)]
            for sentence, each in zip(sentences, tags, strict=True)
        ]

    return count_spans(spans(said), spans(gold))
