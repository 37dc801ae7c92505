"""The steps of a phase: masked, packed micro-batches, as a function of the cursor.

    steps = Steps(recipe, "pretrain", folder, tokenizer)
    for step in steps.after(cursor): ...            # step.cursor_after goes into the checkpoint

The steps are a pure function of (recipe, shards, the run's bad shards, cursor): any number of ranks, stopped and
resumed after any step, sees the same micro-batches with the same masks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mmbert.data.bad_shards import BadShards, LeftOut, advised
from mmbert.data.corpus import Corpus
from mmbert.data.manifest import Manifest
from mmbert.data.mask import HasVocabulary, Vocabulary, count_labels, generator, mask
from mmbert.data.mixture import Mixture, mixture
from mmbert.data.pack import Bin, Cursor, assemble, compose, offsets_of
from mmbert.data.plan import Plan, batch_at
from mmbert.data.whole_words import WholeWords
from mmbert.errors import BadShard
from mmbert.packed import Packed
from mmbert.recipe import Recipe

log = logging.getLogger(__name__)


class TokenizerInfo(HasVocabulary, Protocol):
    """The tokenizer attributes that steps need."""

    @property
    def fingerprint(self) -> str: ...
    def token_texts(self) -> list[str]: ...


class Place(Protocol):
    """The rank of this process among those that train together, such as a ``Mesh``."""

    @property
    def rank(self) -> int: ...
    @property
    def world(self) -> int: ...


@dataclass(frozen=True)
class Rank:
    """Process ``rank`` of ``world``."""

    rank: int = 0
    world: int = 1


ALONE = Rank()


@dataclass(frozen=True)
class Step:
    """The data of one optimiser step."""

    index: int
    """Number of the step within the phase."""
    micro_batches: list[Packed]
    """Those of this rank, as torch tensors; none if there are fewer micro-batches than ranks."""
    labels: int
    """Labels over all ranks: what the sum of losses is divided by."""
    tokens: int
    """Places of all ranks' micro-batches: how far the clock of the phase advances."""
    batch: int
    """Tokens of a full step at this place of the batch warm-up; ``tokens`` is less at the end of the phase only."""
    cursor_after: Cursor
    """Where the next step begins."""


class Steps:
    """The steps of one phase on one rank.

    folder  the shards' folder, with manifest.json
    place   this process among all; it gets micro-batches rank, rank + world, ... of each step
    bad     the shards that the run goes on without; None where there is no run
    Raises DataError for missing or damaged shards, TokenizerError if another tokenizer made them, ConfigError if the
    phase cannot be drawn from them.
    """

    def __init__(
        self,
        recipe: Recipe,
        phase: str,
        folder: Path,
        tokenizer: TokenizerInfo,
        place: Place = ALONE,
        bad: BadShards | None = None,
    ) -> None:
        self.name = phase
        self._phase = recipe.phases[phase]
        self._seed = recipe.seed_of(phase)
        self._place = place
        self._bad = bad
        self._left_out: frozenset[str] = frozenset()
        self._skip = recipe.runtime.on_bad_shard == "skip"
        manifest = Manifest.read(folder)  # each shard is looked at when it is first drawn from
        manifest.check_tokenizer(tokenizer.fingerprint, str(folder))
        self._vocabulary = Vocabulary.of(tokenizer)
        self._words = WholeWords(tokenizer.token_texts()) if self._phase.whole_words else None
        self.mixture: Mixture = mixture(self._phase, manifest.sizes())
        streams = [(stream.source, stream.language) for stream in self.mixture.streams]
        self._corpus = Corpus(folder, manifest, streams, self._phase.context, self._vocabulary.size)
        self.plan = Plan(self.mixture, self._corpus.blocks_per_stream.tolist(), self._seed, phase)

    def after(self, cursor: Cursor) -> Iterator[Step]:
        """Yield the steps from a cursor (``cursor_after`` of the last trained step) to the end of the phase."""
        phase = self._phase
        while cursor.tokens < phase.tokens:
            batch = batch_at(phase, cursor.tokens)
            left = -(-(phase.tokens - cursor.tokens) // phase.micro_batch)
            num_bins = min(batch // phase.micro_batch, left)
            self._leave_out_known(cursor)
            try:
                bins, after = compose(self.plan, self._corpus, cursor, num_bins, phase.micro_batch)
                step = self._make_step(cursor, bins, after, batch)
            except BadShard as error:
                self._leave_out(error, cursor)
                continue
            yield step
            cursor = after

    def _leave_out_known(self, cursor: Cursor) -> None:
        """Leave out the shards on the run's list for a step that begins here."""
        # By cursor, not at once: a resumed run must leave out a shard from the same step on as the run that met the
        # damage.
        files = self._bad.at(self.name, cursor.draw, cursor.offset) if self._bad else frozenset()
        if files != self._left_out:
            self._left_out, part = files, self._corpus.leave_out(files)
            if part and self._place.rank == 0:
                log.warning("%s goes without %.2g %% of its tokens: damaged shards", self.name, 100 * part)

    def _leave_out(self, error: BadShard, cursor: Cursor) -> None:
        """Put a damaged shard on the run's list, if it may go on without it; else raise the error.

        Other ranks cannot know of it in the middle of a step: with several, the run ends and is to be started again.
        """
        if self._bad is None:
            raise error
        if not self._skip:
            raise advised(error) from error
        shard = self._corpus.info(error.path)
        left_out = LeftOut(
            file=shard.file, documents=shard.documents, tokens=shard.tokens, fault=error.fault,
            phase=self.name, draw=cursor.draw, offset=cursor.offset,
        )  # fmt: skip
        self._bad.add([left_out])
        # The list is on disk before the error is raised, so the restarted run finds it on all ranks.
        if self._place.world > 1:
            raise BadShard(
                error.path, error.fault, "run the same command again: it goes on without this shard"
            ) from error

    def _make_step(self, cursor: Cursor, bins: list[Bin], after: Cursor, batch: int) -> Step:
        """Assemble and mask this rank's bins; for the bins of other ranks only count the labels.

        For whole words that takes their text: each rank reads all of the step.
        """
        micro_batches: list[Packed] = []
        labels = 0
        # Every rank walks over all bins of the step: the loss is divided by the labels of all of them.
        rate = self._phase.mask_rate
        for number, segments in enumerate(bins):
            bits = generator(self._seed, self.name, cursor.draw, cursor.offset, number)
            # By the number of the bin, not by the rank: with another number of ranks each bin keeps its masks.
            mine = number % self._place.world == self._place.rank
            # Which tokens are chosen depends on lengths alone, so other ranks' labels cost no reading of their text.
            if not mine and self._words is None:
                labels += count_labels(offsets_of(segments), rate, bits)
                continue
            ids, offsets = assemble(segments, self._vocabulary.bos, self._vocabulary.eos)
            shown, targets, hidden = mask(ids, offsets, rate, bits, self._vocabulary, self._words)
            labels += len(targets)
            if not mine:
                continue
            longest = int((offsets[1:] - offsets[:-1]).max())
            micro_batches.append(Packed(shown, offsets, longest, targets, hidden).to("cpu"))
        return Step(cursor.step, micro_batches, labels, after.tokens - cursor.tokens, batch, after)
