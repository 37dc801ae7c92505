"""Exact copies in a source, found by many tasks with the same result as the sequential loop.

The loop of ``prepare`` reads the documents in order and drops what it has seen. Here (1) :class:`Compare` sorts the
hashes, one partition in each task, and finds the later copies of every text; texts with a copy that is to be held out
are only listed. (2) :class:`Decide` processes the documents to be held out and these listed ones in order, as the loop
does, because what is held out depends on how much of its language is held out already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
from datatrove.data import Document as Item
from datatrove.utils.typeshelper import StatHints
from numpy.typing import NDArray

from mmbert.data.distributed.pipeline_steps import DataStep, fresh_folder, held_path, read_spill, save_array
from mmbert.data.prepare import BEYOND, COPY, COPY_OF_HELDOUT
from mmbert.data.store import TextWriter
from mmbert.files import atomic_file, read_json

KEEP, HOLD = 0, 1
VERDICTS = {2: COPY, 3: COPY_OF_HELDOUT, 4: BEYOND}
"""What becomes of a document, as a byte; the others are dropped for a reason."""

_NAMES = {reason: code for code, reason in VERDICTS.items()}
_RANK = 32
"""Bits of a document's number within its rank; above them stands the number of the rank within its source."""


class Compare(DataStep):
    """Sorts one partition of the hashes of every source in each task."""

    name = "Exact copies"
    type = "🫂 - DEDUP"

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> None:
        """Write the positions of later copies, and the groups of copies with a document to be held out."""
        plan = self.plan
        for number, ranks in enumerate(plan.sources.values()):
            records = [np.load(plan.place("hashes", rank, f"{member:05d}.npy")) for member in ranks]
            places = [
                (np.uint64(i) << np.uint64(_RANK)) + part["number"].astype(np.uint64) for i, part in enumerate(records)
            ]
            high, low, held = (np.concatenate([part[field] for part in records]) for field in ("high", "low", "held"))
            copies, contested = compare(high, low, held, np.concatenate(places))
            self.stat_update("copies", value=len(copies))
            with atomic_file(plan.place("copies", number, f"{rank:05d}.npz")) as file:
                np.savez(file, copies=copies, contested=contested)


def compare(
    high: NDArray[np.uint64], low: NDArray[np.uint64], held: NDArray[np.bool_], place: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return (copies, contested) of documents, given their hashes in two halves.

    copies     (C,) places of all but the first document of a text, where none of them is to be held out
    contested  (D, 3) number of the text, place, and 1 if to be held out, of all documents of the other texts that occur
               more than once
    """
    order = np.lexsort((place, low, high))
    high, low, held, place = high[order], low[order], held[order], place[order]
    if not len(order):
        return place, np.empty((0, 3), np.uint64)
    first = np.ones(len(order), dtype=bool)
    first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    text = np.cumsum(first) - 1
    special = np.bincount(text, weights=held)[text] > 0
    several = np.bincount(text)[text] > 1
    rows = special & several
    contested = np.stack([text[rows].astype(np.uint64), place[rows], held[rows].astype(np.uint64)], axis=1)
    return place[~special & ~first], contested


class Decide(DataStep):
    """Decides for every document of a source whether it is kept, held out, or dropped for which reason."""

    name = "Decide"
    type = "🫂 - DEDUP"

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> None:
        """Write ``verdicts`` of every rank of a source."""
        plan = self.plan
        ranks = list(plan.sources.values())[rank]
        cleaning = plan.recipe.cleaning
        counts = [read_json(held_path(plan, member)) for member in ranks]
        arrays = [np.load(plan.place("copies", rank, f"{part:05d}.npz")) for part in range(plan.partitions)]
        verdicts = [np.full(count["documents"], KEEP, dtype=np.uint8) for count in counts]
        for part in arrays if cleaning.deduplicate else ():
            for place in part["copies"].tolist():
                verdicts[place >> _RANK][place % 2**_RANK] = _NAMES[COPY]
        groups = {
            place: (part, text) for part, values in enumerate(arrays) for text, place, _ in values["contested"].tolist()
        }
        held = {
            (i << _RANK) + number: (language, characters)
            for i, count in enumerate(counts)
            for number, language, characters, _ in count["held"]
        }
        for place, verdict in decide(groups, held, cleaning.holdout_characters, deduplicate=cleaning.deduplicate):
            verdicts[place >> _RANK][place % 2**_RANK] = verdict
        for member, values in zip(ranks, verdicts, strict=True):
            save_array(plan.place("verdicts", f"{member:05d}.npy"), values)


def decide(
    groups: dict[int, tuple[int, int]], held: dict[int, tuple[str, int]], limit: int, *, deduplicate: bool
) -> Iterator[tuple[int, int]]:
    """Yield (place, verdict) of the documents to be held out and their copies, in order.

    groups       place -> the text, of documents whose text occurs several times
    held         place -> (language, characters) of the documents to be held out
    limit        characters held out of a language at most
    deduplicate  whether of copies among the others only the first is kept
    """
    seen: set[tuple[int, int]] = set()
    sizes: Counter[str] = Counter()
    for place in sorted({*groups, *held}):
        text = groups.get(place)
        if place in held:
            language, characters = held[place]
            if sizes[language] + characters > limit:
                yield place, _NAMES[BEYOND]
                continue
            if text in seen:
                yield place, _NAMES[COPY]
                continue
            sizes[language] += characters
            yield place, HOLD
        elif text in seen:
            yield place, _NAMES[COPY if deduplicate else COPY_OF_HELDOUT]
        else:
            yield place, KEEP
        if text is not None and (place in held or deduplicate):
            seen.add(text)


class Kept(DataStep):
    """Reads the kept documents of a rank again; with ``write`` the held-out ones are written too."""

    name = "Kept documents"
    type = "📖 - READER"

    def __init__(self, folder: str, *, write: bool) -> None:
        super().__init__(folder)
        self.write = write

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> Iterator[Item]:
        """Yield what is kept."""
        plan = self.plan
        verdicts = np.load(plan.place("verdicts", f"{rank:05d}.npy")).tolist()
        report = self.report(rank)
        heldout = TextWriter(fresh_folder(plan, "heldout", rank))
        for item, verdict in zip(read_spill(plan, rank), verdicts, strict=True):
            self.stat_update(StatHints.total)
            if verdict == KEEP:
                self.stat_update(StatHints.forwarded)
                yield item
            elif verdict == HOLD:
                report.language(item.metadata["language"]).hold_out(item.text)
                if self.write:
                    heldout.write(item.metadata["language"], item.id, item.text)
            else:
                self.drop(report, item, VERDICTS[verdict])
        if self.write:
            heldout.close()
            self.write_report(rank, report)
