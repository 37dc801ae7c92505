"""The native attention kernels: torch's numbers, each document by itself, and torch where they are not there."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from native_oracles import attend, bound, error, masked, projection
from native_targets import built
from sentence_folders import TEXTS, write_model

from mmbert.errors import ConfigError
from mmbert.inference.embedder import Embedder
from mmbert.inference.int8 import Int8Layer
from mmbert.inference.native import kernel
from mmbert.inference.native.kernel import Kernels
from mmbert.inference.onednn_layers import OneDnnLayer
from mmbert.inference.precision import apply_precision
from mmbert.model.config import ModelConfig
from mmbert.model.encoder import Encoder
from mmbert.native import build, library, targets
from mmbert.packed import Packed
from mmbert.tokenizer.tokenizer import Tokenizer

there = kernel.describe().startswith("native")
needs_kernel = pytest.mark.skipif(not there, reason=kernel.describe())
needs_compiler = pytest.mark.skipif(not there or not shutil.which("gcc"), reason="needs gcc")

BUILT = {name: found for name, found in built().items() if isinstance(found, Kernels)}
KINDS = [
    (kernels, dtype)
    for kernels in BUILT.values()
    for dtype in dict.fromkeys((torch.float32, kernels.dtype(torch.bfloat16)))
]
by_all = pytest.mark.parametrize(
    ("kernels", "dtype"), KINDS, ids=[f"{kernels.target.name}-{dtype}" for kernels, dtype in KINDS]
)  # nothing, and so skipped, where no kernel can be built

CPU = torch.device("cpu")

FLAGS = next(iter(BUILT.values())).target.all_flags() if BUILT else ()


@pytest.fixture(autouse=True)
def switched_on() -> Iterator[None]:
    yield
    library.use(True)


LENGTHS = st.lists(st.sampled_from([1, 2, 5, 6, 7, 15, 16, 17, 63, 64, 65, 128, 129, 130, 500]), min_size=1, max_size=5)


@by_all
@examples(max_examples=25, deadline=None)
@given(
    lengths=LENGTHS, head_dim=st.sampled_from([32, 64]), half=st.sampled_from([None, 0, 1, 8, 64, 300]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_torchs_numbers(
    kernels: Kernels, dtype: torch.dtype, lengths: list[int], head_dim: int, half: int | None, seed: int
) -> None:
    lengths.sort()
    qkv = projection(sum(lengths), head_dim, dtype, seed=seed)
    found = attend(kernels, qkv, lengths, 2 * (half or 0), local=half is not None)
    assert found.dtype == dtype
    assert error(found, masked(qkv, lengths, half)) < bound(dtype)


@by_all
@pytest.mark.parametrize("head_dim", [32, 64])
@pytest.mark.parametrize("half", [None, 64, 700])
def test_more_queries_than_a_piece_and_more_keys_than_a_chunk(
    kernels: Kernels, dtype: torch.dtype, head_dim: int, half: int | None
) -> None:
    lengths = [767, 1700]  # 700 to either side are more than the 512 keys of a chunk, some of which a query cannot see
    qkv = projection(sum(lengths), head_dim, dtype)
    found = attend(kernels, qkv, lengths, 2 * (half or 0), local=half is not None)
    assert error(found, masked(qkv, lengths, half)) < bound(dtype)


@by_all
@pytest.mark.parametrize("half", [None, 20])
@pytest.mark.parametrize("scale", [0.0, 8.0, 100.0])
def test_scores_of_any_size(kernels: Kernels, dtype: torch.dtype, scale: float, half: int | None) -> None:
    """The largest are near 10 000: exp of them is no number, exp of the others nought."""
    lengths = [70, 600]
    qkv = projection(sum(lengths), 64, dtype, scale=scale)
    found = attend(kernels, qkv, lengths, 2 * (half or 0), local=half is not None)
    assert found.isfinite().all()
    # what is turned is rounded, so a score of 10 000 is known to +-40: there only what must hold is asked
    if scale < 100:
        assert error(found, masked(qkv, lengths, half)) < (1 if scale == 0 else 5) * bound(dtype)
    values = qkv[:, 2].float()
    assert (found.float().abs() <= values.abs().amax() * 1.01).all()


@by_all
@pytest.mark.parametrize("head_dim", [32, 64])
def test_the_window_ends_where_it_should(kernels: Kernels, dtype: torch.dtype, head_dim: int) -> None:
    """Equal scores, and one key of value 1: exactly the queries within half a window have some of it."""
    tokens, half = 300, 64
    for key in (0, 63, 64, 150, 299):
        qkv = torch.zeros(tokens, 3, 1, head_dim, dtype=dtype)
        qkv[key, 2] = 1
        found = attend(kernels, qkv, [tokens], 2 * half, local=True)[:, 0, 0]
        where = torch.arange(tokens)
        seen = (where + half).clamp(max=tokens - 1) - (where - half).clamp(min=0) + 1
        wanted = ((where - key).abs() <= half) / seen
        assert torch.allclose(found.float(), wanted, rtol=1e-2, atol=0)


@by_all
@pytest.mark.parametrize("local", [False, True])
def test_documents_never_see_each_other(kernels: Kernels, dtype: torch.dtype, local: bool) -> None:
    """To the last bit: not even a NaN next door is felt, and alone a document has the same numbers."""
    lengths = [5, 64, 65, 200, 801]
    qkv = projection(sum(lengths), 64, dtype)
    together = attend(kernels, qkv, lengths, 128, local=local)
    for part, found in zip(qkv.split(lengths), together.split(lengths), strict=True):
        assert torch.equal(attend(kernels, part, [len(part)], 128, local=local), found)
    qkv[5:69] = torch.nan
    pieces = attend(kernels, qkv, lengths, 128, local=local).split(lengths)
    assert pieces[1].isnan().all()
    for index in (0, 2, 3, 4):
        assert torch.equal(pieces[index], together.split(lengths)[index])


@by_all
def test_any_number_of_threads(kernels: Kernels, dtype: torch.dtype) -> None:
    lengths, threads = [3, 40, 40, 4000], torch.get_num_threads()  # long enough for threads to meet on one core
    qkv = projection(sum(lengths), 32, dtype)
    try:
        found = []
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            torch.randn(400, 400) @ torch.randn(400, 400)  # torch's own threads, before and after
            found.append(attend(kernels, qkv, lengths, 64, local=False))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def encoder(heads: int) -> Encoder:
    """Random weights large enough for attention to choose."""
    torch.manual_seed(0)
    made = Encoder(ModelConfig(vocab_size=300, hidden_size=128, intermediate_size=96, num_layers=4, num_heads=heads))
    for name, parameter in made.named_parameters():
        if parameter.dim() == 2:
            parameter.data.normal_(0, 0.1 if "Wqkv" in name else 0.05)
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def packed() -> Packed:
    rng = np.random.default_rng(0)
    return Packed.from_lists([rng.integers(5, 300, n) for n in (300, 2, 65, 129, 40, 40, 500)]).to()


def settled(plain: Encoder, used: str, *, on: bool) -> Encoder:
    library.use(on)
    made = copy.deepcopy(plain)
    apply_precision(made, CPU, used)
    assert all(bool(layer.native) is on for layer in made.layers)  # type: ignore[union-attr]
    return made


@needs_kernel
@pytest.mark.parametrize("heads", [2, 4])
def test_a_whole_encoder_in_bf16(packed: Packed, heads: int) -> None:
    plain = encoder(heads)
    with torch.inference_mode():
        wanted, found, torchs = (
            model(packed) for model in (plain, settled(plain, "bf16", on=True), settled(plain, "bf16", on=False))
        )
    assert F.cosine_similarity(found, wanted, dim=1).min() > 0.9999
    assert (found - wanted).norm() < 1.5 * (torchs - wanted).norm() + 1e-3 * wanted.norm()
    assert not torch.equal(found, torchs)  # the kernel did compute


@needs_kernel
def test_a_whole_encoder_in_int8(packed: Packed) -> None:
    plain = encoder(2)
    states = []
    for on in (True, False):
        library.use(on)
        made = copy.deepcopy(plain)
        made.layers = torch.nn.ModuleList(Int8Layer(layer, compiled=False) for layer in plain.layers)  # type: ignore[arg-type]
        with torch.inference_mode():
            states.append(made(packed))
    with torch.inference_mode():
        wanted = plain(packed)
    mine, torchs = ((state - wanted).norm() / wanted.norm() for state in states)
    assert 0 < mine < 1.2 * torchs


def test_other_heads_stay_with_torch() -> None:
    layer = OneDnnLayer(encoder(8).layers[0], torch.bfloat16)  # type: ignore[arg-type]
    assert layer.head_dim == 16
    assert not layer.native


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    library.use(False)
    assert kernel.describe() == "torch: the native kernels are switched off"
    assert not kernel.ready(64)
    library.use(True)
    monkeypatch.setenv("MMBERT_NATIVE", "0")
    assert not kernel.ready(64)


def test_a_target_that_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that the processor can run, although it has a better one; one that it cannot run is not replaced."""
    for name, kernels in BUILT.items():
        monkeypatch.setenv("MMBERT_NATIVE", name)
        assert kernel.find() is kernels
        assert f"({name}" in kernel.describe()
    able = dict.fromkeys(("avx512_f", "avx512_dq", "avx512_vl"), True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {**able, "avx512_bw": False})
    monkeypatch.setenv("MMBERT_NATIVE", "avx512")
    assert kernel.find() == "the processor has no avx512_bw"
    monkeypatch.setenv("MMBERT_NATIVE", "sse")
    with pytest.raises(ConfigError, match="MMBERT_NATIVE is 'sse': it is one of neon, amx, avx512, avx2"):
        kernel.find()


