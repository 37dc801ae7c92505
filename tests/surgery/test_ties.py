"""TIES on tensors, against the published formulas written plainly."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmbert.surgery.average import average, fading_weights
from mmbert.surgery.select import Selection, Trim
from mmbert.surgery.ties import entries_kept
from ties_in_memory import threshold_of, ties, trim


def mergekit_ties(base: Tensor, variants: list[Tensor], weights: list[float], density: float, scale: float) -> Tensor:
    """mergekit's ``ties`` (magnitude sparsify, consensus by sum, normalize) on one tensor."""
    differences = []
    for variant in variants:
        difference = variant - base
        mask = torch.zeros_like(difference)
        top = torch.argsort(difference.abs().view(-1), descending=True)[: int(density * difference.numel())]
        mask.view(-1)[top] = 1
        differences.append(difference * mask)
    factors = torch.tensor(weights).reshape(-1, *[1] * base.dim())
    weighted = torch.stack(differences) * factors
    majority = (weighted.sum(0) >= 0).to(base.dtype) * 2 - 1
    mask = (weighted.sign() == majority).to(base.dtype)
    divisor = (factors * mask).sum(0)
    divisor[divisor == 0] = 1
    return base + scale * (weighted * mask).sum(0) / divisor


def notebook_ties(base: Tensor, variants: list[Tensor], density: float, scale: float) -> Tensor:
    """The authors' notebook ("dis-mean") on a flattened model, with exactly the top int(density n) entries kept."""
    differences = torch.stack([variant - base for variant in variants])
    for row in differences:
        order = torch.argsort(row.abs(), descending=True, stable=True)
        row[order[int(density * row.numel()) :]] = 0
    signs = differences.sum(0).sign()
    majority = signs.sum().sign()
    signs = torch.where(signs == 0, majority, signs)
    agreeing = torch.where(signs > 0, differences > 0, differences < 0) * differences
    return base + scale * agreeing.sum(0) / (agreeing != 0).sum(0).clamp(min=1)


def models(count: int, shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    return base, [base + 0.1 * torch.randn(shape, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [1.0, 0.5, 2.0]])
def test_equals_mergekit(density: float, weights: list[float]) -> None:
    base, variants = models(3, (37, 53))
    ours = ties(base, variants, weights=weights, density=density, scale=0.7)
    assert torch.allclose(ours, mergekit_ties(base, variants, weights, density, 0.7), rtol=0, atol=1e-6)
    assert not torch.allclose(ours, base, atol=1e-3)


def test_equals_the_authors_notebook() -> None:
    base, variants = models(4, (4001,))
    ours = ties(base, variants, density=0.2)
    assert torch.allclose(ours, notebook_ties(base, variants, 0.2, 1.0), rtol=0, atol=1e-6)


def test_even_votes_follow_the_given_sign() -> None:
    base = torch.zeros(2)
    variants = [torch.tensor([1.0, 3.0]), torch.tensor([-1.0, 3.0])]
    assert ties(base, variants, density=1.0).tolist() == [1.0, 3.0]
    assert ties(base, variants, density=1.0, even=-1.0).tolist() == [-1.0, 3.0]


def test_weights_count_in_the_vote_and_in_the_mean() -> None:
    base = torch.zeros(1)
    variants = [torch.tensor([-1.0]), torch.tensor([2.0]), torch.tensor([4.0])]
    assert ties(base, variants, weights=[9.0, 1.0, 1.0], density=1.0).item() == -1.0
    assert ties(base, variants, weights=[1.0, 1.0, 3.0], density=1.0).item() == pytest.approx((2 + 12) / 4)


def test_half_precision_is_computed_in_single() -> None:
    base, variants = models(3, (500,))
    rounded = [tensor.bfloat16() for tensor in (base, *variants)]
    expected = ties(rounded[0].float(), [v.float() for v in rounded[1:]], density=0.3).bfloat16()
    assert torch.equal(ties(rounded[0], rounded[1:], density=0.3), expected)


def test_one_variant_untrimmed_is_that_variant() -> None:
    base, (variant,) = models(1, (64,))
    assert torch.allclose(ties(base, [variant], density=1.0), variant, atol=1e-7)


magnitudes = st.lists(
    st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45]),
    min_size=1,
    max_size=60,
)


@given(values=magnitudes, keep=st.integers(1, 60), cut=st.integers(0, 60))
@settings(max_examples=150, deadline=None)
def test_selection_is_exact_and_keeps_the_first_of_equals(values: list[float], keep: int, cut: int) -> None:
    stream = torch.tensor(values, dtype=torch.float32)
    keep = min(keep, len(values))
    parts = [stream[:cut], stream[cut:]]  # the answer must not depend on how the stream is cut
    selection = Selection(keep)
    for _ in range(2):
        for part in parts:
            selection.count(part)
        selection.next_pass()
    expected = torch.zeros_like(stream)
    first = torch.argsort(stream.abs(), descending=True, stable=True)[:keep]
    expected[first] = stream[first]
    trimmer = Trim(selection.threshold)
    assert selection.threshold is not None
    assert selection.threshold.magnitude == float(stream.abs().sort(descending=True).values[keep - 1])
    assert torch.equal(torch.cat([trimmer(part) for part in parts]), expected)


def test_selection_refuses_to_keep_more_than_it_saw() -> None:
    selection = Selection(5)
    selection.count(torch.ones(4))
    with pytest.raises(ValueError, match="cannot keep 5 of 4"):
        selection.next_pass()


def test_trim_keeps_the_stated_number() -> None:
    equal = torch.full((10, 10), -0.5)
    assert trim(equal, 0.2).count_nonzero() == 20
    assert trim(equal, 0.2)[:2].count_nonzero() == 20
    assert trim(equal, 0.001).count_nonzero() == entries_kept(100, 0.001) == 1
    assert threshold_of(equal, 1.0) is None


def test_fading_weights() -> None:
    assert fading_weights(3, 0.5) == pytest.approx([1 / 7, 2 / 7, 4 / 7])
    assert fading_weights(4, 1.0) == pytest.approx([0.25] * 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_average(dtype: torch.dtype) -> None:
    _, variants = models(3, (5, 7), seed=3)
    variants = [v.to(dtype) for v in variants]
    expected = (variants[0].double() + 2 * variants[1].double() + 5 * variants[2].double()) / 8
    assert torch.equal(average(variants, [1.0, 2.0, 5.0]), expected.to(dtype))
    assert torch.equal(average([variants[0]] * 3, fading_weights(3, 0.9)), variants[0])
