"""The gradient of native attention in training, beside torch's in fp64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmbert.native import attention, library
from mmbert.native.library import Library

FOUND = library.find()

pytestmark = pytest.mark.skipif(not isinstance(FOUND, Library), reason=f"no native kernels: {FOUND}")

DTYPES = [torch.float32, *[torch.bfloat16] * (isinstance(FOUND, Library) and FOUND.bf16)]


def case(lengths: tuple[int, ...], head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """A projection of three heads, angles, and the gradient of the output."""
    tokens, draw = sum(lengths), torch.Generator().manual_seed(1)
    qkv = 1.5 * torch.randn(tokens, 3, 3, head_dim, generator=draw)
    turns = torch.randn(tokens, 1, head_dim // 2, generator=draw)
    return qkv.to(dtype), turns, torch.randn(tokens, 3, head_dim, generator=draw).to(dtype)


def wanted(qkv: Tensor, turns: Tensor, grad: Tensor, lengths: tuple[int, ...], half: int) -> list[Tensor]:
    """The output and the gradient of the projection, one document after the other, in fp64."""
    exact = qkv.double().requires_grad_()
    cos, sin = turns.double().cos(), turns.double().sin()
    q, k = (
        torch.cat((a * cos - z * sin, z * cos + a * sin), -1) for a, z in (exact[:, i].chunk(2, -1) for i in (0, 1))
    )
    outputs = []
    for parts in zip(*(part.transpose(0, 1).split(lengths, 1) for part in (q, k, exact[:, 2])), strict=True):
        where = torch.arange(parts[0].shape[1])
        seen = (where[:, None] - where).abs() <= half
        outputs.append(F.scaled_dot_product_attention(*parts, attn_mask=seen).transpose(0, 1))
    out = torch.cat(outputs)
    return [out.detach(), torch.autograd.grad(out, exact, grad.double())[0]]


def computed(qkv: Tensor, turns: Tensor, grad: Tensor, lengths: tuple[int, ...], half: int) -> list[Tensor]:
    given = qkv.clone().requires_grad_()
    out = attention.attend(given, turns.cos(), turns.sin(), lengths, half)
    return [out.detach(), torch.autograd.grad(out, given, grad)[0]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", attention.HEAD_DIMS)
@pytest.mark.parametrize("half", [0, 5, 64, 10_000])
@pytest.mark.parametrize("lengths", [(1,), (1, 2, 5, 6, 7), (45, 48, 49, 96, 97), (30, 1700)])
def test_the_gradient(lengths: tuple[int, ...], half: int, head_dim: int, dtype: torch.dtype) -> None:
    given = case(lengths, head_dim, dtype)
    (out, grad), (exact, exact_grad) = (each(*given, lengths, half) for each in (computed, wanted))
    assert out.dtype == grad.dtype == dtype
    most = 3e-6 if dtype == torch.float32 else 0.02
    for one, other in [(out, exact), *zip(grad.unbind(1), exact_grad.unbind(1), strict=True)]:
        # with one key queries and keys have no gradient, but for rounding
        assert (one.double() - other).norm() <= most * other.norm() + 0.2 * most * exact_grad.norm()


def test_no_number_depends_on_threads() -> None:
    lengths, before = (5, 60, 60, 300), torch.get_num_threads()
    given, results = case(lengths, 64, torch.float32), []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            results.append(computed(*given, lengths, 64))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_a_document_does_not_depend_on_others() -> None:
    qkv, turns, grad = case((40, 300), 32, torch.float32)
    _, together = computed(qkv, turns, grad, (40, 300), 20)
    _, alone = computed(qkv[:40], turns[:40], grad[:40], (40,), 20)
    assert torch.equal(together[:40], alone)


def test_scores_that_a_power_cannot_hold() -> None:
    """Scores of some thousands: the largest of a row is taken off before."""
    qkv, turns, grad = case((20,), 32, torch.float32)
    _, found = computed(40 * qkv, turns, grad, (20,), 20)
    _, exact = wanted(40 * qkv, turns, grad, (20,), 20)
    assert found.isfinite().all()
    assert (found.double() - exact).norm() < 1e-3 * exact.norm()


def test_what_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv, _, _ = case((5,), 32, torch.float32)
    assert attention.ready(qkv)
    assert not attention.ready(qkv.half())
    assert not attention.ready(qkv.to("meta"))
    assert not attention.ready(qkv[..., :16])
    monkeypatch.setenv("MMBERT_NATIVE", "0")
    assert not attention.ready(qkv)


def test_wrong_gradients_are_noticed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    true_call = attention.attend
    monkeypatch.setattr(attention, "attend", lambda *args: true_call(*args[:-1], args[-1] // 2))
    with caplog.at_level("WARNING"):
        assert not attention._right.__wrapped__(FOUND)  # type: ignore[arg-type]
    assert "please report" in caplog.text
