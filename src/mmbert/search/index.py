"""The search index of texts: search by meaning across languages, and by words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np

from mmbert.errors import ConfigError, DataError, MMBertError, NotFiniteOutput
from mmbert.files import atomic_folder
from mmbert.inference.checks import check_texts, many_texts, one_text
from mmbert.inference.embedder import Embedder
from mmbert.io.remote import as_typed
from mmbert.search import writing
from mmbert.search.bm25 import Bm25
from mmbert.search.index_handle import IndexHandle
from mmbert.search.index_manifest import NAME, IndexManifest, describe_model, folder_of
from mmbert.search.index_record import Id, IndexRecord, check_id
from mmbert.search.lance import libraries
from mmbert.search.query import Query, SearchOptions, rank
from mmbert.search.records import Records
from mmbert.search.table_handle import TableHandle, is_table
from mmbert.search.vector_store import StoreName
from mmbert.search.writing import BATCH_SIZE, Changed


class SearchIndex:
    """A persistent index of texts with ids and metadata, searched by vectors and optionally by words.

    Made by :meth:`create` or :meth:`load`; called with a query. Work that is stopped, in whatever way, leaves the index
    as it was after its last whole batch; the same call goes on from there. Others may search while one writes.
    """

    def __init__(
        self, handle: IndexHandle | TableHandle, model: str | Path | Embedder | None, device: str, precision: str
    ) -> None:
        self._opened = handle
        self._model = model
        self._device, self._precision = device, precision
        self._embedder: Embedder | None = None
        self._words: Bm25 | None = None

    @classmethod
    def create(
        cls,
        folder: str | Path,
        model: str | Path | Embedder,
        *,
        output: Literal["float32", "float16", "int8"] = "float32",
        store: StoreName = "auto",
        kind: str = "ivf_hnsw_sq",
        num_layers: int | None = None,
        dimensions: int | None = None,
        query_prompt: str = "query",
        document_prompt: str = "document",
        chunking: Literal["windows", "late"] | None = None,
        by: Literal["sentence", "paragraph", "size"] | None = None,
        size: int | None = None,
        overlap: int | None = None,
        resume: bool = False,
        device: str = "auto",
        precision: str = "auto",
    ) -> SearchIndex:
        """Create an empty index in a new folder.

        model         a folder or hub name, or an Embedder
        output        numbers of a row; float16 and int8 are residuals to centroids, see ``mmbert.search.residuals``
        store         exact: every row is compared; lance: LanceDB, approximate; auto: exact, and LanceDB from 200,000
                      rows on (not for int8)
        kind          LanceDB's index: ivf_hnsw_sq, ivf_pq, ivf_sq, ivf_rq or ivf_flat; all re-rank their candidates
        num_layers    compute only the first layers of the model, for queries too (2D Matryoshka)
        dimensions    keep the first so many (Matryoshka)
        *_prompt      as the Embedder's ``prompt``: the folder's own for queries and documents, or a text
        chunking ...  how long texts become passages, as in ``Embedder.passages``; default: a text is one passage
        resume        take up the index that is there, if it was made with the same options
        device, precision  of the model, see ``Embedder.load``
        Raises ConfigError, and what loading a model raises.
        """
        folder = folder_of(folder)
        there = (folder / NAME).is_file()
        if folder.exists() and not (there and resume):
            raise ConfigError(f"{folder} exists already: load it, or choose another name")
        if isinstance(model, Embedder):
            if num_layers is not None:
                raise ConfigError("num_layers is for a model that is loaded here: load the Embedder with it")
            embedder = model
        else:
            embedder = Embedder.load(model, device=device, precision=precision, num_layers=num_layers)
        made = IndexManifest(
            **describe_model(embedder, None if isinstance(model, Embedder) else model),
            dimensions=embedder.width(dimensions), output=output, store=store, kind=kind, chunking=chunking, by=by,
            query_prompt=embedder.prompt_text(query_prompt), document_prompt=embedder.prompt_text(document_prompt),
            size=size, overlap=overlap,
        )  # fmt: skip
        if chunking is not None:
            embedder.passages("a", chunking=chunking, by=by, size=size, overlap=overlap)  # raises for what cannot work
        elif any(option is not None for option in (by, size, overlap)):
            raise ConfigError("by, size and overlap are for chunking: choose windows or late")
        if there:
            found = IndexManifest.load(folder)
            found.check_model(embedder, folder)
            found.check_same(made, folder)
        else:
            if store == "lance":
                libraries()
            with atomic_folder(folder) as place:
                Records.create(place, "lance" if store == "lance" else "exact")
                made.save(place)
        return cls(IndexHandle(folder), embedder, device, precision)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        model: str | Path | Embedder | None = None,
        device: str = "auto",
        precision: str = "auto",
    ) -> SearchIndex:
        """Open an index. The model is loaded when the first text needs it.

        folder  of an index, or the table of LanceDB that ``mmbert store`` wrote, for searching alone:
                ``FOLDER/TABLE.lance`` or ``s3://BUCKET/TABLE.lance``
        model   where its model is now, if that is not where it was
        Raises DataError for a folder that is no index, is damaged, or of another version; ConfigError, then or with the
        first text, for another model.
        """
        handle = TableHandle(as_typed(folder)) if is_table(folder) else IndexHandle(folder_of(folder))
        index = cls(handle, model, device, precision)
        if isinstance(model, Embedder):
            index.embedder  # noqa: B018  (checks it)
        return index

    def __call__(
        self,
        query: Any,
        *,
        top_k: int = 10,
        where: Mapping[str, Any] | None = None,
        hybrid: bool | float = False,
        per_record: int = 1,
    ) -> Any:
        """Return the hits of a query, best first; for a list of queries, or vectors (n, d), a list of such lists.

        where       a filter on metadata, see ``mmbert.search.filters``: ``{"lang": "fra_Latn", "year": {">=": 2020}}``
        hybrid      True: rankings by meaning and by words, fused by reciprocal ranks. A number from 0.0 to 1.0: the
                    share of meaning in a sum of both scores
        per_record  passages of one record among the hits, where texts are divided
        Raises ConfigError for a wrong option or filter, or another model than the index was made with.
        """
        options = SearchOptions(top_k, where, hybrid, per_record)
        text = one_text(query)
        single = text is not None
        queries = self._queries([text] if single else query, options)
        if not queries:
            return []
        if isinstance(self._opened, TableHandle):
            hits = self._opened.rank(queries, options)
        else:
            hits = rank(self._opened, queries, options, self._lexical() if options.lexical else None)
        return hits[0] if single else hits

    def add(
        self,
        records: Iterable[Mapping[str, Any]],
        *,
        vectors: np.ndarray | None = None,
        batch_size: int = BATCH_SIZE,
        progress: bool | None = None,
    ) -> Changed:
        """Add records, each a dict with ``id`` (text or whole number), ``text``, and perhaps ``metadata`` (a dict).

        vectors   of the records in their order, (n, d), made with this model and prompt; default: they are computed
        batch_size  records computed and saved together
        progress  a bar on stderr; default: where there is more than one batch
        Records that are there already, the same, are passed over, so that stopped work goes on with the same call.
        Raises DataError for a record that is there with another text or metadata (see :meth:`update`) or is none.
        """
        return self._write(records, vectors, batch_size, progress, replacing=False)

    def update(
        self,
        records: Iterable[Mapping[str, Any]],
        *,
        vectors: np.ndarray | None = None,
        batch_size: int = BATCH_SIZE,
        progress: bool | None = None,
    ) -> Changed:
        """Add records as :meth:`add` does, but replace records that exist with another text or metadata."""
        return self._write(records, vectors, batch_size, progress, replacing=True)

    def delete(self, ids: Id | Iterable[Id]) -> int:
        """Remove records; returns how many were there. Their space is given back by :meth:`compact`."""
        names = [ids] if isinstance(ids, str | int) else list(ids)
        for name in names:
            check_id(name, f"id {name!r}")
        return writing.delete_records(self.handle, names)

    def compact(self) -> int:
        """Write the rows anew without those of removed records; returns how many went."""
        return writing.compact(self.handle)

    @property
    def embedder(self) -> Embedder:
        """Return the model, loaded and checked when it is first needed."""
        if self._embedder is None:
            made, model = self._opened.manifest, self._model
            if not isinstance(model, Embedder):
                model = self._load_model(made.model if model is None else model)
            made.check_model(model, self._opened.folder)
            self._embedder = model
        return self._embedder

    @property
    def handle(self) -> IndexHandle:
        """Return the files of an index that can be changed. Raises ConfigError for a table of LanceDB."""
        if isinstance(self._opened, TableHandle):
            raise ConfigError(
                f"{self._opened.folder} is a table: it is changed by mmbert store, and has no word search"
            )
        return self._opened

    @property
    def manifest(self) -> IndexManifest:
        """Return what the index was made with."""
        return self._opened.manifest

    def describe(self) -> dict[str, Any]:
        """Return the options and counts of the index as JSON values."""
        made = self._opened.manifest
        return {
            **self._opened.describe(), "output": made.output, "dimensions": made.dimensions,
            "similarity": made.similarity, "model": made.model, "model_hash": made.model_hash,
            "query_prompt": made.query_prompt, "document_prompt": made.document_prompt, "chunking": made.chunking,
        }  # fmt: skip

    def __len__(self) -> int:
        return self._opened.count()

    def __contains__(self, name: object) -> bool:
        try:
            check_id(name, "")
        except DataError:
            return False
        return self._opened.has(cast(Id, name))

    def close(self) -> None:
        """Close its files; it cannot be used any more."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _load_model(self, name: str | Path) -> Embedder:
        made = self._opened.manifest
        try:
            return Embedder.load(
                name, device=self._device, precision=self._precision, num_layers=made.num_layers, pooling=made.pooling,
                layers=made.layers, max_tokens=made.max_tokens,
            )  # fmt: skip
        except MMBertError as error:
            if self._model is None and Path(name).is_absolute() and not Path(name).exists():
                raise ConfigError(
                    f"{self._opened.folder} was made with {name}, which is not there: say where its model is"
                ) from error
            raise

    def _queries(self, asked: Any, options: SearchOptions) -> list[Query]:
        made = self._opened.manifest
        if isinstance(asked, np.ndarray) and asked.dtype.kind not in "UO":
            if options.lexical:
                raise ConfigError("hybrid search needs the text of a query, not its vector")
            return [Query(row) for row in made.as_rows(made.check_vectors(asked))]
        texts = list(many_texts(asked, "queries", "a str, a list of str, or vectors (n, d)"))
        check_texts(texts, what="query")
        empty = next((number for number, text in enumerate(texts) if not text.strip()), None)
        if empty is not None:
            raise DataError(f"query {empty} is empty")
        if not texts:
            return []
        vectors = self.embedder(
            texts, prompt=made.query_prompt, dimensions=made.dimensions, normalize=made.similarity == "cosine"
        )
        return [Query(vector, text) for vector, text in zip(vectors, texts, strict=True)]

    def _lexical(self) -> Bm25:
        if self._words is None:
            self._words = Bm25(self.handle.folder, self.embedder.loaded.tokenizer)
        return self._words

    def _write(
        self, records: Iterable[Any], vectors: np.ndarray | None, batch_size: int, progress: bool | None,
        *, replacing: bool,
    ) -> Changed:  # fmt: skip
        if isinstance(records, str | bytes | Mapping) or not isinstance(records, Iterable):
            raise ConfigError(f"records are {type(records).__name__}: expected a list or an iterator of dicts")
        shown = progress if progress is not None else not isinstance(records, Sequence) or len(records) > batch_size
        made = self._opened.manifest
        if vectors is None:
            return writing.write_records(
                self.handle, records, self._embed, replacing=replacing, batch_size=batch_size, shown=shown
            )  # fmt: skip
        if made.chunking is not None:
            raise ConfigError("vectors are given for texts that are one passage, this index divides them: leave it out")
        given = made.check_vectors(vectors)

        def look_up(documents: list[IndexRecord], places: list[int]) -> tuple[list[list[tuple[int, int]]], np.ndarray]:
            if places[-1] >= len(given):
                raise DataError(f"{len(given)} vectors for more records: give one for each")
            return [[(0, len(document.text))] for document in documents], made.as_rows(given[places])

        return writing.write_records(
            self.handle, records, look_up, replacing=replacing, batch_size=batch_size, shown=shown
        )  # fmt: skip

    def _embed(self, documents: list[IndexRecord], places: list[int]) -> tuple[list[list[tuple[int, int]]], np.ndarray]:
        try:
            return self._vectors(documents)
        except NotFiniteOutput as error:
            place, name = places[error.number], documents[error.number].id
            raise NotFiniteOutput(f"record {place} (id {name!r}), {error}", place) from error

    def _vectors(self, documents: list[IndexRecord]) -> tuple[list[list[tuple[int, int]]], np.ndarray]:
        """Return the passages of each document, and the vectors of all passages."""
        made, texts = self._opened.manifest, [document.text for document in documents]
        options: dict[str, Any] = {
            "prompt": made.document_prompt, "dimensions": made.dimensions, "normalize": made.similarity == "cosine",
            "progress": False,
        }  # fmt: skip
        if made.chunking is None:
            rows = np.stack(list(self.embedder.stream(texts, window=len(texts), **options)))
            return [[(0, len(text))] for text in texts], rows
        found = self.embedder.passages(
            texts, chunking=cast(Any, made.chunking), by=cast(Any, made.by), size=made.size, overlap=made.overlap,
            **options,
        )  # fmt: skip
        return [passages.spans for passages in found], np.concatenate([passages.vectors for passages in found])
