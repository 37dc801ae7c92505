"""Near-duplicates in a source, by datatrove's four stages of MinHash.

(1) :class:`Signatures` writes the hashes of every rank's documents, (2) :class:`Buckets` finds pairs that agree in a
whole band, (3) :class:`Clusters` joins pairs to clusters, (4) :class:`DropNear` keeps one document of each cluster.
``shingles`` defines what is compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from datatrove.data import Document as Item
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.utils.hashing import HashConfig
from datatrove.utils.word_tokenizers import WordTokenizer
from numpy.typing import NDArray

from mmbert.data.distributed.pipeline_steps import DataStep
from mmbert.data.distributed.shingles import shingles, smallest
from mmbert.data.distributed.task_plan import TaskPlan
from mmbert.data.store import SourceReport

NEAR = "near_duplicate"
"""The reason to drop a document."""


class _NoWords(WordTokenizer):  # type: ignore[misc]  # datatrove has no types
    """Replaces the word tokenizer of a language that datatrove would load."""

    def word_tokenize(self, text: str) -> list[str]:
        raise NotImplementedError

    sent_tokenize = span_tokenize = word_tokenize


class _Signature(MinhashDedupSignature):  # type: ignore[misc]
    """datatrove's first stage with our words and a faster implementation of its arithmetic."""

    def get_shingles(self, text: str) -> NDArray[np.uint64]:
        return shingles(text, self.config.n_grams)

    def get_signature(self, found: NDArray[np.uint64]) -> list[list[int]]:
        return [band.tolist() for band in np.split(smallest(found, *self.parameters), self.config.num_buckets)]


def config(plan: TaskPlan) -> Any:
    """Return datatrove's options for those of the recipe."""
    spec = plan.recipe.cleaning.near_duplicates
    assert spec is not None, "these stages run if the recipe asks for them"
    hashing = HashConfig(precision=64, hash_fc="sha1")  # only its width counts here; the other one needs xxhash
    return MinhashConfig(
        n_grams=spec.ngram, num_buckets=spec.buckets, hashes_per_bucket=spec.hashes, hash_config=hashing
    )


class _Near(DataStep):
    """A MinHash stage that runs datatrove's own step on one source."""

    type = "🫂 - DEDUP"

    def folder_of(self, what: str, source: str) -> str:
        """Return the folder for what a stage finds in a source."""
        return str(self.plan.place("minhash", what, source))

    def local(self, rank: int) -> tuple[str, int, int]:
        """Return (source, number of the rank within it, its ranks)."""
        source = self.plan.ranks[rank].source
        ranks = self.plan.sources[source]
        return source, ranks.index(rank), len(ranks)


class Signatures(_Near):
    """Stage 1, one task for each rank."""

    name = "MinHash 1: signatures"

    def run(self, data: Iterable[Item], rank: int = 0, world_size: int = 1) -> None:
        """Write the signatures of a rank's documents."""
        source, *place = self.local(rank)
        _Signature(self.folder_of("signatures", source), config(self.plan), _NoWords()).run(data, *place)


class Buckets(_Near):
    """Stage 2, one task for each band of a source."""

    name = "MinHash 2: buckets"

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> None:
        """Write the pairs that agree in a band."""
        options = config(self.plan)
        number, bucket = divmod(rank, options.num_buckets)
        source = list(self.plan.sources)[number]
        folders = (self.folder_of("signatures", source), self.folder_of("buckets", source))
        MinhashDedupBuckets(*folders, config=options).run(None, bucket, options.num_buckets)


class Clusters(_Near):
    """Stage 3, one task for each source."""

    name = "MinHash 3: clusters"

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> None:
        """Write the numbers of the documents to remove from every rank."""
        source = list(self.plan.sources)[rank]
        folders = (self.folder_of("buckets", source), self.folder_of("clusters", source))
        MinhashDedupCluster(*folders, config(self.plan)).run(None, 0, 1)


class DropNear(_Near):
    """Stage 4, one task for each rank, on the documents of stage 1."""

    name = "MinHash 4: filter"

    def run(self, data: Iterable[Item], rank: int = 0, world_size: int = 1) -> Iterator[Item]:
        """Yield one document of every cluster, and count the others."""
        source, *place = self.local(rank)
        report = self.report(rank)
        counter = _Counter(self, report)
        yield from MinhashDedupFilter(self.folder_of("clusters", source), counter).run(data, *place)
        self.write_report(rank, report)


class _Counter:
    """Counts dropped documents where datatrove would write them."""

    def __init__(self, step: DataStep, report: SourceReport) -> None:
        self._step = step
        self._report = report

    def __enter__(self) -> _Counter:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def write(self, item: Item, rank: int) -> None:
        """Count a document."""
        self._step.drop(self._report, item, NEAR)
