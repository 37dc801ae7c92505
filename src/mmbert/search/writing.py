"""Changes of an index, in batches that are written completely or not at all.

A batch goes in this order: vectors to disk, behind the rows that count; then one transaction that counts them, with
their documents. Killed before its end, an index is as it was, and what lies behind the rows is written over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence, Sized
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from mmbert.errors import DataError, MissingExtra
from mmbert.inference.checks import whole
from mmbert.locks import lock_folder
from mmbert.log import progress as progress_bar
from mmbert.search.index_handle import IndexHandle
from mmbert.search.index_record import Id, IndexRecord, read_record
from mmbert.search.vector_store import LARGEST_EXACT

log = logging.getLogger(__name__)

BATCH_SIZE = 1024
"""Records of a batch: what is lost when the work is stopped."""

_BLOCK = 8192
"""Rows written anew at a time."""

Embed = Callable[[list[IndexRecord], list[int]], tuple[list[list[tuple[int, int]]], np.ndarray]]
"""Documents, and their numbers in the stream -> the passages of each, and the vectors of all passages (n, d) fp32."""


@dataclass(frozen=True)
class Changed:
    """The numbers of records that a call added, updated or left unchanged."""

    added: int = 0
    updated: int = 0
    same: int = 0
    """They were there already, as they are."""

    def __add__(self, other: Changed) -> Changed:
        return Changed(self.added + other.added, self.updated + other.updated, self.same + other.same)


def write_records(
    handle: IndexHandle, records: Iterable[Any], embed: Embed, *, replacing: bool, batch_size: int, shown: bool
) -> Changed:
    """Add records, batch by batch; with ``replacing`` those that are there give way to what differs.

    Raises DataError for a wrong record, or one that is there with another text, after the batches before it.
    """
    batch_size = whole("batch_size", batch_size)
    done, place, stream = Changed(), 0, iter(records)
    total = len(records) if isinstance(records, Sized) else None
    with lock_folder(handle.folder), ExitStack() as stack:
        with handle.records.reading() as state:
            handle.sweep(state)
        bar = stack.enter_context(progress_bar[Any](desc="indexing", unit="record", total=total)) if shown else None
        while chunk := list(islice(stream, batch_size)):
            documents = [read_record(record, number) for number, record in enumerate(chunk, place)]
            done += _write_batch(handle, documents, place, embed, replacing)
            place += len(chunk)
            if bar is not None:
                bar.update(len(chunk))
        _build_index(handle)
    return done


def _write_batch(
    handle: IndexHandle, documents: list[IndexRecord], first: int, embed: Embed, replacing: bool
) -> Changed:
    records = handle.records
    with records.reading() as state:
        known = records.known([document.id for document in documents])
    # Ids may repeat within a batch: a later record is compared with the earlier one, as if they came in two batches.
    wanted: dict[Id, tuple[IndexRecord, int]] = {}
    same = 0
    for place, document in enumerate(documents, first):
        there = wanted[document.id][0] if document.id in wanted else known.get(document.id)
        if there is not None and there.same_content(document):
            same += 1
        elif there is None or replacing:
            wanted[document.id] = (document, place)
        else:
            what = "text" if there.text != document.text else "metadata"
            raise DataError(f"record {place} (id {document.id!r}) exists already with another {what}: use update")
    # Records with new metadata and the same text keep their vectors.
    described = {name for name, (document, _) in wanted.items() if name in known and known[name].text == document.text}
    fresh = [item for name, item in wanted.items() if name not in described]
    spans: list[list[tuple[int, int]]] = []
    if fresh:
        spans, vectors = embed([document for document, _ in fresh], [place for _, place in fresh])
        handle.store(state).append(vectors, state.rows)  # not counted before the transaction below commits
    gone = {document.id for document, _ in fresh if document.id in known}
    if wanted:
        with records.writing():
            records.remove([known[name].number for name in gone])
            records.insert([(document, places) for (document, _), places in zip(fresh, spans, strict=True)])
            for name in described:
                records.describe(known[name].number, wanted[name][0].metadata)
    updated = len(gone) + len(described)
    return Changed(len(wanted) - updated, updated, same)


def delete_records(handle: IndexHandle, ids: Sequence[Id]) -> int:
    """Remove records; how many were there. All of them, or, if stopped, none."""
    with lock_folder(handle.folder), handle.records.writing():
        found = handle.records.known(list(dict.fromkeys(ids)))
        handle.records.remove([document.number for document in found.values()])
    return len(found)


def compact(handle: IndexHandle) -> int:
    """Write the rows anew without those of removed records; how many went."""
    with lock_folder(handle.folder):
        with handle.records.reading() as state:
            handle.sweep(state)
        rows = _rewrite(handle, state.store)
        handle.records.vacuum()
    return state.rows - rows


def _build_index(handle: IndexHandle) -> None:
    """Choose the store by the number of rows after batches were added, and let it build its index."""
    with handle.records.reading() as state:
        made = handle.manifest
    if state.store == "lance":
        store = handle.store(state)
        if store.build_index(state.rows):
            with handle.records.alone() as state:
                store.cleanup()
                handle.records.set_state(state)  # others open the table again
    elif made.store == "auto" and made.output != "int8" and state.rows > LARGEST_EXACT:
        try:
            _rewrite(handle, "lance")
        except MissingExtra as error:
            log.warning("%s rows are compared one by one with every query, LanceDB would not: %s", state.rows, error)


def _rewrite(handle: IndexHandle, name: str) -> int:
    """Write all rows that count as the next generation, in the store ``name``. Return how many they are."""
    with handle.records.reading() as state:
        rows = handle.records.rows()
    old, new = handle.store(state), handle.new_store(state.generation + 1, name)
    # The new files are complete before one transaction makes them current; the old ones are removed after it.
    for start in range(0, len(rows), _BLOCK):
        new.copy(old, rows[start : start + _BLOCK], start)
    new.build_index(len(rows))
    with handle.records.writing() as state:
        handle.records.renumber(rows)
        handle.records.set_state(replace(state, generation=state.generation + 1, store=name, rows=len(rows)))
    with handle.records.reading() as state:
        handle.sweep(state)
    return len(rows)
