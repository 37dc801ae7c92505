"""Rotary positions against the formula as Hugging Face writes it."""

from __future__ import annotations

import torch
from torch import Tensor

from mmbert.model.rope import angles, rotate


def rotate_plainly(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """x cos + rotate_half(x) sin with the frequencies written twice."""
    width = x.shape[-1]
    frequencies = 1.0 / (theta ** (torch.arange(0, width, 2).float() / width))
    cos_sin = positions[:, None].float() * frequencies
    cos_sin = torch.cat([cos_sin, cos_sin], dim=-1)[:, None, :].to(x.dtype)
    half = torch.cat([-x[..., width // 2 :], x[..., : width // 2]], dim=-1)
    return x * cos_sin.cos() + half * cos_sin.sin()


def test_queries_and_keys_turn_and_values_do_not() -> None:
    torch.manual_seed(0)
    positions = torch.tensor([0, 1, 2, 0, 1, 8191])
    qkv = torch.randn(6, 3, 2, 16, requires_grad=True)
    weights = torch.randn(3, 6, 2, 16)
    outputs = rotate(qkv, angles(positions, 16, 160_000.0), torch.float32)
    expected = [*(rotate_plainly(qkv[:, i], positions, 160_000.0) for i in (0, 1)), qkv[:, 2]]
    for out, plain in zip(outputs, expected, strict=True):
        torch.testing.assert_close(out, plain)
    (grad,) = torch.autograd.grad(sum((w * x).sum() for w, x in zip(weights, outputs, strict=True)), qkv)
    (plain_grad,) = torch.autograd.grad(sum((w * x).sum() for w, x in zip(weights, expected, strict=True)), qkv)
    torch.testing.assert_close(grad, plain_grad)


def test_scores_depend_on_the_distance_only() -> None:
    torch.manual_seed(0)
    row = torch.randn(1, 3, 1, 32).expand(4, -1, -1, -1)
    q, k, _ = rotate(row, angles(torch.tensor([3, 10, 1003, 1010]), 32, 10_000.0), torch.float32)
    near, far = (q[1] * k[0]).sum(), (q[3] * k[2]).sum()
    torch.testing.assert_close(near, far, atol=1e-3, rtol=1e-4)
    assert abs(float(near - (q[1] * k[1]).sum())) > 0.1


def test_turning_is_done_in_fp32_whatever_goes_in_and_comes_out() -> None:
    torch.manual_seed(0)
    qkv = torch.randn(5, 3, 2, 8).to(torch.bfloat16).requires_grad_()
    cos_sin = angles(torch.arange(5), 8, 10_000.0)
    exact = rotate(qkv.detach().float(), cos_sin, torch.float32)
    up = rotate(qkv, cos_sin, torch.float32)
    low = rotate(qkv, cos_sin, torch.bfloat16)
    for a, b, c in zip(up, low, exact, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, c.to(torch.bfloat16))
    sum(x.sum() for x in up).backward()
    assert qkv.grad is not None
    assert qkv.grad.dtype == torch.bfloat16
