"""Qdrant: a collection with the id and all further columns in the payload.

Qdrant's own ids are numbers or UUIDs, so a point gets the UUIDv5 of its id: the same in every run. The mark is the
collection's metadata, which servers keep from 1.16 on. Key: ``QDRANT_API_KEY``, or the password of the URL.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from mmbert.errors import ConfigError, MMBertError, import_extra
from mmbert.files import secret
from mmbert.stores.store import Layout, metric_name, retrying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mmbert.io.vector_files import VectorBatch
    from mmbert.stores.target import Target

log = logging.getLogger(__name__)

_DISTANCES = {"cosine": "COSINE", "dot": "DOT", "euclidean": "EUCLID", "manhattan": "MANHATTAN"}

_NAMESPACE = uuid5(NAMESPACE_URL, "mmbert:ids")

_SECONDS = 60


class QdrantStore:
    """See :class:`mmbert.stores.store.Store`."""

    def __init__(self, target: Target, layout: Layout) -> None:
        self._library = import_extra("qdrant_client", "qdrant")
        self._models = self._library.models
        # HTTP 429 that says when to come back.
        self._full = import_extra("qdrant_client.common.client_exceptions", "qdrant").ResourceExhaustedResponse
        self.target, self.layout = target, layout
        if layout.output == "ubinary":
            raise ConfigError("Qdrant stores no vectors of bits: store float32, and let Qdrant quantise to binary")
        self._distance = metric_name(layout.metric, _DISTANCES, "Qdrant")
        self._client: Any = None

    def open(self) -> None:
        with self._errors(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a key over http on loopback, and of a server's version
            self._client = self._connect()
        self._try(self._open)

    def write(self, batch: VectorBatch) -> None:
        names = list(self.layout.columns)
        payloads = [
            {"id": name, **dict(zip(names, values, strict=True))}
            for name, *values in zip(batch.ids, *(batch.columns[column] for column in names), strict=True)
        ]
        points = self._models.Batch(
            ids=[point_id(name) for name in batch.ids], vectors=batch.vectors.tolist(), payloads=payloads
        )
        self._try(lambda: self._client.upsert(self.target.table, points, wait=True))

    def finish(self) -> None:
        """Do nothing: Qdrant indexes what it gets by itself."""

    def count(self) -> int:
        return int(self._try(lambda: self._client.count(self.target.table, exact=True)).count)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def _connect(self) -> Any:
        if self.target.local:
            return self._library.QdrantClient(path=self.target.place)
        key = self.target.password or secret("QDRANT_API_KEY")
        return self._library.QdrantClient(
            url=self.target.place, api_key=key, timeout=_SECONDS, check_compatibility=False, port=None
        )

    def _open(self) -> None:
        models, name = self._models, self.target.table
        if self._client.collection_exists(name):
            config = self._client.get_collection(name).config
            self.layout.check_mark(getattr(config, "metadata", None), str(self.target))
            return
        vectors = models.VectorParams(
            size=self.layout.dimensions,
            distance=getattr(models.Distance, self._distance),
            datatype=getattr(models.Datatype, self.layout.output.upper()),
        )
        self._client.create_collection(name, vectors_config=vectors, metadata=self.layout.mark())

    def _try(self, call: Callable[[], Any]) -> Any:
        with self._errors():
            return retrying(call, self._passes, str(self.target))

    def _passes(self, error: Exception) -> bool:
        problems = self._library.http.exceptions
        if isinstance(error, problems.UnexpectedResponse):
            return error.status_code in (429, 502, 503, 504)
        if isinstance(error, problems.ResponseHandlingException):
            return not isinstance(error.source, ValueError)  # an answer that is none of Qdrant
        return isinstance(error, self._full)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except MMBertError:
            raise
        except (self._library.http.exceptions.ApiException, self._full, RuntimeError, ValueError, OSError) as error:
            raise self.target.failed(_reason(error)) from error


def point_id(name: Any) -> str:
    """Return the UUID of a point for an id of ours; 7 and "7" are the same."""
    return str(uuid5(_NAMESPACE, str(name)))


def _reason(error: Exception) -> Exception:
    """Return an error whose first line says what a server answered."""
    status, content = getattr(error, "status_code", None), getattr(error, "content", None)
    if status is None:
        return error
    return RuntimeError(f"HTTP {status}: {(content or b'').decode(errors='replace')}")
