"""A model folder in Hugging Face form out of any checkpoint, whatever number of processes wrote it."""

from __future__ import annotations

import shutil
from pathlib import Path

from mmbert.errors import TrainingError
from mmbert.files import SUMS, atomic_folder, write_sums
from mmbert.model.weights import WEIGHTS, save_state
from mmbert.training import checkpoint
from mmbert.training.storage import read_model


def export(path: Path, out: Path) -> Path:
    """Write the model of a checkpoint to the folder ``out``, with its tokenizer; atomic; returns ``out``.

    One process does it, in the memory of one model.

    Raises TrainingError if ``path`` is no checkpoint or is damaged.
    """
    if not path.is_dir():
        raise TrainingError(f"no such checkpoint: {path} (a folder like RUN/PHASE/step-000123)")
    # Checked first: weights that were damaged on disk would be copied under new, valid checksums.
    fault = checkpoint.damage(path)
    if fault is not None:
        raise TrainingError(f"{path} is no whole checkpoint ({fault}): take another")
    with atomic_folder(out) as partial:
        save_state(read_model(path), partial / WEIGHTS)
        for file in path.iterdir():
            # The optimiser's moments and the state of the run are no part of a model; the checksums are taken anew.
            if file.suffix != ".safetensors" and file.name not in (SUMS, checkpoint.STATE):
                shutil.copyfile(file, partial / file.name)
        write_sums(partial)
    return out


def as_model(path: Path) -> Path:
    """Return a checkpoint as a model folder: itself if its tensors are whole, else exported to ``<phase>/models``."""
    if (path / WEIGHTS).is_file():
        return path
    out = path.parent / "models" / path.name
    return out if out.is_dir() else export(path, out)
