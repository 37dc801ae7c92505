"""Published figures, to stand beside ours: ``published.tsv``, each with its source."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from mmbert.errors import ConfigError

AVERAGE = "average"
"""The task name of a suite's mean."""

PRINTED = "printed average"
"""The same as the source prints it, where that is another figure than the mean of its columns: GLUE's headline."""


@cache
def published(suite: str) -> dict[str, dict[str, float]]:
    """Return model -> task (or ``average``, ``printed average``, a type of mteb's tasks) -> score.

    Raises ConfigError for an unknown suite.
    """
    found: dict[str, dict[str, float]] = {}
    for name, task, model, score, _ in _rows():
        if name == suite:
            found.setdefault(model, {})[task] = float(score)
    if not found:
        known = ", ".join(dict.fromkeys(row[0] for row in _rows()))
        raise ConfigError(f"no published figures are called {suite!r}: published is one of {known}")
    return found


def sources(suite: str) -> list[str]:
    """Return the sources of a suite's figures."""
    return list(dict.fromkeys(source for name, _, _, _, source in _rows() if name == suite))


def _rows() -> Iterator[tuple[str, str, str, str, str]]:
    text = (files("mmbert.evaluation") / "published.tsv").read_text(encoding="utf-8")
    for line in text.splitlines()[1:]:
        if line and not line.startswith("#"):
            suite, task, model, score, source = line.split("\t")
            yield suite, task, model, score, source
