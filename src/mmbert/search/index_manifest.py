"""``index.json``: the model of an index, how texts become vectors, and the format of the vectors."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np

from mmbert.arrays import unit
from mmbert.errors import ConfigError, DataError
from mmbert.files import read_checked_json, write_checked_json
from mmbert.inference.embedder import Embedder
from mmbert.io.remote import as_typed, is_remote
from mmbert.search.vector_store import KINDS, StoreName

VERSION = 5
"""2: rows, documents and passages carry checksums. 4: rows are rounded around centroids, LanceDB's around a centre.
5: ``num_layers``."""

NAME = "index.json"

OUTPUTS = ("float32", "float16", "int8")
"""Forms of a row's numbers."""

_HASH = re.compile(r"[0-9a-f]{16}")


def folder_of(place: str | Path) -> Path:
    """Return the folder of an index. Raises ConfigError for a URL: SQLite, which holds the records, needs a disk."""
    if is_remote(as_typed(place)):
        raise ConfigError(
            f"{as_typed(place)}: an index lies on a disk: build it there. On an object store write a table: "
            "mmbert store RUN s3://BUCKET/TABLE.lance"
        )
    return Path(place)


@dataclass(frozen=True)
class IndexManifest:
    """The options of an index, written when it is created and never changed.

    model            where the model was loaded from; ``model_hash`` of its weights, configs and tokenizer
    num_layers       layers that are computed: the first of the model, or all
    similarity       cosine (rows of unit length) or dot
    output           float32, float16 or int8
    store, kind      auto, exact or lance; LanceDB's kind of index
    *_prompt         the text before every query and document
    pooling, layers  of the Embedder
    chunking ...     how long texts are divided, as in ``Embedder.passages``; None: a text is one passage
    """

    model: str
    model_hash: str
    num_layers: int
    dimensions: int
    similarity: str
    output: str
    store: str
    kind: str
    query_prompt: str
    document_prompt: str
    pooling: list[str]
    layers: list[float] | None
    max_tokens: int
    chunking: str | None
    by: str | None
    size: int | None
    overlap: int | None

    def __post_init__(self) -> None:
        if self.output not in OUTPUTS:
            raise ConfigError(f"output {self.output!r} is none of {', '.join(OUTPUTS)}")
        if self.store not in get_args(StoreName):
            raise ConfigError(f"store {self.store!r} is none of {', '.join(get_args(StoreName))}")
        if self.kind not in KINDS:
            raise ConfigError(f"kind {self.kind!r} is none of {', '.join(KINDS)}")
        if self.store == "lance" and self.output == "int8":
            raise ConfigError("LanceDB's rows are float32 or float16 (its index has int8 of its own): choose another")
        if self.similarity not in ("cosine", "dot"):
            raise ConfigError(f"{self.model} compares by {self.similarity}: an index compares by cosine or dot")

    @classmethod
    def load(cls, folder: Path) -> IndexManifest:
        """Raises DataError for a folder that is no index, or one of another version of this package."""
        path = folder / NAME
        if not path.is_file():
            raise DataError(f"no index in {folder}: make one with mmbert index build, or SearchIndex.create")
        values = read_checked_json(path)
        version = values.pop("version", None) if isinstance(values, dict) else None
        if version != VERSION:
            raise DataError(f"{path} is of version {version}, this package reads {VERSION}: build the index again")
        names = {field.name for field in fields(cls)}
        if set(values) != names or not _HASH.fullmatch(str(values["model_hash"])):
            raise DataError(f"{path} is damaged ({', '.join(sorted(names ^ set(values)))}): build the index again")
        return cls(**values)

    def save(self, folder: Path) -> None:
        write_checked_json(folder / NAME, {"version": VERSION, **asdict(self)})

    def check_model(self, embedder: Embedder, folder: Path | str) -> None:
        """Raises ConfigError, naming both, for a model that did not make the vectors."""
        here = embedder.loaded
        if here.model_hash != self.model_hash:
            raise ConfigError(
                f"{folder} was made with {self.model} ({self.model_hash}), {here.folder} is another model "
                f"({here.model_hash}): give the first, or build the index again"
            )
        if here.config.num_layers != self.num_layers:
            raise ConfigError(
                f"{folder} was made with num_layers {self.num_layers}, now it is {here.config.num_layers}: "
                f"load the model with num_layers={self.num_layers}, or build the index again"
            )
        modes, layers = list(embedder.pooling.modes), _listed(embedder.pooling.layers)
        if modes != self.pooling:
            raise ConfigError(f"{folder} was made with pooling {self.pooling}, now it is {modes}")
        if (layers is None) != (self.layers is None) or not np.allclose(layers or [], self.layers or []):
            raise ConfigError(f"{folder} was made with layers {self.layers}, now it is {layers}")

    def check_vectors(self, vectors: np.ndarray) -> np.ndarray:
        """Return vectors (n, d). Raises ConfigError for another width, NaN or infinite values."""
        if vectors.ndim != 2 or vectors.shape[1] != self.dimensions:
            raise ConfigError(f"vectors are {vectors.shape}: this index takes (n, {self.dimensions})")
        if not np.isfinite(vectors).all():
            row = int(np.argwhere(~np.isfinite(vectors))[0, 0])
            raise ConfigError(f"vector {row} holds NaN or infinite values: leave it out, or make it again")
        return vectors

    def as_rows(self, vectors: np.ndarray) -> np.ndarray:
        """Return vectors as fp32, scaled to unit length if the index compares cosines."""
        rows = vectors.astype(np.float32)
        return unit(rows) if self.similarity == "cosine" else rows

    def check_same(self, other: IndexManifest, folder: Path) -> None:
        """Raises ConfigError if work begun as ``self`` would go on as ``other``."""
        for name, value in asdict(self).items():
            if name != "model" and value != getattr(other, name):
                raise ConfigError(
                    f"{folder} was begun with {name} {value!r}, now it is {getattr(other, name)!r}: go on as it was "
                    "begun, or choose another folder"
                )


def describe_model(embedder: Embedder, name: str | Path | None) -> dict[str, Any]:
    """Return the fields of a manifest that identify the model."""
    loaded = embedder.loaded
    given = loaded.folder if name is None or Path(name).exists() else None
    return {
        "model": str(name) if given is None else str(given.absolute()),
        "model_hash": loaded.model_hash,
        "num_layers": loaded.config.num_layers,
        "similarity": loaded.similarity,
        "pooling": list(embedder.pooling.modes),
        "layers": _listed(embedder.pooling.layers),
        "max_tokens": embedder.max_tokens,
    }


def _listed(values: Any) -> list[float] | None:
    return None if values is None else list(values)
