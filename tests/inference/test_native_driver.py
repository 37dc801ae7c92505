"""Kernels that Python cannot load: with sanitizers, and for aarch64 under an emulator; ragged lengths and odd widths.

Every buffer is an allocation of exactly its size, so that to the sanitizers (of addresses and of undefined behaviour)
one number too many is an error that ends the process.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from native_driver import DrivenFunctions, DrivenKernels, compile_driver
from native_oracles import (
    attend,
    bound,
    encoder,
    error,
    largest_products_are_whole,
    layer_error,
    masked,
    projection,
    rows,
    run,
    shape,
)

from mmbert.inference.native.layer import KINDS, NativeLayer
from mmbert.native import attention, fused, library, softmax
from mmbert.native.library import Library
from mmbert.native.targets import TARGETS, Target

LENGTHS = (1, 2, 33, 63, 64, 65, 66, 127, 128, 129, 130, 600)

EMULATED = (1, 2, 7, 65, 130, 520)
"""An emulator takes a hundred times as long; here only the numbers count. 520 are more than a chunk of keys."""

SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")

MOST = {"fp32": 5e-6, "bf16": 0.03, "int8": 0.1}
"""Of what a layer adds, the relative error."""


def sanitized(target: Target, folder: Path) -> DrivenKernels:
    if missing := target.missing():
        pytest.skip(f"the processor has no {missing}")
    if not shutil.which("gcc"):
        pytest.skip("there is no gcc")
    empty = subprocess.run(
        ["gcc", *SANITIZERS, "-x", "c", "-", "-o", str(folder / "empty")],
        input=b"int main(void) { return 0; }", capture_output=True,
    )  # fmt: skip
    if empty.returncode or subprocess.run([str(folder / "empty")], capture_output=True).returncode:
        pytest.skip("gcc has no sanitizers here (libasan, libubsan)")
    flags = [*target.all_flags(), "-O1", "-g", *SANITIZERS]
    return DrivenKernels(target, [str(compile_driver("gcc", flags, folder))], folder, sanitized=True)


def emulated(target: Target, processor: str, folder: Path) -> DrivenKernels:
    """For aarch64, under an emulator of a processor that has no more than the target needs."""
    compiler, emulator = "aarch64-linux-gnu-gcc", "qemu-aarch64"
    for program in (compiler, emulator):
        if not shutil.which(program):
            pytest.skip(f"there is no {program}")
    made = compile_driver(compiler, ["-O3", *target.flags, "-static"], folder)
    return DrivenKernels(target, [emulator, "-cpu", processor, str(made)], folder, sanitized=False)


NEON = next(target for target in TARGETS if target.name == "neon")

BUILDS = {
    **{f"sanitized {target.name}": partial(sanitized, target) for target in TARGETS},
    "neon": partial(emulated, NEON, "cortex-a53"),
    **{
        f"neon with {name}": partial(emulated, replace(NEON, flags=(flag,)), processor)
        for (name, flag), processor in zip(NEON.more, ("cortex-a76", "max"), strict=True)
    },
}


@pytest.fixture(scope="module", params=BUILDS.values(), ids=BUILDS)
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DrivenKernels:
    made: DrivenKernels = request.param(tmp_path_factory.mktemp("driver"))
    return made


@pytest.mark.parametrize("head_dim", [32, 64])
@pytest.mark.parametrize("half", [None, 0, 64])
def test_attention(kernels: DrivenKernels, head_dim: int, half: int | None) -> None:
    """Each length by itself, whose buffers end where it ends, and all of them together."""
    together = LENGTHS if kernels.sanitized else EMULATED
    alone = [(length,) for length in together if kernels.sanitized and half != 0]
    for dtype in {torch.float32, kernels.dtype(torch.bfloat16)}:
        for lengths in [*alone, together]:
            qkv = projection(sum(lengths), head_dim, dtype)
            found = attend(kernels, qkv, lengths, 2 * (half or 0), local=half is not None)
            assert error(found, masked(qkv, lengths, half)) < bound(dtype)


@pytest.mark.parametrize("used", KINDS)
@pytest.mark.parametrize("index", [0, 1])
def test_layers(kernels: DrivenKernels, used: str, index: int) -> None:
    """Odd numbers of panels; an MLP that is wider than what is multiplied at a time. Layer 0 has no norm."""
    panel = kernels.columns
    heads = 3 * panel // 32 if panel % 32 == 0 else 3
    for inner, lengths in ((panel // 2 * 3, LENGTHS if kernels.sanitized else (1, 65)), (1536 + panel // 2, (2, 8))):
        layer = encoder(shape(hidden=32 * heads, inner=inner, heads=heads)).layers[index]
        made = NativeLayer(layer, used, kernels)  # type: ignore[arg-type]
        for length in lengths:
            x = rows(length, 32 * heads)
            wanted, found = (run(each, x, [length], head_dim=32) for each in (layer, made))
            assert layer_error(found, wanted, x) < MOST[used]


def test_int8_cannot_saturate(kernels: DrivenKernels) -> None:
    assert largest_products_are_whole(kernels)


@pytest.fixture
def in_training(kernels: DrivenKernels, monkeypatch: pytest.MonkeyPatch) -> Library:
    lanes, functions = kernels.group // (2 if kernels.tiles else 1), DrivenFunctions(kernels)
    found = Library(kernels.target, functions, lanes, kernels.bf16_dot, kernels.tiles)  # type: ignore[arg-type]
    monkeypatch.setattr(library, "find", lambda: found)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # what belongs to another thread would hide an overflow
    return found


def test_between_products(in_training: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """LayerNorm and GeGLU, forward and backward, of fewer rows than a piece and of more."""
    assert fused._right.__wrapped__(in_training)
    monkeypatch.setattr(fused, "PIECE", 2)
    assert fused._right.__wrapped__(in_training)


@pytest.mark.parametrize("head_dim", [32, 64])
def test_gradients_of_attention(kernels: DrivenKernels, in_training: Library, head_dim: int) -> None:
    together = LENGTHS if kernels.sanitized else EMULATED[:4]
    alone = [(length,) for length in together if kernels.sanitized]
    for dtype in {torch.float32, kernels.dtype(torch.bfloat16)}:
        for lengths in [*alone, together]:
            for half in (0, 64, max(lengths)):
                assert attention._agrees(dtype, head_dim, half, lengths)


@pytest.mark.parametrize("width", [1, 15, 16, 100, 4100])
def test_softmax(in_training: Library, width: int) -> None:
    for dtype in (torch.float32, *[torch.bfloat16] * in_training.bf16):
        assert softmax._agrees(dtype, width)
