"""Repeat the step of a spike and report where it comes from: ``mmbert pretrain RECIPE --replay``. Changes nothing.

The step is that of ``<phase>/spike.json``, with its batch, masks, dropout and precision. The weights are those in
``<phase>/spike``, with which loss and norm are reproduced (to the last bit if one process trained); if they were not
saved, or the run rolled back instead of stopping, those of the newest checkpoint before it.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbert.data.steps import Step
from mmbert.device import autocast
from mmbert.errors import ConfigError, TrainingError
from mmbert.model.heads import MaskedLM
from mmbert.packed import Packed
from mmbert.recipe import Recipe
from mmbert.start_model import resolve
from mmbert.tokenizer.tokenizer import Tokenizer
from mmbert.training import build, checkpoint
from mmbert.training.distributed import connect
from mmbert.training.loop import backward, seed_dropout
from mmbert.training.optim import gradient_norm
from mmbert.training.phase_context import PhaseContext
from mmbert.training.pretrain import run_tokenizer
from mmbert.training.process_state import own_random_numbers
from mmbert.training.spike import RECORD, WEIGHTS, SpikeRecord

log = logging.getLogger(__name__)

_ROWS = 256
"""Rows of logits at a time."""
_CHARACTERS = 160
"""Length of a document's beginning in the report."""


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass."""

    loss: float
    """Mean over its labels."""
    norm: float
    """Norm of its own part of the gradient."""
    labels: int


@dataclass(frozen=True)
class Document:
    """One sequence of the step."""

    excess: float
    """Nats of its labels above the step's mean: what it adds to the loss."""
    loss: float
    """Mean over its labels."""
    labels: int
    micro_batch: int
    text: str
    """Its beginning, nothing hidden."""


@dataclass(frozen=True)
class Replay:
    """A step taken apart."""

    record: SpikeRecord
    behind: int
    """Steps between the weights and the spike; 0: it is that very step."""
    loss: float
    norm: float
    micro_batches: list[MicroBatch]
    groups: dict[str, float]
    """Norm of the gradient of each part of the model."""
    documents: list[Document]
    """The worst first."""

    def to_text(self) -> str:
        """Return a report to print."""
        record, cursor = self.record, self.record.cursor
        weights = "of this step" if self.behind == 0 else f"of {self.behind} steps before"
        usual = "" if record.usual is None else f", usually {record.usual:.4g}"
        lines = [
            f"phase {record.phase}, step {cursor.step} (draw {cursor.draw}, offset {cursor.offset})",
            f"then: loss {record.loss:.4f}, gradient norm {record.norm:.4g}{usual}",
            f"now:  loss {self.loss:.4f}, gradient norm {self.norm:.4g}, with the weights {weights}",
            "\nmicro-batch      loss      norm   labels",
            *(f"{n:11d}{m.loss:10.4f}{m.norm:10.4g}{m.labels:9d}" for n, m in enumerate(self.micro_batches)),
            "\npart             norm",
            *(f"{name:11s}{norm:10.4g}" for name, norm in self.groups.items()),
            "\ndocuments, by what they add to the loss",
            *(
                f"{d.excess:+9.1f} nats, mean {d.loss:.2f} of {d.labels} labels, micro-batch {d.micro_batch}: {d.text}"
                for d in self.documents
            ),
        ]
        return "\n".join(lines)


def replay(recipe: Recipe, folder: Path, data: Path, *, phases: list[str] | None = None, worst: int = 8) -> Replay:
    """Repeat the step that ``folder/<phase>/spike.json`` names; the newest of them, of ``phases`` or of all.

    folder, data  as for ``pretrain``
    worst         how many documents to tell of
    Raises TrainingError if there is no such file, ConfigError for several processes.
    """
    home = _newest(folder, phases or recipe.order())
    record = SpikeRecord.load(home)
    recipe = resolve(recipe)
    if recipe.runtime.threads:
        torch.set_num_threads(recipe.runtime.threads)
    with connect(recipe.runtime.device) as mesh:
        # The step has the micro-batches of all ranks, which one process computes one after another.
        if mesh.world > 1:
            raise ConfigError("a replay runs in one process: start it without torchrun")
        tokenizer = run_tokenizer(recipe, data)
        ctx = PhaseContext(recipe, record.phase, home, data / "shards", tokenizer, mesh, record.precision)
        config = build.phase_config(recipe, record.phase, tokenizer)
        path = _weights(home, record)
        model, _, state = build.begin(ctx, config) if path is None else build.resume(ctx, config, path)
        step = next(ctx.steps().after(record.cursor))
        with own_random_numbers(mesh.device):
            scale = state.scaler.get("scale", 1.0)
            return _take_apart(ctx, model.train(), step, record, record.cursor.step - state.cursor.step, worst, scale)


