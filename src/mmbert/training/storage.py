"""Tensors of a checkpoint on disk: safetensors files behind torch.distributed.checkpoint, which plans who writes what.

    model.safetensors  optimizer.safetensors                       one rank writes: the tensors are whole
    model-00001-of-00002.safetensors  optimizer-00001-of-...       each rank writes its parts (FSDP)

The offset of a shard in its tensor is in the file's metadata, in the form of torch's own ``HuggingFaceStorageWriter``,
so torch's ``HuggingFaceStorageReader`` reads both forms, for any number of ranks. Torch's writer is not used: it builds
each file in memory twice, and nothing tells whether its folder is complete. Nothing is pickled, unlike the table of
contents of the default ``FileSystemWriter``: the headers of the files serve as one.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from mmbert.errors import MMBertError, TrainingError
from mmbert.files import PARTIAL, publish_folder, sha256, write_sums
from mmbert.model.weights import save_state
from mmbert.training.optim import MOMENTS

MODEL, OPTIMIZER = "model", "optimizer"
"""Beginnings of the files' names."""
_PLACES = "DCP_SHARDING_INFO"
"""Key of torch's reader in a file's metadata: name of a tensor -> where its part begins."""


class Writer(StorageWriter):
    """Writes ``path``, whole or not at all: into a partial folder, which the first rank renames when all are done.

    extras  called with the partial folder before its checksums are taken, on the first rank
    """

    def __init__(self, path: Path, extras: Callable[[Path], None]) -> None:
        self._path = path
        self._partial = path.with_name(path.name + PARTIAL)
        self._extras = extras

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Do nothing: a writer writes one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Make an empty partial folder; the other ranks write only after it is there."""
        if is_coordinator:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir(parents=True)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Number the ranks that have tensors to write: file names state which of how many files each is."""
        writing = [number for number, plan in enumerate(plans) if plan.items]
        return [
            replace(plan, storage_data=(writing.index(number) + 1, len(writing)) if plan.items else None)
            for number, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's files, flushed to disk, and take their checksums."""
        written: list[WriteResult] = []
        for kind in (MODEL, OPTIMIZER):
            # Names of moments begin with exp_avg, those of weights with the names of modules.
            items = [item for item in plan.items if (item.index.fqn.startswith(MOMENTS)) == (kind == OPTIMIZER)]
            if items:
                number, of = plan.storage_data
                name = f"{kind}.safetensors" if of == 1 else f"{kind}-{number:05d}-of-{of:05d}.safetensors"
                tensors = {item.index.fqn: _resolve(planner, item) for item in items}
                with _plain_errors():
                    save_state(tensors, self._partial / name, {} if of == 1 else {_PLACES: json.dumps(_places(items))})
                size = (self._partial / name).stat().st_size
                # One result for each file, whose storage_data carries name and checksum to the first rank.
                written.append(WriteResult(items[0].index, size, (name, sha256(self._partial / name))))
        done: Future[list[WriteResult]] = Future()
        done.set_result(written)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """On the first rank, after all have written: write the other files and all checksums, and rename the folder."""
        # Only the folder's rename makes the checkpoint visible, so it comes after every file and its checksum.
        sums = dict(written.storage_data for rank in results for written in rank)
        with _plain_errors():
            self._extras(self._partial)
        # Other ranks' files have their checksums already: the first rank reads only its extras again.
        write_sums(self._partial, sums)
        publish_folder(self._partial, self._path)

    def discard(self) -> None:
        """Delete what a failed attempt left."""
        shutil.rmtree(self._partial, ignore_errors=True)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True


def read_into(path: Path, tensors: dict[str, Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Fill tensors, whole or sharded, in place from a checkpoint; all ranks of ``group`` together.

    Raises TrainingError if the checkpoint holds other tensors or cannot be read.
    """
    # compared here because torch's own error names neither the recipe nor what to do
    theirs = tensor_shapes(path)
    ours = {name: tensor.shape for name, tensor in tensors.items()}
    if theirs != ours:
        odd = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
        raise TrainingError(
            f"{path} holds another model than the recipe's ({odd[0]} and {len(odd) - 1} more tensors differ): "
            "start in another --out"
        )
    with _readable(path), quiet():
        load(tensors, storage_reader=_reader(path), process_group=group, no_dist=group is None)


def read_model(path: Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint, put together, on the CPU."""
    shapes = {name: shape for name, shape in tensor_shapes(path).items() if not name.startswith(MOMENTS)}
    # torch's loader fills tensors that exist; without ranks each is put together from all of its parts.
    tensors = {name: torch.empty(shape) for name, shape in shapes.items()}
    with _readable(path), quiet():
        load(tensors, storage_reader=_reader(path), no_dist=True)
    return tensors


def tensor_shapes(path: Path) -> dict[str, torch.Size]:
    """Return names and whole shapes of a checkpoint's tensors."""
    with _readable(path):
        entries = _reader(path).read_metadata().state_dict_metadata
    return {name: entry.size for name, entry in entries.items()}  # type: ignore[union-attr]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence torch's warning that one process saves alone. For the main thread: filters belong to the process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _reader(path: Path) -> HuggingFaceStorageReader:
    return HuggingFaceStorageReader(str(path))


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise the system's own error instead of ours: on its way between ranks an error loses its cause."""
    try:
        yield
    except MMBertError as error:
        raise error.__cause__ if isinstance(error.__cause__, OSError) else error from None


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (CheckpointException, SafetensorError, OSError) as error:
        reason = failure(error)
        raise TrainingError(f"{path} cannot be read ({reason}): delete it to resume from the one before") from error


def failure(error: BaseException) -> BaseException:
    """Return the first rank's own error inside one that torch collected from all ranks."""
    if isinstance(error, CheckpointException):
        # Failures by rank: the lowest is deterministic, and usually the cause of the others.
        return min(error.failures.items())[1][0]
    return error


def _resolve(planner: SavePlanner, item: WriteItem) -> Tensor:
    tensor = planner.resolve_data(item)
    assert isinstance(tensor, Tensor), "a checkpoint holds tensors only"
    return tensor.detach()


def _places(items: list[WriteItem]) -> dict[str, dict[str, list[int]]]:
    places = {}
    for item in items:
        assert item.tensor_data is not None, "a checkpoint holds tensors only"
        places[item.index.fqn] = {"saved_offsets": list(item.tensor_data.chunk.offsets)}
    return places
