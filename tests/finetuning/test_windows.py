"""Words and answers in windows: none is lost, gold predictions score 1, and both forms of words are what they claim."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "inference"))
from little_sets import answers, tags
from task_folders import tokenizer_json

from mmbert import ModelConfig, Tokenizer
from mmbert.errors import DataError
from mmbert.finetuning.init_model import Start, load_start
from mmbert.finetuning.labels import Examples
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.recipe_heads import AnswerOptions, Tag
from mmbert.finetuning.span import Scores as AnswerScores
from mmbert.finetuning.span import answer_tokens, make_features
from mmbert.finetuning.tag import Scores as TagScores
from mmbert.finetuning.tag import make_features as tag_features
from mmbert.finetuning.tag_rows import read_sentences
from mmbert.finetuning.task_rows import question_of
from mmbert.model.encoder import Encoder
from mmbert.model.tasks import SpanClassifier, TokenClassifier

NAMES = ("O", "B-LOC", "B-PER", "I-PER")
NUMBERS = {name: number for number, name in enumerate(NAMES)}


def start(form: str, max_tokens: int) -> Start:
    tokenizer = Tokenizer(tokenizer_json(form), form)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=1, max_context=64
    )
    return Start(TokenClassifier(Encoder(config), 4), tokenizer, NAMES, max_tokens)


def sentences(count: int = 9) -> Examples:
    rows = [{**row, "place": f"tags:{number}", "language": None} for number, row in enumerate(tags(count), 1)]
    rows[0]["text"] = " ".join(rows[0]["tokens"])
    rows[1]["text"] = "something else"
    return Examples(rows)


@pytest.mark.parametrize("words", ["raw", "split"])
@pytest.mark.parametrize("form", ["ours", "metaspace", "gemma"])
@pytest.mark.parametrize("max_tokens", [8, 64])
def test_every_word_is_judged_once_and_gold_tags_score_one(form: str, words: str, max_tokens: int) -> None:
    own = Tag(words=words)  # type: ignore[arg-type]
    read = read_sentences(sentences(), "train", own)
    assert [sentence.text[a:b] for sentence in read for a, b in sentence.words] == [
        word for row in sentences().rows for word in row["tokens"]
    ]
    features, windows = tag_features(read, own, NUMBERS, start(form, max_tokens))
    assert all(len(feature["ids"]) == len(feature["labels"]) <= max_tokens for feature in features)
    judged = [(window.sentence, word) for window in windows for word in window.words.tolist()]
    assert sorted(judged) == [
        (index, word) for index, sentence in enumerate(read) for word in range(len(sentence.words))
    ]
    rows = np.full((len(features), max_tokens), -100)
    for row, feature in zip(rows, features, strict=True):
        row[: len(feature["labels"])] = np.where(feature["labels"] < 0, 3, feature["labels"])
    score = TagScores({"train": read}, {"train": windows}, NAMES)
    assert score("train", rows) == {"f1": 1.0, "precision": 1.0, "recall": 1.0, "accuracy": 1.0}
    assert score("train", np.zeros_like(rows))["f1"] == 0.0


@pytest.mark.parametrize("form", ["ours", "metaspace", "gemma"])
def test_both_forms_of_words(form: str, tmp_path: Path) -> None:
    """split is transformers' is_split_into_words; raw is what the model reads of a plain sentence."""
    made = start(form, 64)
    made.tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    read = read_sentences(sentences(3), "train", Tag())
    apart, _ = tag_features(read, Tag(words="split"), NUMBERS, made)
    whole, _ = tag_features(read, Tag(), NUMBERS, made)
    for sentence, split, raw in zip(read, apart, whole, strict=True):
        words = [sentence.text[begin:end] for begin, end in sentence.words]
        assert theirs(words, is_split_into_words=True)["input_ids"] == split["ids"].tolist()
        assert theirs(sentence.text)["input_ids"] == raw["ids"].tolist()
        marks = raw["labels"][raw["labels"] >= 0].tolist()
        assert marks == [NUMBERS[tag] for tag in sentence.tags]