def _newest(folder: Path, phases: list[str]) -> Path:
    """Return the folder of the phase with the latest spike."""
    homes = [folder / name for name in phases if (folder / name / RECORD).is_file()]
    if not homes:
        raise TrainingError(f"nothing to replay: no {RECORD} in a phase of {folder}")
    # By time of writing: phases have no common count of steps.
    return max(homes, key=lambda home: (home / RECORD).stat().st_mtime)


def _weights(home: Path, record: SpikeRecord) -> Path | None:
    """Return the spike's own weights, else the newest before it; None: those that the phase began with."""
    own = home / WEIGHTS
    # The cursor tells whether these weights are of this spike: an older one may have left the folder.
    if own.is_dir() and checkpoint.damage(own) is None and checkpoint.read_state(own).cursor == record.cursor:
        return own
    for path in reversed(checkpoint.checkpoints(home)):
        if checkpoint.damage(path) is None and checkpoint.read_state(path).cursor.step <= record.cursor.step:
            return path
    return None


def _take_apart(
    ctx: PhaseContext, model: MaskedLM, step: Step, record: SpikeRecord, behind: int, worst: int, scale: float
) -> Replay:
    """Run forward and backward of each micro-batch separately, and add their gradients up as in training."""
    labels = max(1, step.labels)
    parameters = dict(model.named_parameters())
    sums: dict[str, Tensor] = {}
    micro_batches, documents = [], []
    total = torch.zeros((), device=ctx.mesh.device)
    for place, packed in enumerate(step.micro_batches):
        # The same function, seed and divisor as in training, so that loss and norm are reproduced.
        loss = backward(ctx, model, step, place, packed, labels, scale)
        for parameter in parameters.values() if scale != 1.0 else ():
            if parameter.grad is not None:
                parameter.grad.div_(scale)
        total += loss
        count = len(packed.labels)
        micro_batches.append(MicroBatch(loss.item() / max(1, count), gradient_norm(parameters.values()).item(), count))
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                # Gradients are taken out after each micro-batch, so that the norm above is of this one alone.
                sums[name] = sums[name].add_(parameter.grad) if name in sums else parameter.grad
                parameter.grad = None
        documents += _documents(ctx, model, step, place, packed)
    for name, parameter in parameters.items():
        parameter.grad = sums.get(name)
    mean = (total / labels).item()
    groups: dict[str, list[Tensor]] = {}
    for name, parameter in parameters.items():
        groups.setdefault(_group(name), []).append(parameter)
    told = [
        Document(loss - mean * count, loss / count, count, place, _text(ctx.tokenizer, ids))
        for loss, count, place, ids in sorted(documents, key=lambda d: _badness(d[0] - mean * d[1]))[:worst]
    ]
    norms = {name: gradient_norm(members).item() for name, members in groups.items()}
    return Replay(record, behind, mean, gradient_norm(parameters.values()).item(), micro_batches, norms, told)


@torch.no_grad()
def _documents(
    ctx: PhaseContext, model: MaskedLM, step: Step, place: int, packed: Packed
) -> list[tuple[float, int, int, Tensor]]:
    """Return (sum of losses, labels, micro-batch, unmasked ids) of each document that has a label."""
    device = ctx.mesh.device
    # The second forward pass has to drop the same units as the first.
    seed_dropout(ctx, step, place)
    there = packed.to(device)
    with autocast(device, ctx.precision):
        features = model.features(there)
        parts = [model.decoder(features[row : row + _ROWS]).float() for row in range(0, len(features), _ROWS)]
        losses = [
            F.cross_entropy(p, y, reduction="none") for p, y in zip(parts, there.labels.split(_ROWS), strict=True)
        ]
    # offsets[d] <= target < offsets[d + 1]: the document of each label.
    of = torch.searchsorted(packed.offsets, packed.targets, right=True) - 1
    sums = torch.zeros(packed.sequences).index_add_(0, of, torch.cat(losses).cpu()) if losses else torch.zeros(0)
    counts = torch.bincount(of, minlength=packed.sequences).tolist()
    # Labels are the hidden ids: put back, they give the text as it was.
    ids = packed.unpack(packed.ids.index_copy(0, packed.targets, packed.labels))
    return [(sums[n].item(), counts[n], place, ids[n]) for n in range(packed.sequences) if counts[n]]


def _badness(excess: float) -> tuple[bool, float]:
    """Return a key that sorts what is not finite first, then the largest."""
    # NaN compares with nothing, so sorting by the number alone would leave it anywhere.
    return math.isfinite(excess), -excess if math.isfinite(excess) else 0.0


def _text(tokenizer: Tokenizer, ids: Tensor) -> str:
    text = " ".join(tokenizer.decode(ids.tolist()).split())
    return text[:_CHARACTERS] + ("..." if len(text) > _CHARACTERS else "")


def _group(name: str) -> str:
    """Return the part of the model of a parameter: ``model.layers.3.attn.Wo.weight`` -> ``layer 3``."""
    parts = name.removeprefix("model.").split(".")
    return f"layer {parts[1]}" if parts[0] == "layers" else parts[0]
