"""What a layer computes between its products, by native kernels: numbers, gradients, and when torch takes over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmbert.model.config import ModelConfig
from mmbert.model.encoder import Encoder
from mmbert.native import attention, fused, library
from mmbert.native.library import Library
from mmbert.packed import Packed

FOUND = library.find()

needs_kernels = pytest.mark.skipif(not isinstance(FOUND, Library), reason=f"no native kernels: {FOUND}")

DTYPES = [torch.float32, *[torch.bfloat16] * (isinstance(FOUND, Library) and FOUND.bf16)]

ERRORS = {torch.float32: 3e-6, torch.bfloat16: 0.01}


@pytest.fixture(autouse=True)
def switched_on() -> Iterator[None]:
    yield
    library.use(True)


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.detach().double() - wanted.detach()).norm() / wanted.detach().norm())


def compare(found: list[Tensor], inputs: list[Tensor], wanted: list[Tensor], exact: list[Tensor], most: float) -> None:
    """Results and the gradients of a sum of their squares, beside those in fp64."""
    for one, other in zip(found, wanted, strict=True):
        assert error(one, other) < most
    loss, exact_loss = (sum((part.double() ** 2).sum() for part in parts) for parts in (found, wanted))
    grads, exact_grads = torch.autograd.grad(loss, inputs), torch.autograd.grad(exact_loss, exact)  # type: ignore[arg-type]
    for one, given, other in zip(grads, inputs, exact_grads, strict=True):
        assert one.dtype == given.dtype
        assert error(one, other) < most


def leaves(*tensors: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors, and the same numbers in fp64, both with gradients."""
    return [x.requires_grad_() for x in tensors], [x.detach().double().requires_grad_() for x in tensors]


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(1, 16), (3, 48), (200, 384)])
@pytest.mark.parametrize("adds", [True, False])
def test_sum_and_norm(rows: int, width: int, adds: bool, dtype: torch.dtype) -> None:
    x, weight = 3 + 2 * torch.randn(rows, width), torch.randn(width)
    inputs, exact = leaves(x, weight, *[torch.randn(rows, width).to(dtype)] * adds)
    total, normed = fused.add_norm(inputs[0], inputs[2] if adds else None, inputs[1], 1e-5, dtype)
    assert normed.dtype == dtype
    assert total.dtype == torch.float32
    wanted = exact[0] + exact[2] if adds else exact[0]
    found = [total, normed] if adds else [normed]
    norm = F.layer_norm(wanted, (width,), exact[1], None, 1e-5)
    compare(found, inputs, [wanted, norm] if adds else [norm], exact, ERRORS[dtype])


@needs_kernels
def test_only_the_norm_or_only_the_sum_is_used() -> None:
    x, added, weight = (torch.randn(shape, requires_grad=True) for shape in ((5, 32), (5, 32), (32,)))
    total, normed = fused.add_norm(x, added, weight, 1e-5, torch.float32)
    grads = torch.autograd.grad(total.sum(), [x, added], retain_graph=True)
    assert all(torch.equal(grad, torch.ones(5, 32)) for grad in grads)
    (grad,) = torch.autograd.grad((normed**2).sum(), [x])
    wanted = F.layer_norm(x + added, (32,), weight, None, 1e-5)
    assert torch.allclose(grad, torch.autograd.grad((wanted**2).sum(), [x])[0], atol=1e-5)


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [16, 176])
def test_geglu(width: int, dtype: torch.dtype) -> None:
    (x,), (exact,) = leaves((4 * torch.randn(100, 2 * width)).to(dtype))
    a, gate = exact.chunk(2, -1)
    compare([fused.geglu(x)], [x], [F.gelu(a) * gate], [exact], ERRORS[dtype])


