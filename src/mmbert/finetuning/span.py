"""``answer``: the span of a text that answers a question.

A context that does not fit beside its question goes in windows that share ``doc_stride`` tokens; in training a window
without the answer points at <bos> (as SQuAD's scripts do). Windows are sequences of a packed batch like any other.
Answers are decoded as :class:`mmbert.Answerer` does: the best of all spans of all windows, on characters.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmbert.errors import ConfigError
from mmbert.finetuning.collate import Feature, spans_as_rows
from mmbert.finetuning.encode import pair_template
from mmbert.finetuning.finetune import FinetuneResult
from mmbert.finetuning.init_model import Start, load_start
from mmbert.finetuning.losses import span_loss
from mmbert.finetuning.packed_model import PackedModel
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_heads import AnswerOptions
from mmbert.finetuning.scores import SplitScores
from mmbert.finetuning.start_folder import start_folder
from mmbert.finetuning.task_rows import METRICS, Question, read_task
from mmbert.finetuning.trainer import fit
from mmbert.inference.answerer import Decoding, Passage, best_answers
from mmbert.inference.chunking import plan_windows
from mmbert.inference.entities import trim_spans
from mmbert.metrics.answers import score_answers
from mmbert.model.tasks import SpanClassifier

log = logging.getLogger(__name__)

NAMES = ("start", "end")

LEAST_ROOM = 16
"""Tokens of context that fit into a window beside the question; a question that leaves fewer is truncated."""


def train(recipe: FinetuneRecipe, folder: Path, callbacks: Sequence[Any] = ()) -> FinetuneResult:
    """Train as :mod:`mmbert.finetuning.finetune` describes."""
    own = recipe.answer
    rows = read_task(recipe)
    questions: dict[str, list[Question]] = rows.items
    begin = start_folder(
        recipe, folder, (text for each in questions["train"] for text in (each.question, each.context))
    )
    start = load_start(recipe, SpanClassifier, NAMES, None, begin)
    data, passages = {}, {}
    for role, each in questions.items():
        data[role], passages[role] = make_features(each, own, start)
    owners = [index for index, passage in enumerate(passages["train"]) for _ in passage.windows]
    stated = rows.languages["train"]
    languages = [stated[owner] for owner in owners]
    model = PackedModel(start, span_loss, spans_as_rows)
    return fit(recipe, folder, model, data, languages, Scores(questions, passages, own), callbacks)


def make_features(questions: list[Question], own: AnswerOptions, start: Start) -> tuple[list[Feature], list[Passage]]:
    """Return a feature for each window, in order, and for each question its passage, which knows its windows."""
    tokenizer, template = start.tokenizer, pair_template(start.tokenizer)
    heads = tokenizer.encode_batch([each.question for each in questions], specials=True)
    texts = tokenizer.encode_spans([each.context for each in questions], specials=True)
    features: list[Feature] = []
    passages: list[Passage] = []
    most = start.max_tokens - template.size - LEAST_ROOM
    if most < 1:
        raise ConfigError(f"training.max_tokens {start.max_tokens} has no room for a question and its text: raise it")
    for each, head, (ids, spans) in zip(questions, heads, texts, strict=True):
        kept = head[:most]
        # Windows are planned by the same function as in Answerer.rows, here with the recipe's stride as their overlap.
        room = start.max_tokens - template.size - len(kept)
        shared = min(own.doc_stride, room // 2) if len(ids) > room else 0
        spans = trim_spans(each.context, spans)
        first = len(template.before) + len(kept) + len(template.between)
        passage = Passage(each.context, spans, plan_windows(len(ids), room, shared), first)
        passages.append(passage)
        answer = answer_tokens(spans, each.answers[0]) if each.answers else None
        for window in passage.windows:
            # Row 0 is <bos>: SQuAD 2.0's way to say "no answer in this window".
            place = [0, 0]
            # An answer that a window cuts is no answer in it: half a span would be taught as a whole one.
            if answer is not None and window.start <= answer[0] and answer[1] < window.end:
                place = [first + token - window.start for token in answer]
            features.append({"ids": template.join(kept, ids[window.start : window.end]), "labels": place})
    return features, passages


def answer_tokens(spans: np.ndarray, answer: tuple[str, int]) -> tuple[int, int] | None:
    """Return the first and last token that have a character of an answer; None if none has.

    spans  (n, 2) characters of the context's tokens, ascending, without space around them
    """
    start, end = answer[1], answer[1] + len(answer[0])
    inside = np.flatnonzero((spans[:, 0] < end) & (spans[:, 1] > start) & (spans[:, 0] < spans[:, 1]))
    return (int(inside[0]), int(inside[-1])) if len(inside) else None


class Scores(SplitScores):
    """Exact match and F1, each by SQuAD's normalisation."""

    names = METRICS["answer"]

    def __init__(
        self, questions: dict[str, list[Question]], passages: dict[str, list[Passage]], own: AnswerOptions
    ) -> None:
        self._questions, self._passages = questions, passages
        self.languages = {role: [each.row["language"] or "" for each in own] for role, own in questions.items()}
        self._decoding = Decoding(1, own.max_answer, own.no_answer, 0.0)

    def read(self, role: str, predictions: Any) -> list[str]:
        said, next_row = [], 0
        for passage in self._passages[role]:
            own = predictions[next_row : next_row + len(passage.windows)]
            next_row += len(passage.windows)
            logits = [
                # The trainer pads rows to the longest one; only a row's own tokens, up to its last <eos>, are read.
                row[: passage.first + window.end - window.start + 1]
                for row, window in zip(own, passage.windows, strict=True)
            ]
            said.append(best_answers(passage, logits, self._decoding)[0].text)
        return said

    def figures(self, role: str, said: Sequence[str], chosen: Sequence[int]) -> dict[str, float]:
        # "" stands for no answer on both sides, so exact match needs no case of its own.
        gold = [[text for text, _ in each.answers] or [""] for each in map(self._questions[role].__getitem__, chosen)]
        own = [said[at] for at in chosen]
        scores = score_answers(own, gold)
        none = [answer == "" for answer, wanted in zip(own, gold, strict=True) if wanted == [""]]
        count = len(gold)  # SQuAD 2.0: where there is none, saying so is an F1 of 1, for which no words are shared
        return {"f1": scores.f1 + sum(none) / count, "exact": scores.exact}
