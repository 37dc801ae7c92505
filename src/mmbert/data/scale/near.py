"""Near-duplicates among the documents of a source: datatrove's four stages of MinHash, source by source.

(1) :class:`Signatures` writes the hashes of every rank's documents, (2) :class:`Buckets` finds pairs that agree in a
whole band, (3) :class:`Clusters` joins pairs to clusters, (4) :class:`DropNear` keeps one document of each.
What a word is knows no language: what stands between spaces or, in scripts that are written without them, a character.
So no segmenter of any language is needed, and none of datatrove's large extras.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

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

from mmbert.data.scale.plan import Plan
from mmbert.data.scale.steps import Step
from mmbert.data.store import SourceReport

NEAR = "near_duplicate"
"""The reason to drop a document."""

_UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf"  # Thai, Lao, Tibetan ...
    "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua4cf\ua980-\ua9df\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORDS = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


class Words(WordTokenizer):  # type: ignore[misc]  # datatrove has no types
    """Words of any language."""

    def word_tokenize(self, text: str) -> list[str]:
        """Runs between spaces; characters of scripts that have none."""
        return _WORDS.findall(text)

    def sent_tokenize(self, text: str) -> list[str]:
        """Not asked for by MinHash: the text is one sentence."""
        return [text]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Not asked for by MinHash: the text is one span."""
        return [(0, len(text))]


def config(plan: Plan) -> Any:
    """datatrove's options, by those of the recipe."""
    spec = plan.recipe.cleaning.near_duplicates
    assert spec is not None, "these stages run if the recipe asks for them"
    # SHA-1: datatrove 0.10's other choice hands text to xxhash, which takes only bytes since version 4.
    hashing = HashConfig(precision=64, hash_fc="sha1")
    return MinhashConfig(
        n_grams=spec.ngram, num_buckets=spec.buckets, hashes_per_bucket=spec.hashes, hash_config=hashing
    )


class _Near(Step):
    """A stage of MinHash, which datatrove's own step does for one source."""

    type = "🫂 - DEDUP"

    def folder_of(self, what: str, source: str) -> str:
        """Where a stage leaves what it finds in a source."""
        return str(self.plan.place("minhash", what, source))

    def local(self, rank: int) -> tuple[str, int, int]:
        """(source, number of the rank within it, its ranks)."""
        source = self.plan.ranks[rank].source
        ranks = self.plan.sources[source]
        return source, ranks.index(rank), len(ranks)


class Signatures(_Near):
    """Stage 1; one task a rank."""

    name = "MinHash 1: signatures"

    def run(self, data: Iterable[Item], rank: int = 0, world_size: int = 1) -> None:
        """Write the signatures of a rank's documents."""
        source, *place = self.local(rank)
        MinhashDedupSignature(self.folder_of("signatures", source), config(self.plan), Words()).run(data, *place)


class Buckets(_Near):
    """Stage 2; one task a band of a source."""

    name = "MinHash 2: buckets"

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> None:
        """Write the pairs that agree in a band."""
        options = config(self.plan)
        number, bucket = divmod(rank, options.num_buckets)
        source = list(self.plan.sources)[number]
        folders = (self.folder_of("signatures", source), self.folder_of("buckets", source))
        MinhashDedupBuckets(*folders, config=options).run(None, bucket, options.num_buckets)


class Clusters(_Near):
    """Stage 3; one task a source."""

    name = "MinHash 3: clusters"

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> None:
        """Write the numbers of the documents to remove from every rank."""
        source = list(self.plan.sources)[rank]
        folders = (self.folder_of("buckets", source), self.folder_of("clusters", source))
        MinhashDedupCluster(*folders, config(self.plan)).run(None, 0, 1)


class DropNear(_Near):
    """Stage 4; one task a rank, on the documents of stage 1."""

    name = "MinHash 4: filter"

    def run(self, data: Iterable[Item], rank: int = 0, world_size: int = 1) -> Iterator[Item]:
        """Pass on one document of every cluster, and count the others."""
        source, *place = self.local(rank)
        report = self.report(rank)
        counter = _Counter(self, report)
        yield from MinhashDedupFilter(self.folder_of("clusters", source), counter).run(data, *place)
        self.write_report(rank, report)


class _Counter:
    """Stands where datatrove would write the documents that it drops."""

    def __init__(self, step: Step, report: SourceReport) -> None:
        self._step = step
        self._report = report

    def __enter__(self) -> _Counter:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def write(self, item: Item, rank: int) -> None:
        """Count a document."""
        self._step.drop(self._report, item, NEAR)
