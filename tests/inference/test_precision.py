"""Precisions: the same function, within what each promises; a text's vector does not depend on its company."""

from __future__ import annotations

import copy
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_folders import TEXTS

from mmbert import cpu
from mmbert.errors import ConfigError
from mmbert.inference import onednn_layers, precision
from mmbert.inference.embedder import Embedder
from mmbert.inference.int8 import Int8Layer, by_channel, compiles
from mmbert.inference.native import kernel
from mmbert.inference.native import layer as native_layer
from mmbert.inference.native.layer import NativeLayer
from mmbert.inference.onednn_layers import OneDnnLayer, PackedMatrix, paired, rotate_pairs
from mmbert.inference.precision import HalfLinear, apply_precision, choose
from mmbert.model.config import ModelConfig
from mmbert.model.encoder import Encoder
from mmbert.model.rope import angles, rotate
from mmbert.native import library
from mmbert.packed import Packed

CPU = torch.device("cpu")


@pytest.fixture(params=["native", "torch"])
def who(request: pytest.FixtureRequest) -> Iterator[str]:
    """Who computes in bf16 and int8 (torch in both, where nothing native can be built)."""
    library.use(request.param == "native")
    yield request.param
    library.use(True)


@pytest.fixture
def torch_alone() -> Iterator[None]:
    library.use(False)
    yield
    library.use(True)


@pytest.fixture(scope="module")
def trained() -> Encoder:
    """Random weights large enough for attention to choose; the published window, two angles."""
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=300, hidden_size=64, intermediate_size=96, num_layers=4, num_heads=2,
        rope_theta=160_000.0, local_rope_theta=10_000.0,
    )  # fmt: skip
    encoder = Encoder(config).eval().requires_grad_(False)
    for name, parameter in encoder.named_parameters():
        if name.endswith("norm.weight"):
            parameter.uniform_(0.5, 1.5)
        elif parameter.dim() == 2:
            parameter.normal_(0, 0.1 if "Wqkv" in name else 0.06)
    return encoder


@pytest.fixture(scope="module")
def packed() -> Packed:
    rng = np.random.default_rng(0)
    return Packed.from_lists([rng.integers(5, 300, n) for n in (300, 2, 65, 129, 161, 40, 40, 500)]).to()


def settled(encoder: Encoder, used: str) -> Encoder:
    copied = copy.deepcopy(encoder)
    assert apply_precision(copied, CPU, used) == used
    return copied


def states(encoder: Encoder, packed: Packed) -> torch.Tensor:
    with torch.inference_mode():
        return encoder(packed).clone()


def nearness(found: torch.Tensor, wanted: torch.Tensor) -> tuple[float, float]:
    """Relative error of all, and the smallest cosine of a token."""
    cosine = torch.nn.functional.cosine_similarity(found, wanted, dim=1)
    return float((found - wanted).norm() / wanted.norm()), float(cosine.min())


@pytest.mark.parametrize(("used", "error", "cosine"), [("plain", 0, 1), ("fp32", 1e-6, 1), ("bf16", 1e-2, 0.9999)])
def test_how_near(trained: Encoder, packed: Packed, used: str, error: float, cosine: float, who: str) -> None:
    found, wanted = states(settled(trained, used), packed), states(trained, packed)
    assert found.dtype == torch.float32
    assert nearness(found, wanted)[0] <= error
    assert nearness(found, wanted)[1] >= cosine - 1e-6
    if used == "bf16":
        assert nearness(found, wanted)[0] > 1e-5  # it is bf16


def int8(encoder: Encoder, *, compiled: bool) -> Encoder:
    copied = copy.deepcopy(encoder)
    copied.layers = torch.nn.ModuleList(Int8Layer(layer, compiled=compiled) for layer in copied.layers)  # type: ignore[arg-type]
    return copied


def test_how_near_int8(trained: Encoder, packed: Packed) -> None:
    error, cosine = nearness(states(int8(trained, compiled=False), packed), states(trained, packed))
    eight_bits = cpu.int8_instructions() is not None  # else 7, so that no product saturates
    assert 1e-4 < error < (0.04 if eight_bits else 0.08)
    assert cosine > (0.999 if eight_bits else 0.99)