@needs_kernels
def test_geglu_where_gelu_is_straight() -> None:
    """Far from nought gelu is 0 or the identity, and its slope 0 or 1."""
    x = torch.tensor([[-200.0, -20, -6, 0, 6, 20, 200, 1] * 2 + [1.0] * 16], requires_grad=True)
    out = fused.geglu(x)
    wanted = F.gelu(x[:, :16])
    assert torch.allclose(out, wanted, atol=1e-7)
    assert torch.allclose(
        *(torch.autograd.grad(y.sum(), x, retain_graph=True)[0][:, :16] for y in (out, wanted)), atol=1e-6
    )


@needs_kernels
def test_numbers_do_not_depend_on_threads() -> None:
    x, weight = torch.randn(1000, 64, requires_grad=True), torch.randn(64, requires_grad=True)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            _, normed = fused.add_norm(x, None, weight, 1e-5, torch.float32)
            results.append((normed, *torch.autograd.grad((normed**3).sum(), [x, weight])))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def model_and_batch() -> tuple[Encoder, Packed]:
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_layers": 4, "num_heads": 2}
    encoder = Encoder(ModelConfig(vocab_size=300, **shape))
    lengths = [1, 3, 40, 40, 200]
    return encoder, Packed.from_lists([torch.randint(5, 300, (length,)).tolist() for length in lengths]).to()


def gradients(encoder: Encoder, packed: Packed, dtype: torch.dtype) -> list[Tensor]:
    encoder.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        out = encoder(packed)
    (out.float() ** 3).sum().backward()
    return [out.detach(), *(weight.grad for weight in encoder.parameters() if weight.grad is not None)]


@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_encoder_has_the_same_gradients_by_torch(dtype: torch.dtype, checkpointing: bool) -> None:
    encoder, packed = model_and_batch()
    encoder.gradient_checkpointing = checkpointing
    found = gradients(encoder, packed, dtype)
    library.use(False)
    wanted = gradients(encoder, packed, dtype)
    exact = gradients(encoder, packed, torch.float32)
    assert len(found) == len(wanted) == 1 + len([*encoder.parameters()])
    for ours, theirs, true in zip(found, wanted, exact, strict=True):
        # in bf16 both are off by rounding, by about as much
        assert error(ours, true.double()) < (2e-5 if dtype == torch.float32 else 1.5 * error(theirs, true.double()))


@needs_kernels
def test_the_first_use_is_within_what_is_computed_again() -> None:
    """Comparing the kernels with torch must not be taken for a part of the layer."""
    encoder, packed = model_and_batch()
    wanted = gradients(encoder, packed, torch.float32)
    encoder.gradient_checkpointing = True
    for check in (fused._right, attention._right):
        check.cache_clear()
    with torch.inference_mode():
        encoder(packed)
    for check in (fused._right, attention._right):
        check.cache_clear()
    found = gradients(encoder, packed, torch.float32)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@needs_kernels
def test_what_they_do_not_compute_is_left_to_torch() -> None:
    x = torch.randn(4, 32)
    assert fused.ready(x, 32, torch.float32)
    assert not fused.ready(x, 24, torch.float32)
    assert not fused.ready(x, 32, torch.float16)
    assert not fused.ready(x.to("meta"), 32, torch.float32)
    assert not fused.ready(torch.nn.Parameter(x), 32, torch.float32)
    library.use(False)
    assert not fused.ready(x, 32, torch.float32)


@needs_kernels
def test_wrong_numbers_of_training_are_noticed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fused, "geglu", lambda x: x.chunk(2, -1)[0] * 2)
    assert isinstance(FOUND, Library)
    with caplog.at_level("WARNING"):
        assert not fused._right.__wrapped__(FOUND)
    assert "please report" in caplog.text


@needs_kernels
def test_a_model_whose_weights_are_bf16_is_left_to_torch() -> None:
    """Its norms and bias are no fp32, which the kernels read."""
    encoder, packed = model_and_batch()
    wanted = encoder(packed).detach()
    found = encoder.bfloat16()(packed)
    assert error(found, wanted.double()) < 0.05
