"""Read safetensors files in chunks, so that memory does not grow with the model (``tensor_writer`` writes them so).

The library maps a whole file into memory. Here it checks the file (header, offsets, length); the bytes are then read
chunk by chunk with plain file calls. A model in several files (``model.safetensors.index.json``) reads as one.
Layout: 8 bytes little-endian length of the header, the header (JSON), then the tensors without gaps.
"""

from __future__ import annotations

from dataclasses import replace
from io import BufferedReader
from pathlib import Path

import torch
from torch import Tensor

from mmbert.errors import WeightsError
from mmbert.model.mapped import TensorInfo, read_header
from mmbert.model.weights import WEIGHTS, bare_name, read_index

INDEX = f"{WEIGHTS}.index.json"
"""Names the file of each tensor, for models in several files."""


class TensorFile:
    """The weights of a folder, in one safetensors file or several, open for reading in chunks.

    Raises WeightsError if a file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors: dict[str, TensorInfo] = {}
        self._files: dict[str, BufferedReader] = {}
        try:
            for name, expected in _weight_files(folder).items():
                tensors = self._open(name)
                missing = expected - tensors.keys()
                if missing:
                    raise WeightsError(f"{folder / name} has no {min(missing)}, which {INDEX} says: download it again")
                self.tensors.update(tensors)
        except BaseException:
            self.close()
            raise

    def _open(self, name: str) -> dict[str, TensorInfo]:
        entries = read_header(self.folder / name)
        self._files[name] = (self.folder / name).open("rb")
        return {bare_name(tensor): replace(info, name=bare_name(tensor)) for tensor, info in entries.items()}

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Return entries ``start`` to ``stop`` of the flattened tensor, a copy in the file's type."""
        info = self.tensors[name]
        size = info.dtype.itemsize
        if stop <= start:
            return torch.empty(0, dtype=info.dtype)
        file = self._files[info.path.name]
        file.seek(info.offset + start * size)
        # torch.frombuffer wants memory that may be written, so no bytes object.
        chunk = bytearray((stop - start) * size)
        if file.readinto(chunk) != len(chunk):
            raise WeightsError(f"{info.path} ends inside {name}: it was changed while being read")
        return torch.frombuffer(chunk, dtype=info.dtype)

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _weight_files(folder: Path) -> dict[str, set[str]]:
    """Return the weight files of a folder, with the tensors that each must hold."""
    if (folder / WEIGHTS).is_file():
        return {WEIGHTS: set()}
    if not (folder / INDEX).is_file():
        raise WeightsError(f"no {WEIGHTS} in {folder}: give the folder of a saved model")
    files: dict[str, set[str]] = {}
    for tensor, file in read_index(folder / INDEX).items():
        files.setdefault(file, set()).add(bare_name(tensor))
    return files
