"""What stays in the map of a model's file, what is given back, and that results do not depend on it."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mmbert import cpu
from mmbert.inference import precision as precisions
from mmbert.inference.embedder import Embedder
from mmbert.inference.fill_mask import FillMask
from mmbert.inference.load import load
from mmbert.model import mapped
from mmbert.model.heads import MaskedLM

TEXTS = ["a text", "another, which is somewhat longer", ""]


@pytest.fixture
def folder(heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy whose tensors are all large enough for a map."""
    monkeypatch.setattr(mapped, "_SMALL", 1)
    return Path(shutil.copytree(heads / "masks", tmp_path / "model"))


def maps(folder: Path) -> int:
    """Return how many maps of its weights this process has."""
    return sum(f"{folder}/" in line for line in Path("/proc/self/maps").read_text().splitlines())


INT8 = pytest.param(
    "int8", marks=pytest.mark.skipif(cpu.int8_instructions() is None, reason="so narrow a model has no fast int8 here")
)


@pytest.mark.parametrize("precision", ["fp32", "bf16", INT8])
def test_matrices_leave_the_map_when_they_are_packed_and_the_embedding_stays(folder: Path, precision: str) -> None:
    tensors = len(load_file(folder / "model.safetensors"))
    loaded = load(folder, device="cpu", precision=precision)
    layers = loaded.config.num_layers
    packed = 4 * layers  # Wqkv, Wo, Wi, Wo of the MLP
    assert maps(folder) == tensors - packed
    table = loaded.encoder.embeddings.tok_embeddings.weight
    assert table.dtype == torch.float32
    assert torch.equal(table, load_file(folder / "model.safetensors")["model.embeddings.tok_embeddings.weight"])


def test_weights_that_may_be_written_to_are_copies(folder: Path) -> None:
    plain, trained = load(folder, device="cpu", precision="plain"), MaskedLM.load(folder)
    assert maps(folder) == 0
    for model in (plain.encoder, trained):
        assert all(weight.dtype == torch.float32 for weight in model.parameters())


def test_layers_are_released_one_after_the_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than one layer is there twice."""
    seen: list[int] = []

    class Watched(precisions.OneDnnLayer):
        def __init__(self, *args: object, **options: object) -> None:
            seen.append(maps(folder))
            super().__init__(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(precisions, "OneDnnLayer", Watched)
    load(folder, device="cpu", precision="fp32")
    assert len(seen) > 1
    assert [one - other for one, other in pairwise(seen)] == [4] * (len(seen) - 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("precision", ["fp32", "auto", INT8])
def test_16_bits_on_disk_give_the_results_of_the_same_numbers_in_fp32(
    folder: Path, tmp_path: Path, precision: str, dtype: torch.dtype
) -> None:
    halves = {name: value.to(dtype) for name, value in load_file(folder / "model.safetensors").items()}
    wide = Path(shutil.copytree(folder, tmp_path / "wide"))
    save_file({name: value.float() for name, value in halves.items()}, wide / "model.safetensors")
    save_file(halves, folder / "model.safetensors")
    found, wanted = (Embedder.load(place, precision=precision)(TEXTS) for place in (folder, wide))
    assert np.array_equal(found, wanted)
    fills = [FillMask.load(place, precision=precision)("a <mask>") for place in (folder, wide)]
    assert fills[0] == fills[1]


def test_an_encoder_with_16_bits_on_disk_keeps_its_table_so(folder: Path) -> None:
    state = {name: value.bfloat16() for name, value in load_file(folder / "model.safetensors").items()}
    save_file({name: value for name, value in state.items() if name.startswith("model.")}, folder / "model.safetensors")
    config = (folder / "config.json").read_text().replace("ModernBertForMaskedLM", "ModernBertModel")
    (folder / "config.json").write_text(config)
    loaded = load(folder, device="cpu", precision="fp32")
    assert loaded.encoder.embeddings.tok_embeddings.weight.dtype == torch.bfloat16
    vectors = Embedder(loaded)(TEXTS)
    (folder / "model.safetensors").unlink()
    save_file(
        {name: value.float() for name, value in state.items() if name.startswith("model.")},
        folder / "model.safetensors",
    )
    assert np.array_equal(vectors, Embedder.load(folder, device="cpu", precision="fp32")(TEXTS))
