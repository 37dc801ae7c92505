"""The native softmax of the loss: sums, gradients and what is written, beside torch in fp64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmbert.native import library, softmax
from mmbert.native.library import Library

FOUND = library.find()

pytestmark = pytest.mark.skipif(not isinstance(FOUND, Library), reason=f"no native kernels: {FOUND}")

DTYPES = [torch.float32, *[torch.bfloat16] * (isinstance(FOUND, Library) and FOUND.bf16)]


def case(rows: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(2)
    scores, bias = 4 * torch.randn(rows, width, generator=draw), torch.randn(width, generator=draw)
    return scores.to(dtype), bias, torch.randint(width, (rows,), generator=draw)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 5), (7, 16), (20, 4099), (3, 9000)])
def test_loss_and_gradient(rows: int, width: int, dtype: torch.dtype) -> None:
    scores, bias, labels = case(rows, width, dtype)
    exact = scores.double().requires_grad_()
    wanted = F.cross_entropy(exact + bias, labels, reduction="sum")
    (change,) = torch.autograd.grad(wanted, exact)
    loss, sums = softmax.gradient(scores, bias, labels)
    assert loss.dtype == torch.float64
    assert abs(loss - wanted) <= 1e-6 * wanted + 1e-6 * rows
    most = 1e-6 if dtype == torch.float32 else 0.004
    assert (scores.double() - change).norm() <= most * change.norm() + 1e-6
    assert (sums.double() - scores.double().sum(0)).norm() <= 1e-6 * change.norm() + 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_only_the_loss(dtype: torch.dtype) -> None:
    scores, bias, labels = case(5, 77, dtype)
    before = scores.clone()
    loss, sums = softmax.gradient(scores, bias, labels, wanted=False)
    assert torch.equal(scores, before)
    assert not sums.any()
    assert loss == softmax.gradient(scores, bias, labels)[0]


def test_scores_that_exp_cannot_hold() -> None:
    scores = torch.tensor([[1000.0, -1000, 0, 999], [-5e4, -5e4, -5e4, -5e4]])
    loss, _ = softmax.gradient(scores, torch.zeros(4), torch.tensor([3, 0]))
    assert loss.item() == pytest.approx(1.3132617 + 1.3862944, rel=1e-6)
    assert scores.isfinite().all()
    assert scores[1].tolist() == pytest.approx([-0.75, 0.25, 0.25, 0.25])


def test_what_is_no_number_stays_visible() -> None:
    """The loop looks for losses that are not finite."""
    scores = torch.randn(2, 40)
    scores[1, 7] = float("nan")
    assert softmax.gradient(scores, torch.zeros(40), torch.tensor([3, 0]))[0].isnan()


def test_sums_do_not_depend_on_threads() -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            scores, bias, labels = case(100, 5000, torch.float32)
            results.append((*softmax.gradient(scores, bias, labels), scores))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_what_torch_computes_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, bias, _ = case(4, 32, torch.float32)
    assert softmax.ready(scores, bias)
    assert not softmax.ready(scores.half(), bias)
    assert not softmax.ready(scores, bias.bfloat16())
    assert not softmax.ready(scores.t(), bias)
    monkeypatch.setenv("MMBERT_NATIVE", "0")
    assert not softmax.ready(scores, bias)


@pytest.mark.parametrize("label", [-1, 32])
def test_a_label_outside_the_vocabulary(label: int) -> None:
    scores, bias, labels = case(4, 32, torch.float32)
    labels[2] = label
    with pytest.raises(IndexError, match="of a vocabulary of 32"):
        softmax.gradient(scores, bias, labels)


def test_a_wrong_loss_is_noticed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    true_call = softmax.gradient
    monkeypatch.setattr(softmax, "gradient", lambda scores, bias, labels: true_call(scores, 2 * bias, labels))
    with caplog.at_level("WARNING"):
        assert not softmax._right.__wrapped__(FOUND)  # type: ignore[arg-type]
    assert "please report" in caplog.text
