"""What is stored, and the interface of the stores that take it.

A table (a collection, an index) carries a mark with the layout of its rows and the model that made them. Rows are only
ever written to a table with the same mark: of what somebody else made, nothing is changed.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeVar

from mmbert.errors import ConfigError
from mmbert.io.vector_files import VectorBatch, VectorFiles

log = logging.getLogger(__name__)

METRICS = ("cosine", "dot", "euclidean", "manhattan", "hamming")

ATTEMPTS = 6
"""Times that a request is sent while its errors pass: over half a minute."""

_MARK = "mmbert"

_FIX = "choose another table, or store what it was made for"

Result = TypeVar("Result")


@dataclass(frozen=True)
class Layout:
    """The rows of a table.

    dimensions  of a vector, whose numbers are ``output``: float32, float16 or ubinary
    integers    whether ids are whole numbers, else text
    columns     name -> text, integer, number, boolean or json
    made        model, model_hash, prompt and the like, as far as they are known
    """

    dimensions: int
    output: str
    metric: str
    integers: bool
    columns: dict[str, str]
    made: dict[str, Any] = field(default_factory=dict)

    def mark(self) -> dict[str, Any]:
        """Return what a table says of itself, as JSON values."""
        return {_MARK: asdict(self)}

    def check_mark(self, found: Any, table: str) -> None:
        """Raise ConfigError, in one line, for a table that others made, or one of another layout or model."""
        layout = read_mark(found)
        if layout is None:
            raise ConfigError(f"{table} is there and was not made by mmbert store: choose another name")
        for name in ("dimensions", "metric", "output", "integers", "columns"):
            here, there = getattr(self, name), getattr(layout, name)
            if here != there:
                raise ConfigError(f"{table} has {name} {_shown(there)}, these vectors {_shown(here)}: {_FIX}")
        for name in ("model_hash", "prompt"):
            here, there = self.made.get(name), layout.made.get(name)
            if here != there and (name != "model_hash" or None not in (here, there)):
                raise ConfigError(f"{table} has vectors of {name} {there!r}, these are of {here!r}: {_FIX}")


def read_mark(found: Any) -> Layout | None:
    """Return the layout that a mark states, None for what is no mark of ours."""
    try:
        values = json.loads(found) if isinstance(found, str | bytes) else found
        return Layout(**values[_MARK])
    except (TypeError, KeyError, ValueError):
        return None


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} ({kind})" for name, kind in value.items()) or "none"
    return str(value)


class Store(Protocol):
    """A table of a vector store, for :func:`mmbert.stores.push.store_vectors`."""

    def open(self) -> None:
        """Connect, and make the table if it is not there. Raises ConfigError for one of another layout or origin."""

    def write(self, batch: VectorBatch) -> None:
        """Insert rows, or replace those with the same ids: all of them, or none, wherever the store can."""

    def finish(self) -> None:
        """Build the index that makes search fast, where the store does not do that by itself."""

    def count(self) -> int:
        """Return the number of rows in the table."""

    def close(self) -> None:
        """Close the connection, if there is one."""


def layout_of(found: VectorFiles, metric: str | None, columns: dict[str, str]) -> Layout:
    """Return the layout of a table for these vectors.

    metric  None: that of the run (its similarity, or cosine where it normalised its vectors); hamming of bits
    Raises ConfigError for numbers that no store compares, or if nothing states the metric.
    """
    if found.output not in ("float32", "float16", "ubinary"):
        better = "ubinary" if found.output == "binary" else "float32 or float16, and let the store quantise"
        raise ConfigError(
            f"{found.path} has {found.output} numbers, whose products are not those of the vectors: embed with "
            f"--output {better}"
        )
    made = found.made
    bits = found.output == "ubinary"
    if metric is None:
        metric = "hamming" if bits else made.get("similarity") or ("cosine" if made.get("normalize") else None)
    if metric is None:
        raise ConfigError(f"nothing says how the vectors of {found.path} compare: give --metric cosine, or dot")
    if metric not in METRICS or bits != (metric == "hamming"):
        allowed = "hamming" if bits else ", ".join(METRICS[:-1])
        raise ConfigError(f"metric {metric!r} does not fit {found.output} vectors: choose {allowed}")
    kept = ("model", "model_hash", "num_layers", "pooling", "layers", "max_tokens", "prompt", "normalize")
    return Layout(
        found.dimensions, found.output, metric, found.integers, columns, {key: made[key] for key in kept if key in made}
    )


def retrying(call: Callable[[], Result], passes: Callable[[Exception], bool], where: str) -> Result:
    """Return what ``call`` returns; errors that may pass are waited for, twice as long each time.

    passes  whether the same request may succeed later
    """
    for attempt in range(ATTEMPTS):
        try:
            return call()
        except Exception as error:
            if attempt + 1 == ATTEMPTS or not passes(error):
                raise
            wait = 2**attempt * (0.5 + random.random() / 2)  # not all writers at the same moment
            log.warning("%s: %s; trying again in %.1f s", where, type(error).__name__, wait)
            time.sleep(wait)
    raise AssertionError


def metric_name(metric: str, names: dict[str, Any], store: str) -> Any:
    """Return a store's own name of a metric. Raises ConfigError for one that it does not have."""
    if metric not in names:
        raise ConfigError(f"{store} has no metric {metric}: it compares by {', '.join(names)}")
    return names[metric]
