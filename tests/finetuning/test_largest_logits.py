"""The largest logit over each text, against all logits at once."""

from __future__ import annotations

import pytest
import torch

from mmbert.finetuning import largest_logits as module
from mmbert.finetuning.largest_logits import largest_logits
from mmbert.packed import Packed

LENGTHS = [3, 1, 7, 2]


def _parts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Packed]:
    torch.manual_seed(0)
    packed = Packed.from_lists([[1] * length for length in LENGTHS]).to()
    return torch.randn(13, 5), torch.randn(11, 5), torch.randn(11), packed


@pytest.mark.parametrize("rows", [1, 2, 4, 100])
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients(rows: int, biased: bool) -> None:
    x, weight, bias, packed = _parts()
    parts = [value.requires_grad_() for value in (x, weight, bias)[: 2 + biased]]
    found = largest_logits(x, weight, bias if biased else None, packed, rows)
    logits = torch.nn.functional.linear(x, weight, bias if biased else None)
    expected = torch.stack([part.max(0)[0] for part in logits.split(LENGTHS)])
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(found)
    wanted = torch.autograd.grad(expected, parts, upstream)
    for one, other in zip(wanted, torch.autograd.grad(found, parts, upstream), strict=True):
        torch.testing.assert_close(other, one)


def test_never_more_rows_of_logits_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias, packed = _parts()
    made: list[int] = []
    linear = torch.nn.functional.linear

    def count(rows: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        made.append(len(rows))
        return linear(rows, *more)

    monkeypatch.setattr(module.torch.nn.functional, "linear", count)
    largest_logits(x, weight, bias, packed, 4)
    assert made == [4, 4, 4, 1]


def test_frozen_vocabulary_gets_no_gradient() -> None:
    x, weight, bias, packed = _parts()
    x.requires_grad_()
    largest_logits(x, weight, bias, packed).sum().backward()
    assert x.grad is not None
    assert weight.grad is None


def test_bf16_under_autocast() -> None:
    x, weight, bias, packed = _parts()
    weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = largest_logits(x, weight, bias, packed)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), largest_logits(x, weight, bias, packed), atol=0.05, rtol=0.05)
    found.float().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
