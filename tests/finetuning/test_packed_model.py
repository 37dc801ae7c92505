"""Loss and gradients of packed batches are those of transformers' classes on the same texts, padded."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from mmbert import Tokenizer
from mmbert.finetuning.adapters import add_lora, merged_state
from mmbert.finetuning.collate import best_as_rows, choices_as_rows, collate, spans_as_rows, texts_as_rows
from mmbert.finetuning.init_model import Start
from mmbert.finetuning.losses import (
    NONE,
    ClassLoss,
    MultiLabelLoss,
    balanced_weights,
    choice_loss,
    number_loss,
    span_loss,
)
from mmbert.finetuning.packed_model import PackedModel
from mmbert.finetuning.recipe import Lora
from mmbert.model.encoder import Encoder
from mmbert.model.tasks import ChoiceClassifier, SequenceClassifier, SpanClassifier, TokenClassifier

LENGTHS = [9, 4, 23, 6]
SEQUENCE = "SequenceClassification"


def ids() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(300, 390, length).astype(np.uint32) for length in LENGTHS]


def padded(texts: list[np.ndarray]) -> dict[str, torch.Tensor]:
    longest = max(map(len, texts))
    rows = [[*text.tolist(), *[0] * (longest - len(text))] for text in texts]
    return {"input_ids": torch.tensor(rows), "attention_mask": (torch.tensor(rows) != 0).long()}


def case(name: str) -> tuple[Any, Any, Any, list[Any], Any, int, dict[str, Any]]:
    """(our class, loss, gather, labels a feature, labels of theirs, classes, theirs' config)."""
    random = np.random.default_rng(1)
    if name == "single":
        labels = [0, 2, 1, 2]
        return SequenceClassifier, ClassLoss(), texts_as_rows, labels, torch.tensor(labels), 3, {}
    if name == "several":
        marks = [[1.0, 0, 1], [0.0, 0, 0], [0.0, 1, 1], [1.0, 0, 0]]
        problem = {"problem_type": "multi_label_classification"}
        return SequenceClassifier, MultiLabelLoss(), texts_as_rows, marks, torch.tensor(marks), 3, problem
    if name == "number":
        values = [0.5, -1.0, 3.0, 2.0]
        return (
            SequenceClassifier,
            number_loss,
            texts_as_rows,
            values,
            torch.tensor(values),
            1,
            {"problem_type": "regression"},
        )
    if name == "tokens":
        tags = [np.where(random.random(n) < 0.5, random.integers(0, 5, n), -100) for n in LENGTHS]
        rows = torch.full((4, max(LENGTHS)), -100)
        for row, tag in zip(rows, tags, strict=True):
            row[: len(tag)] = torch.from_numpy(tag)
        return TokenClassifier, ClassLoss(), best_as_rows, tags, rows, 5, {}
    if name == "span":
        places = [[2, 5], [0, 0], [20, 22], [5, 5]]
        return SpanClassifier, span_loss, spans_as_rows, places, torch.tensor(places), 2, {}
    raise AssertionError(name)


def build(
    folder: Path, kind: Any, loss: Any, gather: Any, classes: int, pooling: str | None, **more: Any
) -> PackedModel:
    torch.manual_seed(0)
    task = kind(Encoder.load(folder), classes, pooling=pooling)
    names = [str(number) for number in range(classes)]
    return PackedModel(Start(task, Tokenizer.load(folder), tuple(names), 64), loss, gather, **more)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("name", ["single", "several", "number", "tokens", "span"])
def test_loss_and_gradients_are_theirs(name: str, pooling: str, heads: Path, tmp_path: Path) -> None:
    kind, loss, gather, labels, their_labels, classes, problem = case(name)
    model = build(heads / "masks", kind, loss, gather, classes, pooling if kind.pools else None, **problem)
    model.save_pretrained(tmp_path)
    heading = {TokenClassifier: "TokenClassification", SpanClassifier: "QuestionAnswering"}.get(kind, SEQUENCE)
    other = getattr(transformers, f"AutoModelFor{heading}").from_pretrained(tmp_path, classifier_pooling=pooling)
    batch = collate([{"ids": text, "labels": label} for text, label in zip(ids(), labels, strict=True)])
    assert next(iter(batch)) == "lengths"
    assert batch["input_ids"].shape == (sum(LENGTHS),)
    own = model.eval()(**batch)["loss"]
    if name == "span":
        # theirs counts padding among the tokens that may begin an answer: compare with the texts one by one
        parts = []
        for text, (begin, end) in zip(ids(), their_labels, strict=True):
            row = torch.tensor(text.astype(int))[None]
            parts.append(other.eval()(input_ids=row, start_positions=begin[None], end_positions=end[None]).loss)
        theirs = torch.stack(parts).mean()
    else:
        theirs = other.eval()(**padded(ids()), labels=their_labels).loss
    torch.testing.assert_close(own, theirs, atol=1e-5, rtol=1e-5)
    own.backward()
    theirs.backward()
    found, wanted = gradients(model), gradients(other)
    assert found.keys() == wanted.keys()
    for key in found:
        torch.testing.assert_close(found[key], wanted[key], atol=1e-5, rtol=1e-3)


def test_choices_of_different_numbers(heads: Path, tmp_path: Path) -> None:
    def loss(scores: torch.Tensor, packed: Any, labels: torch.Tensor, items: Any) -> torch.Tensor:
        return choice_loss(scores, labels, items)

    gather = partial(choices_as_rows, nothing=NONE)
    model = build(heads / "masks", ChoiceClassifier, loss, gather, 1, "mean", choices=True)
    model.save_pretrained(tmp_path)
    other = transformers.AutoModelForMultipleChoice.from_pretrained(tmp_path).eval()
    texts = ids()
    batch = collate([{"ids": texts[:3], "labels": 2}, {"ids": texts[2:], "labels": 0}])
    assert batch["lengths"].tolist() == [[9, 4, 23], [23, 6, 0]]
    own = model.eval()(**batch)
    theirs = []
    for group, label in ((texts[:3], 2), (texts[2:], 0)):
        rows = {name: value[None] for name, value in padded(group).items()}
        theirs.append(other(**rows, labels=torch.tensor([label])))
    torch.testing.assert_close(own["loss"], torch.stack([each.loss for each in theirs]).mean(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(own["logits"][0], theirs[0].logits[0], atol=1e-5, rtol=1e-5)
    assert own["logits"][1, 2] == NONE


def test_answers_for_tokens_are_rows_of_examples(heads: Path) -> None:
    model = build(heads / "masks", TokenClassifier, ClassLoss(), best_as_rows, 5, None).eval()
    batch = collate([{"ids": text} for text in ids()])
    rows = model(**batch)["logits"]
    assert rows.shape == (4, max(LENGTHS))
    assert [(row != -100).sum().item() for row in rows] == LENGTHS
    alone = model(**collate([{"ids": ids()[2]}]))["logits"]
    assert torch.equal(rows[2], alone[0])


def test_items_of_the_whole_step_divide() -> None:
    logits, labels = torch.randn(4, 3, generator=torch.manual_seed(0)), torch.tensor([0, -100, 2, 1])
    own = ClassLoss()(logits, None, labels, None)  # type: ignore[arg-type]
    assert torch.isclose(ClassLoss()(logits, None, labels, 6), own / 2)  # type: ignore[arg-type]
    nothing = ClassLoss()(logits, None, torch.full((4,), -100), None)  # type: ignore[arg-type]
    assert nothing == 0


def test_focal_loss_and_weights() -> None:
    logits, labels = torch.randn(5, 3, generator=torch.manual_seed(0)), torch.tensor([0, 1, 2, 1, 0])
    p = logits.softmax(-1)[torch.arange(5), labels]
    weights = torch.tensor([2.0, 1.0, 0.5])
    wanted = (weights[labels] * (1 - p) ** 2 * -p.log()).mean()
    found = ClassLoss([2.0, 1.0, 0.5], 2.0)(logits, None, labels, None)  # type: ignore[arg-type]
    torch.testing.assert_close(found, wanted)
    assert balanced_weights([10, 30, 0]) == [40 / 30, 40 / 90, 0.0]


def test_lora_is_merged_into_what_is_saved(heads: Path, tmp_path: Path) -> None:
    model = build(heads / "masks", SequenceClassifier, ClassLoss(), texts_as_rows, 3, "mean").eval()
    batch = collate([{"ids": text} for text in ids()])
    before = model(**batch)["logits"]
    add_lora(model.model, Lora(rank=4, alpha=8.0))
    training = {name for name, value in model.named_parameters() if value.requires_grad}
    assert len([name for name in training if "lora_A" in name]) == 2 * 4  # Wqkv, two Wo, Wi of two layers
    assert {"head.dense.weight", "classifier.weight", "classifier.bias", "head.norm.weight"} <= training
    torch.testing.assert_close(model(**batch)["logits"], before)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.1)
    changed = model(**batch)["logits"]
    assert not torch.allclose(changed, before, atol=1e-3)
    assert merged_state(model) is not None
    model.save_pretrained(tmp_path)
    other = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(other(**padded(ids())).logits, changed, atol=1e-4, rtol=1e-4)


def test_gradient_checkpointing_changes_no_gradient(heads: Path) -> None:
    model = build(heads / "masks", SequenceClassifier, ClassLoss(), texts_as_rows, 3, "mean").train()
    batch = collate([{"ids": text, "labels": 1} for text in ids()])
    model(**batch)["loss"].backward()
    wanted = {name: grad.clone() for name, grad in gradients(model).items()}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(**batch)["loss"].backward()
    for name, grad in gradients(model).items():
        torch.testing.assert_close(grad, wanted[name])
