"""Tensors mapped from safetensors files: the same values, private to the process, and gone when they are not used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmbert.errors import WeightsError
from mmbert.model import mapped
from mmbert.model.mapped import finite, map_tensor, read_header
from mmbert.model.weights import save_state

LARGE = 200_000  # numbers: more than are copied instead of mapped


def maps(path: Path) -> int:
    """Return how many maps of the file this process has."""
    return sum(str(path) in line for line in Path("/proc/self/maps").read_text().splitlines())


def write(path: Path) -> dict[str, torch.Tensor]:
    """A file in which large tensors begin anywhere: behind three bytes, and in the middle of a page."""
    generator = torch.Generator().manual_seed(0)
    state = {
        "a": torch.tensor([1, 2, 3], dtype=torch.uint8),
        "b": torch.randn(LARGE, generator=generator),
        "c": torch.randn(LARGE // 4, 4, generator=generator).bfloat16(),
        "d": torch.zeros(0, 3),
        "e": torch.tensor(2.5, dtype=torch.float64),
    }
    save_state(state, path)
    return state


def test_values_are_those_of_the_library(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    state = write(path)
    read = {name: map_tensor(info) for name, info in read_header(path).items()}
    assert maps(path) == 2
    for found in (state, load_file(path)):
        assert {name: value.shape for name, value in read.items()} == {
            name: value.shape for name, value in found.items()
        }
        assert all(torch.equal(read[name], value) for name, value in found.items())


def test_a_map_is_private_and_ends_with_its_tensor(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    state, before = write(path), path.read_bytes()
    tensor = map_tensor(read_header(path)["b"])
    tensor.add_(1)
    assert path.read_bytes() == before
    assert torch.equal(tensor, state["b"] + 1)
    part = tensor[3:5]
    del tensor
    assert maps(path) == 1
    del part
    assert maps(path) == 0


def test_a_file_that_is_replaced_stays_as_it_was_for_who_mapped_it(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    state = write(path)
    tensor = map_tensor(read_header(path)["b"])
    save_state({"b": torch.zeros(LARGE)}, path)  # a new file, renamed
    assert torch.equal(tensor, state["b"])
    assert not map_tensor(read_header(path)["b"]).any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 63, 64, 999, LARGE - 1])
def test_what_is_not_finite_is_found_in_every_chunk(
    value: float, place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "_CHUNK", 64 if place < 1000 else 2**16)
    weights = torch.ones(LARGE, dtype=torch.bfloat16)
    path = tmp_path / "x.safetensors"
    save_file({"x": weights[:1000] if place < 1000 else weights}, path)
    assert finite(read_header(path)["x"])
    weights[place] = value
    save_file({"x": weights[:1000] if place < 1000 else weights}, path)
    assert not finite(read_header(path)["x"])
    assert maps(path) == 0


def test_files_that_are_not_whole_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(WeightsError, match=r"x\.safetensors cannot be read .*: copy or download it again"):
        read_header(path)
    write(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"x\.safetensors cannot be read"):
        read_header(path)
    save_file({"x": torch.zeros(4, dtype=torch.complex64)}, path)
    with pytest.raises(WeightsError, match=r"tensors of this type are not supported: x \(C64\)"):
        read_header(path)
