"""What is computed for each line of input: vectors, classes, entities or ranks, on one machine or on many.

A job is a plain value that travels to other processes. It knows its options, loads its predictor, makes the input of
the model from a line, and answers a stream of such inputs. The commands run it over one file, workers over shards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import orjson

from mmbert.errors import ConfigError, DataError, TokenizerError
from mmbert.inference.vectors import check_output
from mmbert.io.rows import import_pyarrow

if TYPE_CHECKING:
    import numpy as np

    from mmbert.inference.entities import Strategy
    from mmbert.inference.vectors import Output
    from mmbert.io.lines import Line


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """A model and what it does with each line."""

    name: ClassVar[str]
    """The command."""
    objects: ClassVar[bool] = False
    """Whether lines can only be JSON objects."""

    model: str
    device: str = "auto"
    precision: str = "auto"
    layers: int | None = None

    def load(self) -> Any:
        """Return the predictor. Raises WeightsError, TokenizerError or ConfigError."""
        return self._predictor().load(self.model, **self._loading())

    def _loading(self) -> dict[str, Any]:
        return {"device": self.device, "precision": self.precision, "num_layers": self.layers}

    def model_stamp(self, predictor: Any) -> dict[str, Any]:
        """Return what of the loaded model the answers depend on."""
        loaded = predictor.loaded
        return {"num_layers": loaded.config.num_layers, "precision": loaded.precision}

    @abstractmethod
    def _predictor(self) -> Any: ...

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Return the options that the answers depend on, beside the model."""

    @abstractmethod
    def item(self, line: Line) -> Any:
        """Return the input of the model. Raises DataError for a line that has none."""

    @abstractmethod
    def answers(self, predictor: Any, items: Iterator[Any]) -> Iterator[Any]:
        """Yield an answer for each item, in order: a dict (a vector, of ``Embed``), or the error of that item alone."""

    @abstractmethod
    def fields(self, predictor: Any) -> list[tuple[str, Any]]:
        """Return the columns of an answer, as Arrow's names and types."""

    def columns(self, answers: list[Any], predictor: Any) -> list[Any]:
        """Return answers as Arrow arrays, in the order of ``fields``."""
        arrow = import_pyarrow()
        rows = [orjson.loads(orjson.dumps(answer)) for answer in answers]
        return [arrow.array([row[name] for row in rows], kind) for name, kind in self.fields(predictor)]


