"""Checkpoints: a folder that is whole or absent, and knows when it is damaged.

    runs/<name>/<phase>/step-000123/
      model.safetensors                   the weights; for ``fsdp`` in parts, see ``storage.py``
      optimizer.safetensors               both averages of every weight
      state.json                          where the run stands: cursor, step, tokens, recipe, precision
      config.json tokenizer.json ...      what a model folder has beside its weights
      SHA256SUMS                          of all of them; `sha256sum -c` reads it too

Nothing else is needed to go on as if nothing had happened, on any number of processes: data, masks and dropout are
functions of the position. Written by ``saver.py``, behind the back of the loop.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from mmbert import files
from mmbert.data.pack import Cursor
from mmbert.errors import MMBertError, TrainingError
from mmbert.files import PARTIAL, read_json
from mmbert.model.heads import MaskedLM
from mmbert.model.weights import TIED
from mmbert.training.distributed import Mesh
from mmbert.training.optim import StableAdamW
from mmbert.training.storage import MODEL, OPTIMIZER, read_into

log = logging.getLogger(__name__)

VERSION = 2
READABLE = (1, 2)
"""1 had fewer fields, which then take their defaults."""
STATE = "state.json"


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
    due: bool = True
    """Whether it was saved because its turn had come, not because the run was stopped there."""
    recipe: str = ""
    """Hash of what the run may not change."""
    precision: str = "fp32"
    meters: dict[str, float] = field(default_factory=dict)
    """Sums of the line of metrics that is being filled."""
    norms: tuple[float, ...] = ()
    """Of the last gradients: what a spike is measured by."""
    rollbacks: int = 0
    """How often the phase went back to a checkpoint after a spike."""
    skipped_steps: int = 0
    """Steps whose data were passed over in doing so."""
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, values: dict[str, Any], where: Path) -> State:
        """Back from :meth:`to_json`. Raises TrainingError for another version."""
        if values.get("version") not in READABLE:
            raise TrainingError(
                f"{where} has version {values.get('version')}, and only {READABLE[0]} to {READABLE[-1]} can be read: "
                "go on with the version of mmbert that wrote it, or start in another --out"
            )
        kept = {key: value for key, value in values.items() if key != "version"}
        return cls(**{**kept, "cursor": Cursor(**values["cursor"]), "norms": tuple(values.get("norms", ()))})


def tensors_of(model: MaskedLM, optimizer: StableAdamW) -> dict[str, Tensor]:
    """What a checkpoint holds: every weight once, and both of its averages."""
    weights = {name: parameter.detach() for name, parameter in model.named_parameters() if name != TIED}
    return {**weights, **optimizer.state_tensors()}


def load(path: Path, model: MaskedLM, optimizer: StableAdamW, mesh: Mesh | None = None) -> State:
    """Put a checkpoint's weights and averages into ``model`` and ``optimizer``, in place; all ranks together.

    Raises TrainingError if it belongs to another model, is of another version or cannot be read.
    """
    state = read_state(path)
    read_into(path, tensors_of(model, optimizer), mesh.host_group if mesh is not None else None)
    optimizer.set_step(state.optimizer_step)
    return state


def read_state(path: Path) -> State:
    """The ``state.json`` of a checkpoint."""
    return State.from_json(read_json(path / STATE), path / STATE)


def path_of(folder: Path, state: State) -> Path:
    """Where a phase's folder has, or will have, the checkpoint of a state."""
    return folder / f"step-{state.cursor.step:06d}"


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

    def complete(names: set[str]) -> bool:
        kinds = {name.split(".")[0].split("-")[0] for name in names if name.endswith(".safetensors")}
        return STATE in names and {MODEL, OPTIMIZER} <= kinds

    return files.damage(path, complete)


def prune(folder: Path, keep: int) -> None:
    """Delete all but the ``keep`` newest checkpoints, and what killed processes left unfinished.

    One that was not due, saved because the run was stopped, goes as soon as there is a newer one: what stays does not
    depend on when a run was stopped.
    """
    found = checkpoints(folder)
    due = [path for path in found if _is_due(path)]
    kept = {*due[-keep:], *found[-1:]}
    for path in folder.glob(f"step-*{PARTIAL}"):
        shutil.rmtree(path, ignore_errors=True)
    for path in found:
        if path not in kept:
            going = path.with_name(path.name + PARTIAL)
            path.rename(going)  # a checkpoint is whole or absent also where deleting it is cut short
            shutil.rmtree(going, ignore_errors=True)


def _is_due(path: Path) -> bool:
    try:
        return read_state(path).due
    except (MMBertError, KeyError, TypeError):
        return True  # damaged: not ours to judge
