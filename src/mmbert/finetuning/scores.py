"""What is measured of a split: all of it, and each of its languages beside the number of its examples.

A task says how predictions are read and what is measured of some examples; the rest is the same for all tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from mmbert.errors import UndefinedMetric
from mmbert.finetuning.figures import COUNT

AGREEMENT = "agreement"
"""Name of the figure that compares a student with its teacher."""


class SplitScores(ABC):
    """The metrics of a task.

    names      of the metrics, the first of which chooses the checkpoint
    languages  split -> language of each example; "" where it is unknown
    taught     split -> what the teacher says of each example, as :meth:`read` returns it; empty without a teacher
    """

    names: tuple[str, ...]
    languages: Mapping[str, Sequence[str]]

    @cached_property
    def taught(self) -> dict[str, Sequence[Any]]:
        return {}

    def __call__(self, role: str, predictions: Any) -> dict[str, float]:
        """Return the metrics of a split from the trainer's predictions, a row for each feature."""
        said = self.read(role, predictions)
        return self.figures(role, said, range(len(said)))

    @abstractmethod
    def read(self, role: str, predictions: Any) -> Sequence[Any]:
        """Return what is predicted for each example of a split."""

    @abstractmethod
    def figures(self, role: str, said: Sequence[Any], chosen: Sequence[int]) -> dict[str, float]:
        """Return the metrics of the examples ``chosen``. Raises UndefinedMetric where none has a value."""

    def with_languages(self, role: str, said: Sequence[Any], metric: str) -> dict[str, float]:
        """Return the metrics of a split, and of each language the deciding one with the number of examples.

        said  what is predicted for each example
        Those of a language are called by its code: ``swh_Latn_accuracy``, ``swh_Latn_examples``. A split in one
        language, or without any, has none.
        """
        found = self.figures(role, said, range(len(said)))
        groups: dict[str, list[int]] = {}
        for number, code in enumerate(self.languages.get(role, ())):
            groups.setdefault(code, []).append(number)
        if len(groups) < 2:
            return found
        for code in sorted(filter(None, groups)):
            try:
                own = self.figures(role, said, groups[code])
            except UndefinedMetric:  # of these examples: no entity, or one label only
                continue
            kept = {name: own[name] for name in (metric, AGREEMENT) if name in own}
            if kept:
                found |= {f"{code}_{name}": value for name, value in kept.items()}
                found[f"{code}_{COUNT}"] = float(len(groups[code]))
        return found

    def of_teacher(self, role: str, metric: str) -> dict[str, float]:
        """Return the same of the teacher on a split with gold labels; nothing without a teacher or labels."""
        if role not in self.taught:
            return {}
        found = self.with_languages(role, self.taught[role], metric)
        found = {name: value for name, value in found.items() if not name.endswith(AGREEMENT)}
        return found if any(not name.endswith(COUNT) for name in found) else {}
