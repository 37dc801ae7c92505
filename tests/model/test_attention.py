"""Blocked attention against the plain formula, and what a plan may cost."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mmbert.device import runs_flash_attention
from mmbert.model.attention import BLOCK, AttentionPlan, attend, plan_attention
from mmbert.packed import Packed

LENGTHS = [130, 1, 600, 63, 2, 64, 65, 300, 66, 127, 128, 129, 192, 193, 65]


def packed_of(lengths: list[int]) -> Packed:
    return Packed.from_lists([[7] * length for length in lengths]).to()


def plain(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], half: int | None) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, document by document, with the window as a full mask."""
    outputs = []
    for query, key, value in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True):
        scores = torch.einsum("ihd,jhd->hij", query, key) / math.sqrt(q.shape[-1])
        if half is not None:
            where = torch.arange(len(query))
            scores = scores.masked_fill((where[:, None] - where).abs() > half, float("-inf"))
        outputs.append(torch.einsum("hij,jhd->ihd", scores.softmax(-1), value))
    return torch.cat(outputs)


def in_plan_order(plan: AttentionPlan, x: Tensor) -> Tensor:
    return x if plan.order is None else x[plan.order]


@pytest.mark.parametrize("window", [2, 9, 100, 128, 4096])
@pytest.mark.parametrize("local", [False, True])
def test_equals_the_plain_formula_forward_and_backward(window: int, local: bool) -> None:
    packed = packed_of(LENGTHS)
    plan = plan_attention(packed, window, torch.float32)
    torch.manual_seed(0)
    inputs = [torch.randn(packed.tokens, 2, 8, dtype=torch.float32, requires_grad=True) for _ in range(3)]
    weight = torch.randn(packed.tokens, 2, 8)

    expected = plain(*inputs, LENGTHS, window // 2 if local else None)
    expected_grads = torch.autograd.grad((expected * weight).sum(), inputs)
    out = attend(*(in_plan_order(plan, x) for x in inputs), plan, local=local)
    grads = torch.autograd.grad((out * in_plan_order(plan, weight)).sum(), inputs)

    torch.testing.assert_close(out, in_plan_order(plan, expected), atol=1e-5, rtol=1e-5)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("lengths", [[1], [3, 3, 3], [500], [1000, 20], [20, 1000], [192, 64, 193]])
def test_order_is_a_permutation_and_positions_restart(lengths: list[int]) -> None:
    packed = packed_of(lengths)
    plan = plan_attention(packed, 128, torch.float32)
    expected = torch.cat([torch.arange(length) for length in sorted(lengths)])
    assert torch.equal(plan.positions, expected)
    if lengths == sorted(lengths):
        assert plan.order is None
        assert plan.inverse is None
    else:
        assert plan.order is not None
        assert plan.inverse is not None
        assert torch.equal(plan.order[plan.inverse], torch.arange(packed.tokens))
        within = torch.cat([torch.arange(length) for length in lengths])
        assert torch.equal(within[plan.order], plan.positions)  # documents stay whole and in their own order


def test_local_masks_grow_with_tokens_times_window_not_with_their_square() -> None:
    def mask_size(length: int) -> int:
        plan = plan_attention(packed_of([length]), 128, torch.float32)
        assert plan.band is not None
        assert not plan.short
        return plan.band.mask.numel()

    assert mask_size(8192) == 8192 * (BLOCK + 128)
    assert mask_size(16384) == 2 * mask_size(8192)


def test_short_documents_carry_no_band_and_shorter_ones_no_mask() -> None:
    longest = BLOCK + 128  # a block of queries would see as many keys
    plan = plan_attention(packed_of([65, longest, 20, 66]), 128, torch.float32)
    assert plan.band is None
    assert plan_attention(packed_of([longest + 1]), 128, torch.float32).band is not None
    assert [(group.length, group.mask is None) for group in plan.short] == [
        (20, True),
        (65, True),
        (66, False),
        (longest, False),
    ]
    assert all(group.mask is None for group in plan.whole)


def test_no_tensor_of_a_local_layer_is_quadratic_in_the_document() -> None:
    """Of all that forward keeps for backward on 8,192 tokens, nothing is larger than keys for blocks and windows."""
    packed = packed_of([8192])
    plan = plan_attention(packed, 128, torch.float32)
    q, k, v = (torch.randn(8192, 1, 8, requires_grad=True) for _ in range(3))
    sizes: list[int] = []

    def keep(x: Tensor) -> Tensor:
        sizes.append(x.untyped_storage().nbytes() // 4)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        attend(q, k, v, plan, local=True).sum().backward()
    assert max(sizes) <= 8192 * (BLOCK + 128)


def test_attention_runs_in_fp32_under_autocast_on_cpu() -> None:
    plan = plan_attention(packed_of([40, 300]), 128, torch.bfloat16)
    q = torch.randn(340, 2, 8)
    with torch.autocast("cpu", torch.bfloat16):
        for local in (False, True):
            mixed = attend(q, q, q, plan, local=local)
            assert mixed.dtype == torch.float32
    assert torch.equal(mixed, attend(q, q, q, plan, local=True))


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_packed_sdpa_in_16_bits(local: bool, dtype: torch.dtype) -> None:
    """What a GPU without a flash kernel computes, here by the CPU's kernels: the masks hold in 16 bits too."""
    packed = packed_of(LENGTHS)
    exact = plan_attention(packed, 128, torch.float32)
    half = replace(exact, dtype=dtype)
    torch.manual_seed(0)
    leaves = [torch.randn(packed.tokens, 4, 64).to(dtype).requires_grad_() for _ in range(3)]
    references = [leaf.detach().float().requires_grad_() for leaf in leaves]
    found, wanted = attend(*leaves, half, local=local), attend(*references, exact, local=local)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), wanted, atol=2e-2, rtol=2e-2)
    found.sum().backward()
    wanted.sum().backward()
    for leaf, reference in zip(leaves, references, strict=True):
        assert leaf.grad is not None
        assert reference.grad is not None
        torch.testing.assert_close(leaf.grad.float(), reference.grad, atol=4e-2, rtol=4e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("local", [False, True])
def test_flash_and_blocked_attention_agree(local: bool) -> None:
    on_host = packed_of(LENGTHS)
    on_device = on_host.to("cuda")
    torch.manual_seed(0)
    inputs = [torch.randn(on_host.tokens, 4, 64).to(torch.bfloat16) for _ in range(3)]
    weight = torch.randn(on_host.tokens, 4, 64).to(torch.bfloat16)

    def run(packed: Packed, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
        plan = plan_attention(packed, 128, dtype)
        leaves = [x.to(packed.ids.device, plan.dtype).requires_grad_() for x in inputs]
        out = attend(*(in_plan_order(plan, x) for x in leaves), plan, local=local)
        (out * in_plan_order(plan, weight.to(out))).sum().backward()
        out = out if plan.inverse is None else out[plan.inverse]
        return out.float().cpu(), [x.grad.float().cpu() for x in leaves if x.grad is not None]

    if not runs_flash_attention(on_device.ids.device):
        pytest.skip("this GPU has no flash attention")
    assert plan_attention(on_device, 128, torch.bfloat16).offsets is not None
    blocked, blocked_grads = run(on_host, torch.float32)
    flash, flash_grads = run(on_device, torch.bfloat16)
    torch.testing.assert_close(flash, blocked, atol=2e-2, rtol=2e-2)
    for a, b in zip(flash_grads, blocked_grads, strict=True):
        torch.testing.assert_close(a, b, atol=4e-2, rtol=4e-2)