@pytest.mark.parametrize("isa", ["AVX2", "DEFAULT"])
def test_torchs_int8_products_are_exact_or_not_used(isa: str) -> None:
    """oneDNN saturates without VNNI, and reads its cap once in a process."""
    code = (
        "import torch; from mmbert import cpu; from mmbert.inference.int8 import Int8Matrix; torch.manual_seed(0)\n"
        "matrix = Int8Matrix(torch.randn(96, 64)); x = torch.randint(64, 128, (40, 64), dtype=torch.int8)\n"
        "print(torch.equal(matrix(x), x.int() @ matrix.weight.int()), cpu.int8_instructions())\n"
    )
    given = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa, "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=given, check=True)
    exact, found = run.stdout.split()
    assert exact == "True" or found == "None"
    assert isa == "DEFAULT" or platform.machine() != "x86_64" or found == "None"


@pytest.mark.usefixtures("torch_alone")
def test_int8_is_refused_where_it_would_be_slow(trained: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "int8_instructions", lambda: None)
    with pytest.raises(ConfigError, match=r"int8 would be many times slower.*switched off.*take precision auto"):
        settled(trained, "int8")


@pytest.mark.usefixtures("torch_alone")
def test_bf16_that_would_be_slow(
    trained: Encoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cpu, "bf16_instructions", lambda: None)
    assert apply_precision(copy.deepcopy(trained), CPU, "auto") == "fp32"
    assert not caplog.records
    with caplog.at_level("WARNING"):
        settled(trained, "bf16")
    assert "bf16 is much slower than fp32 here" in caplog.text


