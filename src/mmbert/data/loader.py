"""From shards to the steps of a phase: masked, packed micro-batches, made ahead in a thread.

    with Loader(recipe, "pretrain", folder, tokenizer, cursor) as loader:
        for step in loader: ...             # step.cursor_after goes into the checkpoint

The steps are a pure function of (recipe, shards, cursor): any number of ranks, with or without the thread, stopped
and resumed after any step, sees the same micro-batches with the same masks.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from mmbert.data.corpus import Corpus
from mmbert.data.manifest import Manifest
from mmbert.data.mask import HasVocabulary, Vocabulary, count_labels, generator, mask
from mmbert.data.mixture import Mixture, mixture
from mmbert.data.pack import Bin, Cursor, assemble, compose, offsets_of
from mmbert.data.plan import Plan, batch_at
from mmbert.errors import TrainingError
from mmbert.packed import Packed
from mmbert.recipe import Recipe

log = logging.getLogger(__name__)

_SHUTDOWN_SECONDS = 30.0


class TokenizerInfo(HasVocabulary, Protocol):
    """What a loader asks of a tokenizer."""

    @property
    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class Step:
    """What one optimiser step trains on."""

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


class Loader:
    """Iterates over the steps of a phase, from a cursor to its end.

    folder     the shards' folder, with manifest.json
    cursor     ``cursor_after`` of the last step that was trained on
    rank       this process's number out of ``world``; it gets micro-batches rank, rank + world, ... of each step
    prefetch   steps made ahead in a thread; 0: made when asked for
    verify     read all shards once and compare their checksums
    Raises DataError for missing or damaged shards, TokenizerError if another tokenizer made them, ConfigError if the
    phase cannot be drawn from them.
    """

    def __init__(
        self,
        recipe: Recipe,
        phase: str,
        folder: Path,
        tokenizer: TokenizerInfo,
        cursor: Cursor | None = None,
        *,
        rank: int = 0,
        world: int = 1,
        prefetch: int = 2,
        verify: bool = False,
    ) -> None:
        self._phase = recipe.phases[phase]
        self._place = (recipe.seed, phase)
        self._cursor = cursor or Cursor()
        self._rank, self._world = rank, world
        manifest = Manifest.load(folder, verify=verify)
        manifest.check_tokenizer(tokenizer.fingerprint, str(folder))
        if verify:
            log.info("%s: %d tokens read, every checksum holds", folder, manifest.tokens)
        self._vocabulary = Vocabulary.of(tokenizer)
        self.mixture: Mixture = mixture(self._phase, manifest.sizes())
        streams = [(stream.source, stream.language) for stream in self.mixture.streams]
        self._corpus = Corpus(folder, manifest, streams, self._phase.context)
        self.plan = Plan(self.mixture, self._corpus.blocks_per_stream.tolist(), recipe.seed, phase)
        self._stop = threading.Event()
        self._queue: queue.Queue[Step | BaseException | None] = queue.Queue(max(prefetch, 1))
        self._thread: threading.Thread | None = None
        self._steps = self._make_steps()
        if prefetch:
            self._thread = threading.Thread(target=self._work, name=f"loader {phase}", daemon=True)
            self._thread.start()

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        if self._thread is None:
            return next(self._steps)
        while not self._stop.is_set():
            item = self._queue.get()
            if isinstance(item, Step):
                return item
            self.close()
            if item is not None:
                raise item
        raise StopIteration

    def close(self) -> None:
        """Stop the thread and wait for it. The loader is at its end afterwards."""
        self._stop.set()
        self._steps = iter(())
        if self._thread is not None:
            self._thread.join(_SHUTDOWN_SECONDS)
            if self._thread.is_alive():
                raise TrainingError(f"{self._thread.name} does not stop: is the disk of the shards reachable?")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _work(self) -> None:
        """The thread: make steps until told to stop; the end or an error is the last item."""
        last: BaseException | None = None
        try:
            for step in self._make_steps():
                if not self._put(step):
                    return
        except BaseException as error:  # handed over and raised in the consumer's thread
            last = error
        self._put(last)

    def _put(self, item: Step | BaseException | None) -> bool:
        """Hand an item over; False if nobody wants it any more."""
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def _make_steps(self) -> Iterator[Step]:
        cursor, phase = self._cursor, self._phase
        while cursor.tokens < phase.tokens:
            batch = batch_at(phase, cursor.tokens)
            left = -(-(phase.tokens - cursor.tokens) // phase.micro_batch)
            num_bins = min(batch // phase.micro_batch, left)
            bins, after = compose(self.plan, self._corpus, cursor, num_bins, phase.micro_batch)
            yield self._make_step(cursor, bins, after, batch)
            cursor = after

    def _make_step(self, cursor: Cursor, bins: list[Bin], after: Cursor, batch: int) -> Step:
        """Assemble and mask this rank's bins; of the others only the labels are counted."""
        micro_batches: list[Packed] = []
        labels = 0
        rate = self._phase.mask_rate
        for number, pieces in enumerate(bins):
            bits = generator(*self._place, cursor.draw, cursor.offset, number)
            if number % self._world != self._rank:
                labels += count_labels(offsets_of(pieces), rate, bits)
                continue
            ids, offsets = assemble(pieces, self._vocabulary.bos, self._vocabulary.eos)
            shown, targets, hidden = mask(ids, offsets, rate, bits, self._vocabulary)
            labels += len(targets)
            longest = int((offsets[1:] - offsets[:-1]).max())
            micro_batches.append(Packed(shown, offsets, longest, targets, hidden).to("cpu"))
        return Step(cursor.step, micro_batches, labels, after.tokens - cursor.tokens, batch, after)
