"""StableAdamW against the published formula and against a well-kept library, and by behaviour."""

from __future__ import annotations

import optimi
import pytest
import torch
from torch import Tensor, nn

from mmbert.model.config import ModelConfig
from mmbert.model.heads import MaskedLM
from mmbert.training.optim import StableAdamW, gradient_norm, parameter_groups

PEAK = 8e-4
SHAPES = [(7, 5), (64, 33), (129,), (3, 4, 2)]


def make_parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def make_gradients(step: int) -> list[Tensor]:
    """Growing ones, so that the second moment lags and the step is clipped."""
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(shape, generator=generator) * 1.7**step for shape in SHAPES]


def rates() -> list[float]:
    return [1e-13, 4e-4, 8e-4, 8e-4, 5e-4, 1.6e-5]


def train(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    for step, rate in enumerate(rates()):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for parameter, gradient in zip(parameters, make_gradients(step), strict=True):
            parameter.grad = gradient
        optimizer.step()


@pytest.mark.parametrize("decoupled", [True, False])
def test_equals_optimi_to_the_last_bit(decoupled: bool) -> None:
    mine, theirs = make_parameters(), make_parameters()
    train(StableAdamW(mine, lr=PEAK, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1), mine)
    published = {"decouple_lr": True, "max_lr": PEAK, "weight_decay": 8e-5} if decoupled else {"weight_decay": 0.1}
    train(optimi.StableAdamW(theirs, lr=PEAK, betas=(0.9, 0.95), eps=1e-8, triton=False, **published), theirs)
    for a, b in zip(mine, theirs, strict=True):
        assert torch.equal(a, b)


def test_a_tensor_moved_in_pieces_goes_where_it_went_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, chunks = make_parameters(), make_parameters()
    train(StableAdamW(whole, lr=PEAK, weight_decay=0.1), whole)
    monkeypatch.setattr("mmbert.training.optim.CPU_CHUNK", 7)
    train(StableAdamW(chunks, lr=PEAK, weight_decay=0.1), chunks)
    for a, b in zip(chunks, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_equals_the_formula_and_clips() -> None:
    mine = make_parameters()
    train(StableAdamW(mine, lr=PEAK, weight_decay=0.1), mine)
    clipped = 0
    for number, start in enumerate(make_parameters()):
        w = start.detach().double()
        m = v = torch.zeros_like(w)
        for step, rate in enumerate(rates(), start=1):
            g = make_gradients(step - 1)[number].double()
            b1 = 0.9 * (1 - 0.9 ** (step - 1)) / (1 - 0.9**step)
            b2 = 0.95 * (1 - 0.95 ** (step - 1)) / (1 - 0.95**step)
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            rms = (g**2 / v.clamp(min=1e-16)).mean().sqrt().item()
            clipped += rms > 1
            eta = rate / max(1, rms)
            w = w * (1 - eta / PEAK * 8e-5) - eta * m / (v.sqrt() + 1e-8)
        torch.testing.assert_close(mine[number].detach().double(), w, rtol=1e-5, atol=1e-6)
    assert clipped >= 4 * len(SHAPES)  # or the test would not see the clipping


def test_the_second_moment_has_the_floor_of_eps_squared() -> None:
    """Where gradients were 0 for long, v lags far behind g²: below ε² it is ε² that the step is clipped by."""
    eps, gradient, start = 1e-2, 2e-2, torch.ones(3)
    parameter = nn.Parameter(start.clone())
    optimizer = StableAdamW([parameter], lr=0.1, betas=(0.9, 0.95), eps=eps)
    optimizer.set_step(1000)  # the debiased factors are the betas themselves
    parameter.grad = torch.full((3,), gradient)
    optimizer.step()
    v = 0.05 * gradient**2
    assert v < eps**2 < gradient**2
    clipped = 0.1 / (gradient**2 / eps**2) ** 0.5
    step = clipped * 0.1 * gradient / (v**0.5 + eps)
    torch.testing.assert_close(parameter.detach(), start - step, rtol=1e-6, atol=0)


def test_only_matrices_decay() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    decayed, free = parameter_groups(model, 0.1)
    assert (decayed["names"], decayed["weight_decay"]) == (["0.weight", "2.weight"], 0.1)
    assert (free["names"], free["weight_decay"]) == (["1.weight", "1.bias", "2.bias"], 0.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    StableAdamW([decayed, free], lr=0.5).step()
    for name, value in model.state_dict().items():
        expected = before[name] * (1 - 0.5 * 0.1 if value.ndim >= 2 else 1)
        torch.testing.assert_close(value, expected)


def test_embeddings_may_be_spared_also_where_they_are_the_output() -> None:
    config = ModelConfig(vocab_size=30, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=2)
    model = MaskedLM(config)
    table = "model.embeddings.tok_embeddings.weight"
    decayed, free = parameter_groups(model, 0.1, embeddings=False)
    assert table in free["names"]
    assert {name for name, p in model.named_parameters() if p.ndim >= 2} == {*decayed["names"], table}
    assert len(decayed["names"]) + len(free["names"]) == len(dict(model.named_parameters()))


def test_embeddings_may_move_slower_than_all_else() -> None:
    config = ModelConfig(vocab_size=30, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=2)
    model = MaskedLM(config)
    table = "model.embeddings.tok_embeddings.weight"
    groups = parameter_groups(model, 0.0, embedding_lr=0.25)
    assert [group["names"] for group in groups if group["relative_lr"] == 0.25] == [[table]]
    assert sorted(name for group in groups for name in group["names"]) == sorted(dict(model.named_parameters()))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer = StableAdamW(groups, lr=1.0)
    optimizer.set_learning_rate(0.01)
    optimizer.step()
    for name, value in model.named_parameters():
        step = 0.01 * (0.25 if name == table else 1.0)
        torch.testing.assert_close(before[name] - value, torch.full_like(value, step), rtol=1e-3, atol=1e-6)


def test_parameters_without_gradient_stay() -> None:
    parameter = nn.Parameter(torch.ones(2, 2))
    StableAdamW([parameter], lr=1.0, weight_decay=0.1).step()
    assert torch.equal(parameter, torch.ones(2, 2))


def test_state_goes_to_another_optimizer_and_on_as_before() -> None:
    torch.manual_seed(0)
    model, copy = nn.Linear(4, 3), nn.Linear(4, 3)
    one, two = (StableAdamW(parameter_groups(m, 0.1), lr=1e-2) for m in (model, copy))

    def steps(m: nn.Module, optimizer: StableAdamW, count: range) -> None:
        for number in count:
            optimizer.zero_grad()
            m(torch.full((2, 4), 1.0 + number)).square().sum().backward()
            optimizer.step()

    steps(model, one, range(3))
    copy.load_state_dict(model.state_dict())
    for name, tensor in two.state_tensors().items():
        tensor.copy_(one.state_tensors()[name])
    two.set_step(3)
    steps(model, one, range(3, 6))
    steps(copy, two, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), copy.parameters(), strict=True))


def test_gradient_norm_sees_everything() -> None:
    parameters = make_parameters()
    for parameter in parameters[:-1]:
        parameter.grad = torch.ones_like(parameter)
    expected = sum(p.numel() for p in parameters[:-1]) ** 0.5
    assert gradient_norm(parameters).item() == pytest.approx(expected)
    parameters[0].grad[0, 0] = float("nan")  # type: ignore[index]
    assert not torch.isfinite(gradient_norm(parameters))