def questions(count: int = 16) -> Examples:
    return Examples([{**row, "place": f"answers:{n}", "language": None} for n, row in enumerate(answers(count), 1)])


@pytest.mark.parametrize("form", ["ours", "metaspace", "gemma"])
def test_gold_answers_score_one(form: str) -> None:
    own = AnswerOptions(doc_stride=8, max_answer=16)
    made = start(form, 60)
    read = [question_of(row, own) for row in questions().rows]
    features, passages = make_features(read, own, made)
    assert len(features) > len(read)
    assert all(len(feature["ids"]) <= 60 for feature in features)
    longest = max(len(feature["ids"]) for feature in features)
    rows = np.full((len(features), longest, 2), -100.0, np.float32)
    for row, feature in zip(rows, features, strict=True):
        row[: len(feature["ids"])] = -5
        begin, end = feature["labels"]
        if begin:
            row[begin, 0] = row[end, 1] = 9
    score = AnswerScores({"dev": read}, {"dev": passages}, own)
    if form == "gemma":  # some of its tokens go beyond a word: "in Accra"
        assert score("dev", rows)["f1"] > 0.9
    else:
        assert score("dev", rows) == {"f1": 1.0, "exact": 1.0}


def test_questions_without_an_answer() -> None:
    own = AnswerOptions(no_answer=True)
    row = {"question": "Who?", "context": "It rains.", "answers": {"text": [], "answer_start": []}, "place": "a:1"}
    read = [question_of(row, own) for row in [{**row, "language": None}]]
    features, passages = make_features(read, own, start("ours", 64))
    assert features[0]["labels"] == [0, 0]
    score = AnswerScores({"dev": read}, {"dev": passages}, own)
    rows = np.full((1, len(features[0]["ids"]), 2), -5.0, np.float32)
    rows[0, 0] = 9
    assert score("dev", rows) == {"f1": 1.0, "exact": 1.0}
    rows[0, 0], rows[0, -2] = -9, 9
    assert score("dev", rows) == {"f1": 0.0, "exact": 0.0}
    with pytest.raises(DataError, match="a:1: no answer"):
        [question_of(row, AnswerOptions()) for row in [{**row, "language": None}]]


def test_answers_as_columns_and_as_a_list() -> None:
    base = {"question": "Where?", "context": "In Accra.", "place": "a:1", "language": None}
    rows = [
        {**base, "answer": "Accra", "answer_start": "3"},
        {**base, "answers": [{"text": "Accra", "answer_start": 3}]},
    ]
    assert [question_of(row, AnswerOptions()).answers for row in rows] == [[("Accra", 3)]] * 2
    assert answer_tokens(np.array([[0, 2], [3, 5], [5, 8], [8, 9]]), ("Accra", 3)) == (1, 2)
    assert answer_tokens(np.array([[0, 2]]), ("Accra", 3)) is None


def test_what_fits_of_a_head_is_taken_over(heads: Path, recipe: Callable[..., FinetuneRecipe]) -> None:
    spans = recipe("answer", model=str(heads / "spans"))
    same = load_start(spans, SpanClassifier, ("start", "end"), None)
    again = load_start(spans, SpanClassifier, ("start", "end"), None)
    torch.testing.assert_close(same.task.classifier.weight, again.task.classifier.weight)
    other = load_start(spans, TokenClassifier, NAMES, None)
    torch.testing.assert_close(other.task.head.dense.weight, same.task.head.dense.weight)
    assert other.task.classifier.out_features == 4
    tagged = load_start(recipe("tag", model=str(heads / "tags")), TokenClassifier, ("B-X", "I-X", "O"), None)
    assert tagged.names == ("O", "B-X", "I-X"), "the folder's order holds"
