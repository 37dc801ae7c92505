"""``tag``: classes of words, such as names and parts of speech, on the raw sentence.

A word's class is that of its first token; the others carry no label. A sentence that is longer than the model reads is
split into overlapping windows, and each word is predicted in the window where it is farther from the edge, so none is
lost. Entities are scored on the characters of the sentence.

With a teacher (``recipe.teacher``) a word has the teacher's logits for its first token there, whatever both tokenizers
make of it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmbert.finetuning.classify import class_weights
from mmbert.finetuning.collate import Feature, best_as_rows
from mmbert.finetuning.finetune import FinetuneResult
from mmbert.finetuning.init_model import Start, load_start
from mmbert.finetuning.labels import label_number
from mmbert.finetuning.losses import IGNORED, UNLABELLED, ClassLoss
from mmbert.finetuning.packed_model import Loss, PackedModel
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_heads import Tag
from mmbert.finetuning.scores import AGREEMENT, SplitScores
from mmbert.finetuning.start_folder import start_folder
from mmbert.finetuning.tag_rows import NOTHING, UNTAGGED, Sentence
from mmbert.finetuning.task_rows import METRICS, read_task
from mmbert.finetuning.teacher_config import read_teacher
from mmbert.finetuning.teacher_logits import TeacherLogits
from mmbert.finetuning.teacher_losses import class_teacher_loss
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


def train(recipe: FinetuneRecipe, folder: Path, callbacks: Sequence[Any] = ()) -> FinetuneResult:
    """Train as :mod:`mmbert.finetuning.finetune` describes."""
    own = recipe.tag
    teacher = None if recipe.teacher is None else read_teacher(recipe)
    rows = read_task(recipe, teacher)
    sentences: dict[str, list[Sentence]] = rows.items
    begin = start_folder(recipe, folder, (sentence.text for sentence in sentences["train"]))
    start = load_start(recipe, TokenClassifier, rows.names, None, begin)
    numbers = {name: number for number, name in enumerate(start.names)}
    taught = {} if teacher is None else _teach(TeacherLogits(recipe, folder, teacher), sentences)
    data, windows = {}, {}
    for role, each in sentences.items():
        data[role], windows[role] = make_features(each, own, numbers, start, taught.get(role))
    weights = class_weights(own.class_weights, start.names, [rows.counts[name] for name in start.names], "tag")
    one, options = ClassLoss(weights, own.focal_gamma), recipe.teacher
    loss: Loss = one if options is None else class_teacher_loss(one, options.temperature, options.weight)
    model = PackedModel(start, loss, best_as_rows)
    languages = [sentences["train"][window.sentence].row["language"] or "" for window in windows["train"]]
    return fit(recipe, folder, model, data, languages, Scores(sentences, windows, start.names, taught), callbacks)


def _teach(teacher: TeacherLogits, sentences: dict[str, list[Sentence]]) -> dict[str, list[np.ndarray]]:
    """Return split -> the teacher's logits (words, labels) of each sentence."""
    return {
        role: teacher.words(
            role, [each.text for each in own], [each.words for each in own], [each.row["place"] for each in own]
        )
        for role, own in sentences.items()
    }


def make_features(
    sentences: list[Sentence],
    own: Tag,
    numbers: dict[str, int],
    start: Start,
    taught: list[np.ndarray] | None = None,
) -> tuple[list[Feature], list[Window]]:
    """Return ids and labels of tokens, and which words each feature predicts.

    taught  a teacher's logits (words, labels) of each sentence. A feature then has those of the tokens that have a
            label, of which ``UNLABELLED`` is one
    """
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
            feature: Feature = {"ids": np.concatenate([bos, ids[window.start : window.end], eos]), "labels": marks}
            if taught is not None:
                own_places, firsts_of = np.unique(places, return_index=True)
                feature["teacher"] = _mark_taught(marks, own_places, taught[index][words[firsts_of]])
            features.append(feature)
            windows.append(Window(index, words, places))
    return features, windows


