"""The chunked loss: value and gradients of the plain formula, in little memory."""

from __future__ import annotations

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmbert.model.config import ModelConfig
from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed
from mmbert.training.loss import cross_entropy_sum, loss_sum

H, V = 16, 211


def make_inputs(rows: int, vocabulary: int = V, width: int = H) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    hidden, weight = (torch.randn(n, width, generator=generator, requires_grad=True) for n in (rows, vocabulary))
    bias = torch.randn(vocabulary, generator=generator, requires_grad=True)
    return hidden, weight, bias, torch.randint(vocabulary, (rows,), generator=generator)


def plain(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight, bias), labels, reduction="sum")


def library(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> Tensor:
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=64, chunking_method=None)
    return F.linear_cross_entropy(hidden, weight, labels, linear_bias=bias, reduction="sum", options=options)


@pytest.mark.parametrize("oracle", [plain, library])
@pytest.mark.parametrize("rows", [1, 63, 64, 65, 300])
def test_value_and_gradients(oracle: object, rows: int) -> None:
    if oracle is library and not hasattr(F, "linear_cross_entropy"):
        pytest.skip("torch < 2.13 has no linear_cross_entropy")
    inputs = make_inputs(rows)
    expected = oracle(*inputs)  # type: ignore[operator]
    wanted = torch.autograd.grad(expected / 7, inputs[:3])
    loss = cross_entropy_sum(*inputs, chunk=64)
    torch.testing.assert_close(loss, expected)
    for mine, theirs in zip(torch.autograd.grad(loss / 7, inputs[:3]), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_bf16_products_keep_an_exact_sum() -> None:
    inputs = make_inputs(500)
    exact = plain(*inputs)
    wanted = torch.autograd.grad(exact, inputs[:3])
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy_sum(*inputs, chunk=64)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=1e-3, atol=0)
    for mine, theirs in zip(torch.autograd.grad(loss, inputs[:3]), wanted, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - theirs).norm() < 0.01 * theirs.norm()


def test_large_scores_do_not_overflow() -> None:
    hidden, weight, bias, labels = make_inputs(20)
    big = hidden.detach() * 100
    loss = cross_entropy_sum(big, weight, bias, labels)
    assert loss.isfinite()
    torch.testing.assert_close(loss, plain(big, weight, bias, labels))


def test_no_gradient_is_made_where_none_is_wanted() -> None:
    inputs = make_inputs(100)
    with torch.no_grad():
        loss = cross_entropy_sum(*inputs, chunk=32)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, plain(*inputs).detach())


class Peak(TorchDispatchMode):
    """Counts the bytes of storages made inside that are alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                key = storage._cdata
                if key not in self._known:
                    self._known.add(key)
                    self.alive += storage.nbytes()
                    weakref.finalize(storage, self._free, key, storage.nbytes())
        self.peak = max(self.peak, self.alive)
        return out


def peak_bytes(loss: object, rows: int) -> int:
    inputs = make_inputs(rows, vocabulary=20_000)
    for tensor in inputs[:3]:
        tensor.grad = torch.zeros_like(tensor)
    with Peak() as peak:
        loss(*inputs).backward()  # type: ignore[operator]
    return peak.peak


def test_memory_does_not_grow_with_rows_times_vocabulary() -> None:
    def chunked(*inputs: Tensor) -> Tensor:
        return cross_entropy_sum(*inputs, chunk=32)

    few, many = peak_bytes(chunked, 64), peak_bytes(chunked, 1024)
    logits = 1024 * 20_000 * 4
    assert peak_bytes(plain, 1024) > logits  # the measure sees what it must
    assert many < logits / 5
    assert many - few < 960 * H * 4 * 8  # grows with the rows' features only


def test_saved_for_backward_is_no_more_than_the_gradients() -> None:
    inputs = make_inputs(300)
    saved: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        cross_entropy_sum(*inputs, chunk=32).backward()
    assert sum(saved) == sum(tensor.numel() for tensor in inputs[:3])


def make_model() -> MaskedLM:
    torch.manual_seed(0)
    return MaskedLM(ModelConfig.preset("nano", vocab_size=97, hidden_size=24, num_heads=2, intermediate_size=32))


def test_loss_of_a_model_trains_every_weight() -> None:
    model = make_model()
    packed = Packed.from_lists([[2, 5, 4, 7, 1], [2, 9, 4, 1]]).to()
    packed = Packed(packed.ids, packed.offsets, packed.longest, torch.tensor([2, 7]), torch.tensor([60, 61]))
    loss = loss_sum(model, packed)
    torch.testing.assert_close(loss, F.cross_entropy(model.logits(packed), packed.labels, reduction="sum"))
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_batch_without_labels_adds_zero() -> None:
    model = make_model()
    packed = Packed.from_lists([[2, 5, 6, 7, 1]]).to()
    nothing = torch.zeros(0, dtype=torch.int64)
    loss = loss_sum(model, Packed(packed.ids, packed.offsets, packed.longest, nothing, nothing))
    assert loss.item() == 0.0
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
