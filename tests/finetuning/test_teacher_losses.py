"""The losses of a teacher by their formulas, and what is read of long texts for both models."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, log_softmax, softmax

sys.path.insert(0, str(Path(__file__).parents[1] / "inference"))
from task_folders import TEXTS, tokenizer_json

from mmbert import Packed, Tokenizer
from mmbert.finetuning.losses import IGNORED, UNLABELLED, ClassLoss, MultiLabelLoss
from mmbert.finetuning.teacher_losses import class_teacher_loss, multi_label_teacher_loss, number_teacher_loss
from mmbert.finetuning.text_windows import read_texts

PACKED = Packed.from_lists([np.arange(3, dtype=np.uint32)] * 4)
NAN = float("nan")


def random(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(0, 2, shape)).float()


def kl(teacher: np.ndarray, student: np.ndarray, temperature: float) -> float:
    wanted = softmax(teacher / temperature)
    found: float = (wanted * (log_softmax(teacher / temperature) - log_softmax(student / temperature))).sum()
    return found * temperature**2


def test_words_with_label_or_teacher_or_both() -> None:
    """Of five tokens one is no item, one has a label alone, one the teacher alone, two have both."""
    logits, teacher = random(5, 3), random(4, 3) + 1
    teacher[1] = NAN
    labels = torch.tensor([2, IGNORED, 0, UNLABELLED, 1])
    loss = class_teacher_loss(ClassLoss(), 3.0, 0.8)
    z, t = logits.numpy(), teacher.numpy()
    cross = {at: -log_softmax(z[at])[label] for at, label in ((0, 2), (2, 0), (4, 1))}
    wanted = 0.8 * kl(t[0], z[0], 3) + 0.2 * cross[0] + cross[2] + kl(t[2], z[3], 3)
    wanted += 0.8 * kl(t[3], z[4], 3) + 0.2 * cross[4]
    assert float(loss(logits, PACKED, labels, None, teacher.half().float())) == pytest.approx(wanted / 4, rel=1e-3)
    assert float(loss(logits, PACKED, labels, 10, teacher)) == pytest.approx(wanted / 10, rel=1e-5)


def test_gradients_are_finite_whatever_an_item_lacks() -> None:
    for labels, teacher, loss in (
        (torch.tensor([UNLABELLED, 1]), random(2, 3), class_teacher_loss(ClassLoss([1, 2, 3], 2.0), 2.0, 0.9)),
        (torch.tensor([[NAN] * 3, [0.0, 1, 1]]), random(2, 3), multi_label_teacher_loss(MultiLabelLoss(), 2.0, 0.9)),
        (torch.tensor([NAN, 0.5]), random(2, 1), number_teacher_loss(0.9)),
    ):
        teacher[1] = NAN
        logits = (random(2, teacher.shape[1]) / 2).requires_grad_()
        loss(logits, PACKED, labels, None, teacher).backward()
        assert logits.grad is not None
        assert bool(logits.grad.isfinite().all())
        assert bool((logits.grad != 0).all())


def test_several_classes_and_numbers() -> None:
    logits, teacher = random(2, 3), random(2, 3) - 0.5
    labels = torch.tensor([[1.0, 0, 1], [NAN, NAN, NAN]])
    z, t = logits.numpy().astype(float), teacher.numpy().astype(float)

    def bce(wanted: np.ndarray, said: np.ndarray) -> float:
        return float(-(wanted * np.log(expit(said)) + (1 - wanted) * np.log(expit(-said))).sum())

    wanted = 0.7 * 4 * bce(expit(t[0] / 2), z[0] / 2) + 0.3 * bce(np.array([1, 0, 1]), z[0])
    wanted += 4 * bce(expit(t[1] / 2), z[1] / 2)
    found = multi_label_teacher_loss(MultiLabelLoss(), 2.0, 0.7)(logits, PACKED, labels, None, teacher)
    assert float(found) == pytest.approx(wanted / 6, rel=1e-5)

    numbers = number_teacher_loss(0.7)(logits[:, :1], PACKED, torch.tensor([2.0, NAN]), None, teacher[:, :1])
    wanted = 0.7 * (z[0, 0] - t[0, 0]) ** 2 + 0.3 * (z[0, 0] - 2) ** 2 + (z[1, 0] - t[1, 0]) ** 2
    assert float(numbers) == pytest.approx(wanted / 2, rel=1e-5)


def test_the_same_logits_leave_nothing_to_learn() -> None:
    logits = random(4, 3)
    labels = torch.full((4,), UNLABELLED)
    loss = class_teacher_loss(ClassLoss(), 2.0, 0.9)
    assert float(loss(logits, PACKED, labels, None, logits)) == pytest.approx(0, abs=1e-6)
    # T^2 keeps the gradient on one scale: for a high temperature it is that of the squared error of centred logits
    moved = (logits + 0.1 * random(4, 3)).requires_grad_()
    hot = class_teacher_loss(ClassLoss(), 1000.0, 0.9)
    hot(moved, PACKED, labels, 1, logits.double()).backward()
    difference = (moved - logits).detach()
    assert moved.grad is not None
    torch.testing.assert_close(moved.grad, (difference - difference.mean(-1, keepdim=True)) / 3, atol=2e-3, rtol=0.05)


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.tuples(st.sampled_from(TEXTS), st.integers(1, 4)), min_size=1, max_size=4),
    form=st.sampled_from(["ours", "metaspace", "gemma"]),
    most=st.integers(8, 64),
    stride=st.none() | st.integers(1, 40),
)
def test_a_teacher_reads_the_characters_that_its_student_reads(
    parts: list[tuple[str, int]], form: str, most: int, stride: int | None
) -> None:
    texts = [" ".join([text] * times) for text, times in parts]
    tokenizer = Tokenizer(tokenizer_json(form), form)
    found = read_texts(tokenizer, texts, [None] * len(texts), most, stride)
    for number, text in enumerate(texts):
        own = [reading for reading in found if reading.row == number]
        assert all(len(reading.ids) <= most and reading.text == text[reading.start : reading.end] for reading in own)
        covered = np.zeros(len(text), bool)
        for reading in own:
            covered[reading.start : reading.end] = True
        gaps = "".join(character for character, inside in zip(text, covered, strict=True) if not inside)
        whole = tokenizer.encode(text)
        if stride is not None or len(whole) <= most:
            assert not gaps.strip()
        else:
            assert [reading.ids.tolist() for reading in own] == [[*whole[: most - 1], whole[-1]]]
            assert own[0].start == len(text) - len(text.lstrip())
        if len(whole) <= most:
            assert [(reading.text, reading.whole) for reading in own] == [(text, True)]


def test_a_pair_is_cut_for_both() -> None:
    tokenizer = Tokenizer(tokenizer_json("ours"), "ours")
    (long,) = read_texts(tokenizer, [TEXTS[0]], [TEXTS[1]], 24, 8)
    assert len(long.ids) == 24
    assert not long.whole
    first, second = long.text
    assert TEXTS[0].startswith(first)
    assert TEXTS[1].startswith(second)
    assert len(tokenizer.encode(first)) + len(tokenizer.encode(second)) - 1 == 24
    (short,) = read_texts(tokenizer, ["a"], ["b"], 24, None)
    assert short.text == ("a", "b")
