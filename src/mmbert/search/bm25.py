"""BM25 for hybrid search, over the model's own subwords, so that no language needs a word segmenter.

Texts are folded (NFKC, then case) and split by the model's tokenizer as if a space preceded them. bm25s weighs the
passages that exist when it is built. Passages that are added later are weighed by the same formula with the statistics
of the build, until there are too many of them and everything is built again. Nothing is built before the first hybrid
query.
"""

from __future__ import annotations

import logging
import math
import shutil
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mmbert.errors import MissingExtra, MMBertError
from mmbert.files import atomic_folder, file_crc32, read_json, write_json
from mmbert.locks import try_lock
from mmbert.log import progress
from mmbert.search.records import IndexState, Records
from mmbert.search.vector_store import Found, largest
from mmbert.tokenizer.tokenizer import Tokenizer

log = logging.getLogger(__name__)

K1, B = 1.5, 0.75
"""bm25s's own; method lucene: idf = log(1 + (N - df + 0.5) / (df + 0.5)), tf / (tf + k1 (1 - b + b length / mean))."""

FRESH = 1000
"""Passages that may come before all is built again; or a twentieth of those that are built, if that is more."""

_CHUNK = 2048
"""Texts tokenised at once."""

_SHOWN = 20_000
"""Passages from which a bar is shown while they are weighed."""

_NAME = "words"

_SUMS = "sums.json"

_LOCK = "words.lock"
"""Whoever weighs words for itself may keep them; it must not stand in a writer's way."""


