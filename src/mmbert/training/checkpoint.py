"""Checkpoints: a folder that is whole or absent, and knows when it is damaged.

    runs/<name>/<phase>/step-000123/
      config.json model.safetensors tokenizer.json ...   a model folder like any other
      optimizer.safetensors                              both averages of every weight
      state.json                                         where the run stands: cursor, step, tokens, recipe, precision
      SHA256SUMS                                         of all of them; `sha256sum -c` reads it too

Nothing else is needed to go on as if nothing had happened: data, masks and dropout are functions of the position.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from mmbert.data.pack import Cursor
from mmbert.errors import TrainingError
from mmbert.files import PARTIAL, atomic_folder, read_json, sha256, write_json, write_text
from mmbert.model.heads import MaskedLM
from mmbert.model.weights import TIED, load_state, save_state
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.training.optim import StableAdamW

log = logging.getLogger(__name__)

VERSION = 1
SUMS = "SHA256SUMS"
STATE = "state.json"
OPTIMIZER = "optimizer.safetensors"


@dataclass(frozen=True)
class State:
    """Where a phase stands."""

    phase: str
    cursor: Cursor = field(default_factory=Cursor)
    """Where the next step begins, with the phase's steps and tokens so far."""
    optimizer_step: int = 0
    """Steps of the optimiser, over all phases: its averages are debiased with it."""
    finished: bool = False
    """Whether this is the end of the phase."""
    recipe: str = ""
    """Hash of what the run may not change."""
    precision: str = "fp32"
    meters: dict[str, float] = field(default_factory=dict)
    """Sums of the line of metrics that is being filled."""
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, values: dict[str, Any], where: Path) -> State:
        """Back from :meth:`to_json`. Raises TrainingError for another version."""
        if values.get("version") != VERSION:
            raise TrainingError(
                f"{where} has version {values.get('version')}, and only {VERSION} can be read: "
                "go on with the version of mmbert that wrote it, or start in another --out"
            )
        kept = {key: value for key, value in values.items() if key != "version"}
        return cls(**{**kept, "cursor": Cursor(**values["cursor"])})


def save(folder: Path, state: State, model: MaskedLM, optimizer: StableAdamW, tokenizer: Tokenizer) -> Path:
    """Write ``folder/step-<number>``, complete or not at all, and return it."""
    path = folder / f"step-{state.cursor.step:06d}"
    with atomic_folder(path) as partial:
        model.save(partial)
        tokenizer.save(partial, max_tokens=model.config.max_context)
        save_state(optimizer.state_tensors(), partial / OPTIMIZER)
        write_json(partial / STATE, state.to_json())
        files = sorted(file.name for file in partial.iterdir())
        write_text(partial / SUMS, "".join(f"{sha256(partial / name)}  {name}\n" for name in files))
    return path


def load(path: Path, model: MaskedLM, optimizer: StableAdamW) -> State:
    """Put a checkpoint's weights and averages into ``model`` and ``optimizer``, in place.

    Raises TrainingError if it belongs to another model or is of another version, WeightsError if it cannot be read.
    """
    state = read_state(path)
    tensors = load_state(path)
    parameters = {name: parameter for name, parameter in model.named_parameters() if name != TIED}
    if {n: p.shape for n, p in parameters.items()} != {n: t.shape for n, t in tensors.items()}:
        raise TrainingError(f"{path} holds another model than the recipe's: start in another --out")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
    try:
        moments = load_file(path / OPTIMIZER)
    except (SafetensorError, OSError) as error:
        raise TrainingError(f"{path / OPTIMIZER} cannot be read ({error}): delete {path}") from error
    optimizer.load_state_tensors(moments, state.optimizer_step)
    return state


def read_state(path: Path) -> State:
    """The ``state.json`` of a checkpoint."""
    return State.from_json(read_json(path / STATE), path / STATE)


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a phase, oldest first, unchecked."""
    found = [path for path in folder.glob("step-*") if path.is_dir() and path.name.removeprefix("step-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def latest(folder: Path) -> Path | None:
    """The newest checkpoint whose checksums hold; damaged newer ones are passed over with a warning."""
    for path in reversed(checkpoints(folder)):
        fault = damage(path)
        if fault is None:
            return path
        log.warning("%s is damaged (%s): going back to the checkpoint before it", path, fault)
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, None if nothing is."""
    try:
        lines = [line.split("  ", 1) for line in (path / SUMS).read_text(encoding="utf-8").splitlines()]
        expected = {name: digest for digest, name in lines}
    except (OSError, ValueError) as error:
        return f"{SUMS}: {error}"
    if not {STATE, OPTIMIZER}.issubset(expected):
        return f"{SUMS} is incomplete"
    for name, digest in expected.items():
        try:
            if sha256(path / name) != digest:
                return f"the checksum of {name} does not match"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return None


def prune(folder: Path, keep: int) -> None:
    """Delete all but the ``keep`` newest checkpoints, and what killed processes left unfinished."""
    for path in [*checkpoints(folder)[: -keep or None], *folder.glob(f"step-*{PARTIAL}")]:
        shutil.rmtree(path, ignore_errors=True)
