"""The logits of a teacher for the texts of a run, or for their words: by our engine, or by transformers.

They are computed once, before training, and kept beside the run (``mmbert.finetuning.teacher_cache``).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmbert.errors import NotFiniteOutput, TokenizerError, WeightsError, first_line
from mmbert.finetuning.finetune import TEACHER
from mmbert.finetuning.recipe import FinetuneRecipe
from mmbert.finetuning.teacher_cache import LogitCache
from mmbert.finetuning.teacher_config import TeacherConfig
from mmbert.finetuning.word_labels import Span, first_tokens
from mmbert.inference.checks import text_name
from mmbert.inference.entities import trim_spans
from mmbert.inference.load import hash_folder
from mmbert.inference.sequence_classification import SequencePredictor
from mmbert.inference.tagger import Tagger
from mmbert.log import progress
from mmbert.training.distributed import pick_device

log = logging.getLogger(__name__)

Text = str | tuple[str, str]

_LARGEST = float(np.finfo(np.float16).max)


class TextClassifier(SequencePredictor):
    """Logits of texts and pairs by a classifier or a reranker, whatever it is for."""

    kinds = ("sequence",)


class TeacherLogits:
    """The teacher of a run. It is loaded when the first logits are computed."""

    def __init__(self, recipe: FinetuneRecipe, folder: Path, config: TeacherConfig) -> None:
        assert recipe.teacher is not None
        self.config = config
        self._recipe, self._options = recipe, recipe.teacher
        self._folder = folder / TEACHER if recipe.teacher.cache is None else Path(recipe.teacher.cache)
        self._model: Any = None
        self._hash = ""

    def texts(self, role: str, texts: Sequence[Text], places: Sequence[str]) -> np.ndarray:
        """Return the logits (n, labels) of texts and pairs: float16, of one label float32.

        places  of each text, for messages
        Raises WeightsError, which names the place, for NaN.
        """

        def compute(first: int, last: int) -> Iterator[np.ndarray]:
            stream = self._loaded().stream_logits(texts[first:last], progress=True, what=f"teacher on {role}")
            for row in self._named(stream, first, places, texts):
                yield row[None]

        found, _ = self._cache(role, texts, len(self.config.labels) == 1).logits(compute)
        return found

    def words(
        self, role: str, texts: Sequence[str], words: Sequence[Sequence[Span]], places: Sequence[str]
    ) -> list[np.ndarray]:
        """Return the logits (words, labels) float16 of each text: those of the first token of each word.

        words  of each text, by characters. NaN for a word without a token: of white space, or beyond what is read
        """

        def compute(first: int, last: int) -> Iterator[np.ndarray]:
            stream = self._loaded().stream_logits(texts[first:last])
            bar = progress(stream, total=last - first, desc=f"teacher on {role}", unit="text")
            for number, (spans, logits) in enumerate(self._named(bar, first, places, texts), first):
                yield word_rows(texts[number], spans, logits, words[number])

        cache = self._cache(role, [[text, own] for text, own in zip(texts, words, strict=True)])
        found, counts = cache.logits(compute)
        return np.split(found, np.cumsum(counts)[:-1])

    def _cache(self, role: str, texts: Sequence[Any], exact: bool = False) -> LogitCache:
        digest = hashlib.sha256()
        for text in texts:
            digest.update(json.dumps(text).encode() + b"\n")
        self._hash = self._hash or hash_folder(self.config.folder)
        manifest = {
            "teacher": self._hash, "labels": list(self.config.labels), "precision": self._options.precision,
            "texts": digest.hexdigest()[:16],
        }  # fmt: skip
        return LogitCache(self._folder / role, manifest, len(texts), "float32" if exact else "float16")

    def _named(self, stream: Any, first: int, places: Sequence[str], texts: Sequence[Any]) -> Iterator[Any]:
        """Yield the results; of logits that are not numbers, or too large, raise WeightsError with the place."""
        number = first
        limit = _LARGEST if len(self.config.labels) > 1 or self._recipe.task == "tag" else np.inf
        try:
            for result in stream:
                logits = result[1] if isinstance(result, tuple) else result
                if not np.all(np.abs(logits) < limit):  # NaN is not either
                    raise NotFiniteOutput("", number - first)
                yield result
                number += 1
        except NotFiniteOutput as error:
            at = first + error.number
            raise WeightsError(
                f"{places[at]}: the teacher {self.config.name} gives NaN or infinite logits for "
                f"{text_name(at, texts[at])}: remove the row, or set teacher.precision=fp32; what was computed is kept"
            ) from error

    def _loaded(self) -> Any:
        if self._model is None:
            device = pick_device(self._recipe.training.device, "training.device")
            ours: Callable[..., Any] = Tagger.load if self._recipe.task == "tag" else TextClassifier.load
            self._model = load_teacher(ours, self.config, device, self._options.precision)
        return self._model


def load_teacher(ours: Callable[..., Any], config: TeacherConfig, device: str, precision: str) -> Any:
    """Return a teacher on our engine, else as transformers runs it. Raises WeightsError where neither can load it."""
    try:
        return ours(config.folder, device=device, precision=precision)
    except (WeightsError, TokenizerError) as first:
        # It imports sentence-transformers, which takes seconds that most runs need not wait.
        from mmbert.finetuning.teacher_transformers import TransformersTeacher

        try:
            loaded = TransformersTeacher(config.place, device, precision)
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            raise WeightsError(f"teacher.model {config.name}: {first_line(first)} ({first_line(error)})") from error
        log.info("the teacher %s runs in transformers, without packing (%s)", config.name, first_line(first))
        return loaded


def word_rows(text: str, spans: np.ndarray, logits: np.ndarray, words: Sequence[Span]) -> np.ndarray:
    """Return the logits (words, labels) of the first token of each word; NaN for a word without a token.

    spans  (n, 2) characters of the tokens; ``logits`` (n, labels)
    """
    found = np.full((len(words), logits.shape[1]), np.nan, np.float32)
    firsts = first_tokens(trim_spans(text, spans), words)
    found[firsts >= 0] = logits[firsts[firsts >= 0]]
    return found