class Bm25:
    """BM25 scores of all passages for a query."""

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        try:
            import bm25s
        except ImportError as error:
            raise MissingExtra("bm25s", "search") from error
        self._library = bm25s
        self._folder, self._tokenizer = folder, tokenizer
        self._model: Any = None
        self._generation = -1
        self._rows = np.zeros(0, np.int64)
        """The row of each passage that bm25s knows."""
        self._mean = 1.0
        """Their mean length in tokens."""
        self._columns: dict[int, int] = {}
        """bm25s's number of each token."""
        self._next = 0
        """Rows from here on are not known yet."""
        self._fresh: list[tuple[int, np.ndarray]] = []
        """Passages that came later: row and tokens."""

    def refresh(self, records: Records, state: IndexState) -> None:
        """Take up what was added. Called where ``records`` are being read."""
        if self._generation != state.generation:
            self._forget()
            if not self._load(state):
                self._build(records, state)
            self._generation = state.generation
        if self._next < state.rows:
            if state.rows - self._next + len(self._fresh) > max(FRESH, len(self._rows) // 20):
                self._build(records, state)
                return
            later = list(records.texts(self._next))
            tokens = self._cut([text for _, text in later])
            self._fresh += [(row, ids) for (row, _), ids in zip(later, tokens, strict=True)]
            self._next = state.rows

    def search(self, query: str, k: int, allowed: np.ndarray | None) -> Found:
        """Return the ``k`` best rows for the query, among those that share a token with it."""
        rows, scores = self._scores(query)
        scores[scores <= 0] = -np.inf
        if allowed is not None:
            scores[~allowed[rows]] = -np.inf
        best = largest(scores, k)
        return rows[best], scores[best]

    def scores_of(self, query: str, wanted: np.ndarray) -> np.ndarray:
        """Return the scores of rows (n,)."""
        rows, scores = self._scores(query)
        places = np.searchsorted(rows, wanted)
        known = np.minimum(places, max(len(rows) - 1, 0))
        return np.where(rows[known] == wanted, scores[known], 0) if len(rows) else np.zeros(len(wanted), np.float32)

    def _scores(self, query: str) -> Found:
        """Return all known rows, ascending, and their scores."""
        (ids,) = self._cut([query])
        columns = [self._columns[index] for index in ids.tolist() if index in self._columns]
        scores = np.zeros(len(self._rows), np.float32)
        if columns:
            scores = self._model.get_scores_from_ids(columns)
        later = np.array([row for row, _ in self._fresh], np.int64)
        return np.concatenate([self._rows, later]), np.concatenate([scores, self._weigh(ids.tolist())])

    def _weigh(self, query: list[int]) -> np.ndarray:
        """Return the scores of passages that were added after the statistics were built."""
        scores = np.zeros(len(self._fresh), np.float32)
        if not self._fresh:
            return scores
        lengths = np.array([len(ids) for _, ids in self._fresh])
        tokens = np.concatenate([ids for _, ids in self._fresh])
        places = np.repeat(np.arange(len(lengths)), lengths)
        norm = K1 * (1 - B + B * lengths / self._mean)
        for index, times in Counter(query).items():
            counts = np.bincount(places[tokens == index], minlength=len(lengths))
            having = self._frequency(index)
            rarity = math.log(1 + (len(self._rows) - having + 0.5) / (having + 0.5))
            scores += times * rarity * counts / (counts + norm)
        return scores

    def _frequency(self, index: int) -> int:
        """Return the number of passages known to bm25s that hold this token."""
        column = self._columns.get(index)
        if column is None:
            return 0
        ends = self._model.scores["indptr"]
        return int(ends[column + 1] - ends[column])

    def _cut(self, texts: Sequence[str]) -> list[np.ndarray]:
        return self._tokenizer.encode_batch([f" {fold(text)}" for text in texts])

    def _forget(self) -> None:
        self._model, self._rows, self._columns, self._fresh, self._next = None, np.zeros(0, np.int64), {}, [], 0

    def _build(self, records: Records, state: IndexState) -> None:
        """Build the statistics of all passages, and save them unless another process is writing."""
        numbers: dict[int, int] = {}
        lists: list[list[int]] = []
        rows: list[int] = []
        texts = records.texts(0)
        with ExitStack() as stack:
            bar = (
                progress[Any](desc="weighing words", unit="passage", total=state.rows) if state.rows > _SHOWN else None
            )
            if bar is not None:
                stack.enter_context(bar)
            while chunk := list(islice(texts, _CHUNK)):
                rows += [row for row, _ in chunk]
                tokens = self._cut([text for _, text in chunk])
                lists += [[numbers.setdefault(index, len(numbers)) for index in ids.tolist()] for ids in tokens]
                if bar is not None:
                    bar.update(len(chunk))
        self._forget()
        self._next = state.rows
        self._rows, self._columns = np.array(rows, np.int64), numbers
        self._mean = sum(map(len, lists)) / max(len(lists), 1) or 1.0
        if not numbers:
            return
        self._model = self._library.BM25(k1=K1, b=B, method="lucene")
        vocabulary = {str(index): column for index, column in numbers.items()}
        self._model.index((lists, vocabulary), create_empty_token=False, show_progress=False)
        self._save(state)

    def _save(self, state: IndexState) -> None:
        try:
            with try_lock(self._folder / _LOCK) as held:
                if held:
                    with atomic_folder(self._place(state)) as place:
                        self._model.save(place, show_progress=False)
                        np.save(place / "rows.npy", self._rows)
                        values = {"next": self._next, "mean": self._mean, "tokenizer": self._tokenizer.fingerprint}
                        write_json(place / "state.json", values)
                        write_json(place / _SUMS, _sums(place))
        except OSError as error:
            log.warning("%s is not kept (%s): the next process will weigh all words again", self._place(state), error)

    def _load(self, state: IndexState) -> bool:
        """Load the statistics that another process saved. Return False unless they are whole and of this tokenizer."""
        place = self._place(state)
        if not place.is_dir():
            return False
        try:
            whole = read_json(place / _SUMS) == _sums(place)
        except MMBertError:
            whole = False
        if not whole:
            log.warning("%s is damaged: weighing all words again", place)
            return False
        values = read_json(place / "state.json")
        if values["tokenizer"] != self._tokenizer.fingerprint or values["next"] > state.rows:
            return False
        self._model = self._library.BM25.load(place, mmap=True, show_progress=False)
        self._rows = np.load(place / "rows.npy", allow_pickle=False)
        self._columns = {int(name): column for name, column in self._model.vocab_dict.items()}
        self._next, self._mean = values["next"], values["mean"]
        return True

    def _place(self, state: IndexState) -> Path:
        return bm25_path(self._folder, state.generation)


def _sums(place: Path) -> dict[str, int]:
    """Return file name -> CRC-32 of each other file of the folder."""
    return {file.name: file_crc32(file) for file in sorted(place.iterdir()) if file.name != _SUMS}


def fold(text: str) -> str:
    """Return a text without differences that search ignores: forms of a character, and case."""
    return unicodedata.normalize("NFKC", text).casefold()


def bm25_path(folder: Path, generation: int) -> Path:
    """Return the folder of the BM25 statistics of a generation."""
    return folder / f"{_NAME}-{generation:04d}"


def drop_bm25(folder: Path, generation: int) -> None:
    """Remove what is kept for other generations."""
    for place in folder.glob(f"{_NAME}-*"):
        if place != bm25_path(folder, generation):
            shutil.rmtree(place, ignore_errors=True)
