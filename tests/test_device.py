"""What is chosen for an accelerator, by its compute capability alone: so every chip is tested on any machine."""

from __future__ import annotations

import pytest
import torch

from mmbert.device import Half, autocast, half_for, has_flash_attention, native_half, runs_flash_attention

CHIPS: list[tuple[str, tuple[int, int], Half | None, bool]] = [
    ("GTX 1080", (6, 1), None, False),
    ("P100", (6, 0), None, False),
    ("V100", (7, 0), "fp16", False),
    ("T4", (7, 5), "fp16", False),
    ("A100", (8, 0), "bf16", True),
    ("L4", (8, 9), "bf16", True),
    ("H200", (9, 0), "bf16", True),
    ("B200", (10, 0), "bf16", True),
]


@pytest.mark.parametrize(("chip", "capability", "half", "flash"), CHIPS)
def test_each_chip(chip: str, capability: tuple[int, int], half: Half | None, flash: bool) -> None:
    assert half_for(capability, bf16=capability >= (8, 0)) == half, chip
    assert has_flash_attention(capability) == flash, chip


def test_a_processor_is_no_accelerator() -> None:
    assert native_half(torch.device("cpu")) is None
    assert not runs_flash_attention(torch.device("cpu"))


def test_apple_computes_in_fp16_without_flash() -> None:
    assert native_half(torch.device("mps")) == "fp16"
    assert not runs_flash_attention(torch.device("mps"))


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", None)])
def test_autocast_is_of_the_precision(precision: str, dtype: torch.dtype | None) -> None:
    with autocast(torch.device("cpu"), precision):
        assert torch.is_autocast_enabled("cpu") == (dtype is not None)
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (dtype or torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_this_gpu_runs_what_is_chosen_for_it() -> None:
    device = torch.device("cuda", 0)
    half = native_half(device)
    with autocast(device, half or "fp32"):
        product = torch.ones(8, 8, device=device) @ torch.ones(8, 8, device=device)
    assert product.float().eq(8).all()