def test_rounding_by_channel() -> None:
    weight = torch.tensor([[2.0, -4.0], [0.5, 0.1]])
    for largest in (127, 64):
        rounded, scale = by_channel(weight, largest)
        assert rounded[:, 0].tolist() == [largest // 2 + largest % 2, largest]
        assert torch.allclose(rounded * scale[:, None], weight, atol=4 / largest / 2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_compiled_int8_is_the_same(trained: Encoder, packed: Packed) -> None:
    if not compiles():
        pytest.skip("needs a C++ compiler")
    step_by_step, compiled = (states(int8(trained, compiled=flag), packed) for flag in (False, True))
    assert nearness(compiled, step_by_step)[0] < 2e-3  # a number on the border of two steps rounds either way


@pytest.mark.usefixtures("torch_alone")
@pytest.mark.parametrize("used", ["fp32", "bf16"])
def test_long_batches_in_parts(trained: Encoder, packed: Packed, used: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = settled(trained, used)
    whole = states(encoder, packed)
    monkeypatch.setattr(onednn_layers, "PART", 100)
    assert nearness(states(encoder, packed), whole)[0] < (1e-6 if used == "fp32" else 1e-3)


def test_int8_in_parts(trained: Encoder, packed: Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = int8(trained, compiled=False)
    whole = states(encoder, packed)
    monkeypatch.setattr(onednn_layers, "PART", 100)
    assert nearness(states(encoder, packed), whole)[0] < 2e-3


@pytest.mark.usefixtures("torch_alone")
@pytest.mark.parametrize(("used", "bound"), [("fp32", 1e-6), ("bf16", 1e-2)])
def test_where_nothing_can_be_packed(
    trained: Encoder, packed: Packed, used: str, bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "packs", lambda dtype: False)
    encoder = settled(trained, used)
    assert not any(matrix.packed for matrix in encoder.modules() if isinstance(matrix, PackedMatrix))
    assert isinstance(encoder.layers[0], OneDnnLayer)
    assert nearness(states(encoder, packed), states(trained, packed))[0] < bound
    assert choose(CPU)[0] == "fp32"


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 1e-2), (torch.float16, 1e-3)])
def test_linear_layers_of_gpus(dtype: torch.dtype, bound: float) -> None:
    weight, x = torch.randn(24, 16), torch.randn(9, 16)
    found = HalfLinear(weight, dtype)(x)
    assert found.dtype == dtype
    assert bound / 100 < nearness(found.float(), x @ weight.t())[0] < bound


def test_fp16_is_refused_on_a_cpu(trained: Encoder) -> None:
    with pytest.raises(ConfigError, match="fp16 is for GPUs: take auto"):
        apply_precision(copy.deepcopy(trained), CPU, "fp16")


def test_pairs_turn_as_halves_do() -> None:
    weight = torch.randn(3 * 16, 16)
    x, cos_sin = torch.randn(9, 16), angles(torch.arange(9), 8, 10_000.0)
    q, k, v = rotate((x @ weight.t()).view(9, 3, 2, 8), cos_sin, torch.float32)
    qkv = (x @ paired(weight, 8).t()).view(9, 3, 2, 8)
    rotate_pairs(qkv, cos_sin)
    mine, mine_keys, mine_values = qkv.unbind(1)
    assert torch.allclose(torch.einsum("ihd,jhd->hij", mine, mine_keys), torch.einsum("ihd,jhd->hij", q, k), atol=1e-4)
    assert torch.allclose(mine_values, v, atol=1e-6)


@pytest.mark.parametrize(("used", "bound"), [("fp32", 1e-6), ("bf16", 2e-3), ("plain", 1e-6)])
def test_company_does_not_matter(bare: Path, used: str, bound: float, who: str) -> None:
    embed = Embedder.load(bare, device="cpu", precision=used)
    together = embed(TEXTS * 3)
    assert abs(together[:10] - together[10:20]).max() <= bound
    alone = np.stack([embed(text) for text in TEXTS])
    assert abs(together[:10] - alone).max() <= bound
    assert abs(embed(TEXTS[::-1])[::-1] - alone).max() <= bound
    assert abs(alone[0] - alone[1]).max() > 0.02  # the vectors differ by far more than the bound


def test_what_auto_is(bare: Path) -> None:
    chosen, why = choose(CPU)
    assert chosen in ("fp32", "bf16")
    assert why
    # the kernels for which bf16 is chosen on some processors do not take so narrow a model
    assert Embedder.load(bare, device="cpu").loaded.precision in (
        {chosen} if cpu.bf16_instructions() else {chosen, "fp32"}
    )


@pytest.mark.parametrize(
    ("able", "wanted", "why"),
    [
        ({}, "fp32", "the processor has no instructions for bf16"),
        ({"avx512_vnni": True, "avx512_f": True}, "fp32", "the processor has no instructions for bf16"),
        ({"avx512_bf16": True}, "bf16", "the processor has avx512_bf16"),
        ({"amx_bf16": True, "avx512_bf16": True}, "bf16", "the processor has amx_bf16"),
    ],
)
def test_auto_by_what_the_processor_has(
    able: dict[str, bool], wanted: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    monkeypatch.setattr(cpu, "packs", lambda dtype: True)
    assert choose(CPU) == (wanted, why)


def test_auto_keeps_weights_in_bf16_where_native_kernels_multiply_them_in_fp32(
    trained: Encoder, packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMBERT_NATIVE", "avx2")
    monkeypatch.setattr(cpu, "bf16_instructions", lambda: None)
    if not native_layer.usable("bf16"):
        pytest.skip(kernel.describe())
    assert choose(CPU) == ("bf16", "weights are kept in bf16 and multiplied in fp32, by the native kernels (avx2)")
    assert apply_precision(copy.deepcopy(trained), CPU, "auto") == "bf16"
    assert nearness(states(settled(trained, "bf16"), packed), states(trained, packed))[1] > 0.9999
    narrow = Encoder(ModelConfig(vocab_size=9, hidden_size=32, intermediate_size=48, num_layers=1, num_heads=2))
    assert apply_precision(narrow, CPU, "auto") == "fp32"  # heads of 16 dimensions are torch's


@pytest.mark.skipif(cpu.int8_instructions() is None, reason="int8 by torch is refused here")
@pytest.mark.usefixtures("torch_alone")
def test_int8_without_a_compiler_says_so(
    trained: Encoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "compiles", lambda: False)
    with caplog.at_level("WARNING"):
        assert isinstance(settled(trained, "int8").layers[0], Int8Layer)
    assert "int8 without a C++ compiler (g++) is slower than bf16: install one, or take bf16" in caplog.text


def test_layers_are_replaced(trained: Encoder) -> None:
    encoder = settled(trained, "fp32")
    assert all(isinstance(layer, OneDnnLayer | NativeLayer) for layer in encoder.layers)
    assert all(parameter.dim() == 1 or "tok_embeddings" in name for name, parameter in encoder.named_parameters())


def test_precisions_that_do_not_exist(trained: Encoder) -> None:
    with pytest.raises(ConfigError, match="fp64"):
        apply_precision(copy.deepcopy(trained), CPU, "fp64")
    with pytest.raises(ConfigError, match="int8 is for CPUs"):
        apply_precision(copy.deepcopy(trained).to("meta"), torch.device("meta"), "int8")
