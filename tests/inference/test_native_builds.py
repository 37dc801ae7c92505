"""Every way to build the native kernels: compilers, with OpenMP and without, and processors with more or less."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from native_targets import built

from mmbert.inference.native import kernel, layer
from mmbert.inference.native.kernel import Kernels
from mmbert.model.attention import Group
from mmbert.model.rope import angles
from mmbert.native import attention, build, fused, library, softmax
from mmbert.native.library import Library
from mmbert.native.targets import SOURCES, TARGETS, Target

X86 = {target.name: target for target in TARGETS if target.name != "neon"}

LESS = {
    "avx512 without bf16": (replace(X86["avx512"], more=X86["avx512"].more[1:]), ()),
    "avx512 without bf16 and VNNI": (replace(X86["avx512"], more=()), ()),
    # the same instruction in its AVX-512 form, for processors that have no AVX-VNNI
    "avx2 with VNNI": (
        replace(X86["avx2"], flags=(*X86["avx2"].flags, "-mavx512vl", "-mavx512vnni"), more=()),
        ("avx512_vl", "avx512_vnni"),
    ),
}

COMPILERS = ("gcc", "clang")


def needs(compiler: str) -> None:
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("this processor's compiler does not know these targets")
    if not shutil.which(compiler):
        pytest.skip(f"there is no {compiler}")


def needs_target(target: Target, *more: str) -> None:
    able = torch.cpu.get_capabilities()
    missing = [name for name in (*target.needs, *more) if not able.get(name)]
    if missing:
        pytest.skip(f"the processor has no {missing[0]}")


@pytest.mark.parametrize(
    ("name", "compiler", "threads"), [*product(X86, COMPILERS, build.THREADS), *product(LESS, COMPILERS, ["-pthread"])]
)
def test_no_warnings(name: str, compiler: str, threads: str, tmp_path: Path) -> None:
    """Whatever the processor: compiling needs none of its instructions."""
    needs(compiler)
    target = X86[name] if name in X86 else LESS[name][0]
    flags = (*target.flags, *(flag for _, flag in target.more))
    strict = [compiler, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", *flags, threads, "-shared", "-fPIC"]
    if threads == "-fopenmp":
        asked = subprocess.run([compiler, threads, "-E", "-"], input=b"#include <omp.h>", capture_output=True)
        if asked.returncode:
            pytest.skip(f"{compiler} has no OpenMP")
    files = [str(path) for path in SOURCES if path.suffix == ".c"]
    made = subprocess.run([*strict, *files, "-o", str(tmp_path / "x.so")], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


@pytest.mark.parametrize("name", LESS)
def test_processors_with_less(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Branches that this machine's own target does not take."""
    needs("gcc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    target, more = LESS[name]
    needs_target(target, *more)
    found = library.load(target)
    assert isinstance(found, Library)
    kernels = kernel._kernels(found)
    assert isinstance(kernels, Kernels)
    monkeypatch.setattr(library, "find", lambda: found)
    assert fused._right.__wrapped__(found)
    assert attention._right.__wrapped__(found)
    assert softmax._right.__wrapped__(found)
    assert not kernels.bf16_dot
    assert kernels.int8_largest == ((63, 63) if name == "avx512 without bf16 and VNNI" else (127, 127))
    assert all(layer._right(kernels, used) for used in layer.KINDS)


def test_tiles_that_linux_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library of AMX then computes as that of AVX-512 does."""
    needs("gcc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # a library of its own, with its own answer of Linux
    needs_target(X86["amx"])
    functions = build.load_library(SOURCES, X86["amx"].all_flags())
    monkeypatch.setattr(functions, "allow_tiles", lambda: 0)
    kernels = Kernels(Library(X86["amx"], functions, lanes=16, bf16=True, tiles=False))
    assert not kernels.tiles
    assert not ctypes.c_int32.in_dll(functions, "tiles_allowed").value
    assert all(layer._right(kernels, used) for used in layer.KINDS)
    assert all(kernel._agrees(kernels, dim, 8, torch.bfloat16) for dim in attention.HEAD_DIMS)


@pytest.mark.parametrize("threads", build.THREADS)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_same_numbers_by_any_compiler(
    compiler: str, threads: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(compiler)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "COMPILERS", (compiler,))
    monkeypatch.setattr(build, "THREADS", (threads,))
    for target in X86.values():
        if target.missing():
            continue
        found = library.load.__wrapped__(target)
        if isinstance(found, str):
            assert threads == "-fopenmp"
            pytest.skip(f"{compiler} has no OpenMP")
        kernels = Kernels(found)
        monkeypatch.setattr(library, "find", lambda found=found: found)
        assert fused._right.__wrapped__(found)
        assert attention._right.__wrapped__(found)
        assert softmax._right.__wrapped__(found)
        monkeypatch.undo()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setattr(build, "COMPILERS", (compiler,))
        monkeypatch.setattr(build, "THREADS", (threads,))
        assert kernel._agrees(kernels, 64, 8, torch.float32)
        assert all(layer._right(kernels, used) for used in layer.KINDS)
        x = torch.randn(500, 3, 2, 64)
        ours = built()[target.name]
        assert isinstance(ours, Kernels)
        cos_sin, group = angles(torch.arange(500), 64, 10_000.0), Group(1, 500, None)
        theirs, mine = (each._attend(x, cos_sin, (group,), half=500) for each in (kernels, ours))
        assert torch.allclose(theirs, mine, rtol=1e-5, atol=1e-5)