def _mark_taught(marks: np.ndarray, places: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Mark the tokens at ``places`` that learn from the teacher alone, and return the logits of all that have a mark.

    logits  (places, labels), NaN where the teacher has none
    """
    bare = (marks[places] == IGNORED) & np.isfinite(logits).all(axis=1)
    marks[places[bare]] = UNLABELLED
    found: np.ndarray = logits[marks[places] != IGNORED]
    return found


def _raw(sentences: list[Sentence], start: Start) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (ids, first token of each word) of raw sentences."""
    encoded = start.tokenizer.encode_spans([sentence.text for sentence in sentences], specials=True)
    return [
        (ids, first_tokens(trim_spans(sentence.text, spans), sentence.words))
        for sentence, (ids, spans) in zip(sentences, encoded, strict=True)
    ]


def _split_words(sentences: list[Sentence], start: Start) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the same with each word encoded by itself, as ``is_split_into_words=True`` does."""
    words = [sentence.text[begin:end] for sentence in sentences for begin, end in sentence.words]
    encoded = iter(start.tokenizer.encode_batch(words, specials=True))
    found = []
    for sentence in sentences:
        own = [next(encoded) for _ in sentence.words]
        sizes = np.array([len(ids) for ids in own])
        firsts = np.where(sizes > 0, np.cumsum(sizes) - sizes, -1)
        found.append((np.concatenate(own), firsts))
    return found


class Scores(SplitScores):
    """F1 of entities on characters, and part of the words that are right; for parts of speech F1 as seqeval counts.

    With a teacher also the agreement with it, the part of the words that both give the same tag.

    A word that begins in another's token (``Accra.`` may be one) has no answer of its own: signs are ``O`` or PUNCT,
    any other word goes on with that one's. A word without any token is ``O``, or has the commonest tag.
    """

    def __init__(
        self,
        sentences: dict[str, list[Sentence]],
        windows: dict[str, list[Window]],
        names: tuple[str, ...],
        taught: Mapping[str, list[np.ndarray]] | None = None,
    ) -> None:
        self._sentences, self._windows, self._names = sentences, windows, names
        self.languages = {role: [each.row["language"] or "" for each in own] for role, own in sentences.items()}
        counts = Counter(tag for sentence in sentences["train"] for tag in sentence.tags if tag != UNTAGGED)
        self._usual = NOTHING if NOTHING in names or not counts else counts.most_common(1)[0][0]
        self._entities = NOTHING in names
        bare = not any(any(sentence.tags) for sentence in sentences.get("dev", sentences["train"]))
        self.names = (AGREEMENT,) if bare else METRICS["tag"]
        for role, logits in (taught or {}).items():
            self.taught[role] = [self._tags_of(each) for each in logits]

    def _tags_of(self, logits: np.ndarray) -> list[str]:
        """Return the tags of words that a teacher gave logits (words, labels); ``_usual`` for those without."""
        known = np.isfinite(logits).all(axis=1)
        best = np.where(known, np.nan_to_num(logits).argmax(axis=1), -1).tolist()
        return [self._names[number] if number >= 0 else self._usual for number in best]

    def read(self, role: str, predictions: Any) -> list[list[str]]:
        sentences = self._sentences[role]
        said = [[self._usual] * len(sentence.words) for sentence in sentences]
        for window, row in zip(self._windows[role], predictions, strict=True):
            text, places = sentences[window.sentence], window.places.tolist()
            for at, (word, place) in enumerate(zip(window.words.tolist(), places, strict=True)):
                begin, end = text.words[word]
                shared = at > 0 and places[at - 1] == place
                tag = self._names[int(row[place])]
                said[window.sentence][word] = self._follow(tag, text.text[begin:end]) if shared else tag
        return said

    def figures(self, role: str, said: Sequence[list[str]], chosen: Sequence[int]) -> dict[str, float]:
        found = self._measure([self._sentences[role][at] for at in chosen], [said[at] for at in chosen])
        if role in self.taught:
            own = [said[at] for at in chosen]
            found[AGREEMENT] = token_accuracy(own, [self.taught[role][at] for at in chosen])
        return found

    def _measure(self, sentences: list[Sentence], said: list[list[str]]) -> dict[str, float]:
        """Return the figures of the words with a gold tag; none where there are none."""
        kept = [[at for at, tag in enumerate(sentence.tags) if tag != UNTAGGED] for sentence in sentences]
        if not any(kept):
            return {}
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
        """Return the tag of a word that begins in the token of the previous one."""
        if not any(sign.isalnum() for sign in word):
            return next((name for name in (NOTHING, "PUNCT") if name in self._names), tag)
        inner = f"I{tag[1:]}"
        return inner if tag[:2] in ("B-", "B_") and inner in self._names else tag


def _on_characters(words: list[list[Span]], said: list[list[str]], gold: list[list[str]]) -> Counts:
    """Count the entities of both sides as character spans of their sentences."""

    def spans(tags: list[list[str]]) -> list[list[tuple[int, int, str]]]:
        return [
            [(places[first][0], places[last][1], kind) for kind, first, last in read_chunks(each)]
            for places, each in zip(words, tags, strict=True)
        ]

    return count_spans(spans(said), spans(gold))
