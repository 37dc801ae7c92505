"""How much the variants of a merge disagree, for each tensor and in total."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmbert.files import write_json


@dataclass(frozen=True)
class Disagreement:
    """Figures of one tensor or the whole model. ``d_k``: difference of variant k from the reference."""

    parameters: int
    """Entries counted."""
    kept: list[float]
    """Per variant: share of its entries that are non-zero after the trim."""
    conflict: float | None
    """Of the entries that at least two variants change (after the trim): share in which their signs differ."""
    cosine: list[list[float | None]]
    """Between the untrimmed d_k; null where one of the two is zero."""
    unchanged: float
    """Share of entries that no variant changed at all."""
    distance: list[float | None]
    """Per variant: \\|d_k\\| relative to \\|reference\\|."""


@dataclass(frozen=True)
class MergeReport:
    """The inputs of a merge and how much they disagreed, as plain values that are saved as JSON."""

    method: str
    reference: str
    """What differences are taken from: the base's folder, or "mean" for an average without a base."""
    variants: list[str]
    weights: list[float]
    trim: str | None
    density: float | None
    scale: float | None
    thresholds: list[float] | None
    """Per variant: smallest magnitude kept, where one trim covers the whole model."""
    total: Disagreement
    tensors: dict[str, Disagreement]

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_json(path, asdict(self))


class Tally:
    """Sums from which a :class:`Disagreement` is computed; chunks are added one after the other."""

    def __init__(self, variants: int) -> None:
        self._parameters = 0
        self._unchanged = 0
        self._shared = 0
        self._conflicts = 0
        self._reference = 0.0
        self._kept = torch.zeros(variants, dtype=torch.int64)
        self._products = torch.zeros(variants, variants, dtype=torch.float64)

    def add(self, reference: Tensor, differences: Tensor, trimmed: Tensor) -> None:
        """Add (n,) reference and (K, n) differences before and after the trim."""
        # The sign of a trimmed entry is 0, so counting signs counts what was kept.
        signs = trimmed.sign().to(torch.int8)
        changes = signs.abs().sum(0)
        # A parameter that only one variant changes cannot be in conflict.
        shared = changes >= 2
        self._parameters += reference.numel()
        self._unchanged += int((differences == 0).all(0).sum())
        self._shared += int(shared.sum())
        # Signs of +-1 add up to as many as there are only if all are the same.
        self._conflicts += int((shared & (signs.sum(0).abs() != changes)).sum())
        self._reference += float(reference.double().square().sum())
        self._kept += signs.count_nonzero(1)
        wide = differences.double()
        # Gram matrix of the differences: its diagonal gives their norms, the rest their cosines, without keeping them.
        self._products += wide @ wide.T

    def absorb(self, other: Tally) -> None:
        """Add the sums of another part of the model."""
        self._parameters += other._parameters
        self._unchanged += other._unchanged
        self._shared += other._shared
        self._conflicts += other._conflicts
        self._reference += other._reference
        self._kept += other._kept
        self._products += other._products

    def result(self) -> Disagreement:
        """Return the figures of all that was added."""
        count = max(self._parameters, 1)
        norms = self._products.diagonal().clamp(min=0).sqrt().tolist()
        rows = zip(self._products.tolist(), norms, strict=True)
        # |d_k| / |reference| tells models of different size apart; an absolute distance does not.
        size = self._reference**0.5
        return Disagreement(
            parameters=self._parameters,
            kept=[kept / count for kept in self._kept.tolist()],
            conflict=self._conflicts / self._shared if self._shared else None,
            cosine=[[_ratio(p, a * b) for p, b in zip(row, norms, strict=True)] for row, a in rows],
            unchanged=self._unchanged / count,
            distance=[_ratio(norm, size) for norm in norms],
        )


def _ratio(value: float, by: float) -> float | None:
    return value / by if by > 0 else None
