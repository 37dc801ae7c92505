"""Checkpoints: folders that are complete or absent, with checksums that tell when one is damaged.

    runs/<name>/<phase>/step-000123/
      model.safetensors                   the weights; for ``fsdp`` in parts, see ``storage.py``
      optimizer.safetensors               both moments of every weight
      state.json                          where the run stands: cursor, step, tokens, recipe, precision
      config.json tokenizer.json ...      what a model folder has beside its weights
      SHA256SUMS                          of all of them; `sha256sum -c` reads it too

A run resumes from it bit-exactly, on any number of processes: data, masks and dropout are functions of the position.
Checkpoints are written asynchronously, by ``saver.py``.
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

VERSION = 3
READABLE = (1, 2, 3)
"""1 and 2 had fewer fields, which then take their defaults."""
STATE = "state.json"


@dataclass(frozen=True)
class State:
    """Where a phase stands."""

    phase: str
    cursor: Cursor = field(default_factory=Cursor)
    """Where the next step begins, with the phase's steps and tokens so far."""
    optimizer_step: int = 0
    """Steps of the optimiser over all phases, which its bias correction needs."""
    finished: bool = False
    """Whether this is the end of the phase."""
    due: bool = True
    """Whether it was saved on schedule, not because the run was stopped there."""
    recipe: str = ""
    """Hash of the options that must not change during a run."""
    precision: str = "fp32"
    meters: dict[str, float] = field(default_factory=dict)
    """Sums for the next line of metrics."""
    norms: tuple[float, ...] = ()
    """Norms of the last gradients, which a spike is compared with."""
    rollbacks: int = 0
    """How often the phase went back to a checkpoint after a spike."""
    skipped_steps: int = 0
    """Steps whose data those rollbacks skipped."""
    scaler: dict[str, float] = field(default_factory=dict)
    """State of torch's GradScaler in fp16: the scale of the loss, and the steps since it last changed."""
    overflows: int = 0
    """Steps of the phase whose scaled gradients overflowed in fp16, which moved no weight."""
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, values: dict[str, Any], where: Path) -> State:
        """Return the state of :meth:`to_json`. Raises TrainingError for another version."""
        if values.get("version") not in READABLE:
            raise TrainingError(
                f"{where} has version {values.get('version')}, and only {READABLE[0]} to {READABLE[-1]} can be read: "
                "continue with the version of mmbert that wrote it, or start in another --out"
            )
        kept = {key: value for key, value in values.items() if key != "version"}
        return cls(**{**kept, "cursor": Cursor(**values["cursor"]), "norms": tuple(values.get("norms", ()))})


def tensors_of(model: MaskedLM, optimizer: StableAdamW) -> dict[str, Tensor]:
    """Return what a checkpoint holds: every weight once, and both of its moments."""
    # Detached views of the live tensors, not copies: loading fills them in place, and saving copies them itself.
    weights = {name: parameter.detach() for name, parameter in model.named_parameters() if name != TIED}
    return {**weights, **optimizer.state_tensors()}


def load(path: Path, model: MaskedLM, optimizer: StableAdamW, mesh: Mesh | None = None) -> State:
    """Load a checkpoint's weights and moments into ``model`` and ``optimizer``, in place; all ranks together.

    Raises TrainingError if it belongs to another model, is of another version or cannot be read.
    """
    state = read_state(path)
    # Asking for the moments creates them as zeros, so the optimiser has tensors to be filled.
    read_into(path, tensors_of(model, optimizer), mesh.host_group if mesh is not None else None)
    optimizer.set_step(state.optimizer_step)
    return state


def read_state(path: Path) -> State:
    """Return the ``state.json`` of a checkpoint."""
    return State.from_json(read_json(path / STATE), path / STATE)


def path_of(folder: Path, state: State) -> Path:
    """Return where a phase's folder has, or will have, the checkpoint of a state."""
    return folder / f"step-{state.cursor.step:06d}"


def checkpoints(folder: Path) -> list[Path]:
    """Return all checkpoints of a phase, oldest first, unchecked."""
    folders = [path for path in folder.glob("step-*") if path.is_dir() and path.name.removeprefix("step-").isdigit()]
    return sorted(folders, key=lambda path: int(path.name.removeprefix("step-")))


def latest(folder: Path) -> Path | None:
    """Return the newest checkpoint whose checksums hold; damaged newer ones are skipped with a warning."""
    # All bytes are read before any is loaded: damage costs one checkpoint, not the run.
    for path in reversed(checkpoints(folder)):
        fault = damage(path)
        if fault is None:
            return path
        log.warning("%s is damaged (%s): going back to the checkpoint before it", path, fault)
    return None


def damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, None if nothing is."""

    def complete(names: set[str]) -> bool:
        # model-00001-of-00002.safetensors -> model: a checkpoint of several ranks has several files of each kind
        kinds = {name.split(".")[0].split("-")[0] for name in names if name.endswith(".safetensors")}
        return STATE in names and {MODEL, OPTIMIZER} <= kinds

    return files.damage(path, complete)


def prune(folder: Path, keep: int) -> None:
    """Delete all but the ``keep`` newest checkpoints, and what killed processes left unfinished.

    A checkpoint that was not due is deleted as soon as there is a newer one: what remains does not depend on when a run
    was stopped, and neither does an average over checkpoints.
    """
    folders = checkpoints(folder)
    due = [path for path in folders if _is_due(path)]
    # The newest always stays, also one that was not due: it is what the run resumes from.
    kept = {*due[-keep:], *folders[-1:]}
    for path in folder.glob(f"step-*{PARTIAL}"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folders:
        if path not in kept:
            going = path.with_name(path.name + PARTIAL)
            path.rename(going)  # so that an interrupted deletion leaves no incomplete checkpoint
            shutil.rmtree(going, ignore_errors=True)


def _is_due(path: Path) -> bool:
    try:
        return read_state(path).due
    except (MMBertError, KeyError, TypeError):
        return True  # damaged: deleting it is not decided here