@dataclass(frozen=True, kw_only=True)
class Embed(Job):
    """Vectors of texts. Options as those of ``Embedder``."""

    name: ClassVar[str] = "embed"
    text_field: str | None = None
    prompt: str | None = None
    dimensions: int | None = None
    normalize: bool = True
    output: Output = "float32"
    pooling: str | None = None
    max_tokens: int | None = None

    def _predictor(self) -> Any:
        from mmbert.inference.embedder import Embedder

        check_output(self.output)
        return Embedder

    def _loading(self) -> dict[str, Any]:
        return {**super()._loading(), "pooling": self.pooling, "max_tokens": self.max_tokens}

    def model_stamp(self, predictor: Any) -> dict[str, Any]:
        return {
            **super().model_stamp(predictor),
            "dimensions": predictor.width(self.dimensions),
            "pooling": list(predictor.pooling.modes),
            "max_tokens": predictor.max_tokens,
        }

    def options(self) -> dict[str, Any]:
        return {
            "text_field": self.text_field, "prompt": self.prompt, "normalize": self.normalize, "output": self.output
        }  # fmt: skip

    def item(self, line: Line) -> Any:
        return line.text(self.text_field or "text")

    def answers(self, predictor: Any, items: Iterator[Any], **reading: Any) -> Iterator[Any]:
        """Yield vectors (d,); ``reading`` are the options of ``Embedder.stream`` that change no number."""
        options = {"prompt": self.prompt, "dimensions": self.dimensions, "normalize": self.normalize}
        found: Iterator[Any] = predictor.stream(items, **options, output=self.output, **reading)
        return found

    def fields(self, predictor: Any) -> list[tuple[str, Any]]:
        arrow = import_pyarrow()
        bits = self.output in ("binary", "ubinary")
        width = predictor.width(self.dimensions)
        number = {"binary": "int8", "ubinary": "uint8"}.get(self.output, self.output)
        kind = arrow.type_for_alias({"float32": "float", "float16": "halffloat"}.get(number, number))
        return [("vector", arrow.list_(kind, -(-width // 8) if bits else width))]

    def columns(self, answers: list[np.ndarray], predictor: Any) -> list[Any]:
        import numpy as np

        arrow = import_pyarrow()
        [(_, kind)] = self.fields(predictor)
        numbers = np.concatenate(answers) if answers else np.zeros(0)
        return [arrow.FixedSizeListArray.from_arrays(arrow.array(numbers, kind.value_type), type=kind)]


@dataclass(frozen=True, kw_only=True)
class Classify(Job):
    """Classes of texts or pairs of texts."""

    name: ClassVar[str] = "classify"
    text_field: str = "text"
    pair_field: str | None = None
    threshold: float = 0.5

    def _predictor(self) -> Any:
        from mmbert.inference.classifier import Classifier

        return Classifier

    def options(self) -> dict[str, Any]:
        return {"text_field": self.text_field, "pair_field": self.pair_field, "threshold": self.threshold}

    def item(self, line: Line) -> Any:
        first = line.text(self.text_field)
        return first if self.pair_field is None else (first, line.text(self.pair_field, "--pair-field"))

    def answers(self, predictor: Any, items: Iterator[Any]) -> Iterator[Any]:
        return (dict(vars(found)) for found in predictor(items, threshold=self.threshold))

    def fields(self, predictor: Any) -> list[tuple[str, Any]]:
        arrow = import_pyarrow()
        scores = arrow.struct([(label, arrow.float64()) for label in predictor.labels])
        return [
            ("label", arrow.string()), ("score", arrow.float64()), ("scores", scores),
            ("labels", arrow.list_(arrow.string())),
        ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tag(Job):
    """Entities of texts."""

    name: ClassVar[str] = "tag"
    text_field: str = "text"
    strategy: Strategy = "first"

    def _predictor(self) -> Any:
        from mmbert.inference.tagger import Tagger

        return Tagger

    def options(self) -> dict[str, Any]:
        return {"text_field": self.text_field, "strategy": self.strategy}

    def item(self, line: Line) -> Any:
        return line.text(self.text_field)

    def answers(self, predictor: Any, items: Iterator[Any]) -> Iterator[Any]:
        return ({"entities": found} for found in predictor(items, strategy=self.strategy))

    def fields(self, predictor: Any) -> list[tuple[str, Any]]:
        arrow = import_pyarrow()
        names = {"label": "string", "start": "int64", "end": "int64", "text": "string", "score": "double"}
        entity = arrow.struct([(name, arrow.type_for_alias(kind)) for name, kind in names.items()])
        return [("entities", arrow.list_(entity))]


@dataclass(frozen=True, kw_only=True)
class Rerank(Job):
    """Documents by relevance to the query that stands beside them."""

    name: ClassVar[str] = "rerank"
    objects: ClassVar[bool] = True
    query_field: str = "query"
    documents_field: str = "documents"
    top_k: int | None = None

    def _predictor(self) -> Any:
        from mmbert.inference.reranker import Reranker

        return Reranker

    def options(self) -> dict[str, Any]:
        return {"top_k": self.top_k, "query_field": self.query_field, "documents_field": self.documents_field}

    def item(self, line: Line) -> Any:
        query = line.field(self.query_field, "--query-field")
        return line.where, query, line.field(self.documents_field, "--documents-field")

    def answers(self, predictor: Any, items: Iterator[Any]) -> Iterator[Any]:
        for where, query, documents in items:
            try:
                yield {"ranked": predictor(query, documents, top_k=self.top_k)}
            except (DataError, TokenizerError, ConfigError) as error:
                yield type(error)(f"{where}: {error}")

    def fields(self, predictor: Any) -> list[tuple[str, Any]]:
        arrow = import_pyarrow()
        ranked = arrow.struct([("index", arrow.int64()), ("score", arrow.float64()), ("text", arrow.string())])
        return [("ranked", arrow.list_(ranked))]