def test_targets_by_what_the_processor_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMBERT_NATIVE", raising=False)
    able = {"avx2": True, "fma3": True, "avx_vnni": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    chosen = targets.choose()
    assert isinstance(chosen, targets.Target)
    assert chosen.name == "avx2"
    assert "-mavxvnni" in chosen.all_flags()
    able.clear()
    able.update(neon=True, dot=True, i8mm=True)
    chosen = targets.choose()
    assert isinstance(chosen, targets.Target)
    assert chosen.name == "neon"
    assert chosen.extensions() == ("dot",)
    assert chosen.all_flags()[-1] == "-march=armv8.2-a+dotprod"
    able.clear()
    assert str(targets.choose()).startswith("the processor has no ")


@needs_kernel
def test_vectors_of_texts(tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", tokenizer, hidden_size=64)
    wanted = Embedder.load(folder, device="cpu", precision="plain")(TEXTS)
    embed = Embedder.load(folder, device="cpu", precision="bf16")
    assert all(layer.native for layer in embed.loaded.encoder.layers)  # type: ignore[union-attr]
    assert (embed(TEXTS) * wanted).sum(axis=1).min() > 0.9999
    alone = np.stack([embed(text) for text in TEXTS])
    assert abs(embed(TEXTS) - alone).max() < 2e-3


@needs_compiler
def test_built_once_kept_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.load_library(targets.SOURCES, FLAGS)
    (kept,) = (tmp_path / "mmbert").iterdir()
    with monkeypatch.context() as there_is_no:
        there_is_no.setenv("PATH", "")
        build.load_library(targets.SOURCES, FLAGS)  # the compiler is not needed again
        whole = kept.read_bytes()
        kept.unlink()  # the one in use stays as it is
        kept.write_bytes(whole[: len(whole) // 2])  # torn: to load it would kill the process
        with pytest.raises(build.NoLibrary, match="no C compiler"):
            build.load_library(targets.SOURCES, FLAGS)
    build.load_library(targets.SOURCES, FLAGS)
    assert build._is_whole(kept)
    assert list((tmp_path / "mmbert").iterdir()) == [kept]


@needs_compiler
@pytest.mark.parametrize("home", ["file", "missing"])
def test_where_nothing_can_be_kept(home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if home == "file":  # also root cannot write into it
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    else:
        monkeypatch.setattr(build, "cache_folder", missing_home)
    assert build.load_library(targets.SOURCES, FLAGS).attend


def missing_home() -> Path:
    raise FileNotFoundError("no home folder")


@needs_compiler
def test_compilers_that_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "bin" / "gcc"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", str(broken.parent))
    with pytest.raises(build.NoLibrary, match="gcc cannot compile"):
        build.load_library(targets.SOURCES, FLAGS)
    monkeypatch.setenv("PATH", f"{broken.parent}:{path}")  # cc is asked next
    assert build.load_library(targets.SOURCES, FLAGS).attend


def test_without_a_compiler_torch_computes(tmp_path: Path) -> None:
    code = (
        "import torch; from mmbert.inference.onednn_layers import OneDnnLayer; from mmbert.model.layers import Layer\n"
        "from mmbert.inference.native import kernel; from mmbert.model.config import ModelConfig\n"
        "shape = dict(vocab_size=300, hidden_size=64, intermediate_size=96, num_layers=1, num_heads=2)\n"
        "print(OneDnnLayer(Layer(ModelConfig(**shape), 0), torch.float32).native, kernel.describe())\n"
    )
    given = {"XDG_CACHE_HOME": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=given, check=True)
    assert result.stdout.startswith("None torch: ")
    assert result.stderr == ""


@needs_kernel
def test_wrong_numbers_are_noticed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The same file, told to use less of the window than asked."""
    true_call = Kernels._attend
    monkeypatch.setattr(Kernels, "_attend", lambda *args, half: true_call(*args, half=half // 2))
    kernel._kernels.cache_clear()
    try:
        with caplog.at_level("WARNING"):
            assert kernel.describe() == "torch: the native kernel gives wrong numbers here"
        assert "please report" in caplog.text
    finally:
        monkeypatch.undo()
        kernel._kernels.cache_clear()
    assert kernel.ready(64)
