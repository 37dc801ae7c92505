"""The Tagger: entities of texts (names, places, parts of speech) with their character offsets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from mmbert.inference.classifier import apply
from mmbert.inference.entities import Entity, Scheme, Strategy, check_strategy, read_entities, trim_spans
from mmbert.inference.load import Loaded
from mmbert.inference.predictor import Predictor, respond
from mmbert.inference.windows import Place, Rows, run_rows, tokenised, windows, with_ends
from mmbert.model.tasks import TaskHead, TokenClassifier
from mmbert.packed import Packed


@dataclass(frozen=True)
class TokenScores:
    """The tokens of one text without <bos> and <eos>.

    ids            (n,)
    spans          (n, 2) characters, without the space before a word
    probabilities  (n, labels)
    """

    text: str
    ids: np.ndarray
    spans: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class TokenMetadata:
    """What the entities of a text are made from, beside the logits of its rows."""

    text: str
    ids: np.ndarray
    spans: np.ndarray
    taken: list[slice]
    """The tokens that are taken from each row."""


class Tagger(Predictor):
    """Entities in texts, by a folder with a ModernBertForTokenClassification.

    It reads raw text, without a list of words, and entities have character offsets. A long text is read in windows that
    overlap, so nothing is cut off.
    """

    kinds = ("tokens",)
    recipe = "ner"

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(loaded)
        assert isinstance(loaded.head, TaskHead)
        self._model = TokenClassifier.around(loaded.encoder, loaded.head).eval()
        self.labels = list((loaded.labels or {}).values())
        self._scheme = Scheme(self.labels)

    def __call__(self, texts: Any, *, strategy: Strategy = "first", progress: bool | None = None) -> Any:
        """Return the entities of a text, a list of such lists for a list; an iterator, in bounded memory, for one.

        strategy  how a word of several tokens gets its label: from its first token (how such models are mostly
                  trained), from the average of its tokens, or from the most certain one (max); simple: each token has
                  its own, so words may be cut
        progress  a bar on stderr; default: for thousands of texts
        """
        check_strategy(strategy)
        return respond(texts, lambda items: self.stream(items, strategy, progress))

    def stream(
        self, texts: Iterable[str], strategy: Strategy = "first", progress: bool | None = None
    ) -> Iterator[list[Entity]]:
        """Yield the entities of each text, in order."""
        for found in self._run(texts, progress):
            yield self.entities(found, strategy)

    def tokens(self, texts: Any, *, progress: bool | None = None) -> Any:
        """Return the probabilities of all labels for each token: TokenScores for a text, a list, or an iterator."""
        return respond(texts, lambda items: self._tokens(items, progress))

    def _tokens(self, texts: Iterable[str], progress: bool | None) -> Iterator[TokenScores]:
        for found in self._run(texts, progress):
            text, ids, spans = found.metadata.text, found.metadata.ids, found.metadata.spans
            yield TokenScores(text, ids, trim_spans(text, spans), _probabilities(found))

    def stream_logits(
        self, texts: Iterable[str], *, progress: bool | None = False
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the characters of each text's tokens (n, 2), and their logits (n, labels) fp32."""
        for found in self._run(texts, progress):
            yield found.metadata.spans, _logits(found)

    def _run(self, texts: Iterable[str], progress: bool | None) -> Iterator[Rows[TokenMetadata]]:
        return run_rows(self.loaded, self.rows(texts), self.logits_of, progress=progress, what="tagging")

    def rows(self, texts: Iterable[str]) -> Iterator[Rows[TokenMetadata]]:
        """Yield each text as the model reads it."""
        for number, text, ids, spans in tokenised(self.loaded, texts):
            places = windows(self.loaded, ids)
            rows = [with_ends(self.loaded, ids[window.start : window.end]) for window in places]
            taken = [slice(window.first - window.start + 1, window.last - window.start + 1) for window in places]
            yield Rows(rows, TokenMetadata(text, ids, spans, taken), number=number, text=text)

    def logits_of(self, packed: Packed, places: Sequence[Place] = (), states: Tensor | None = None) -> list[np.ndarray]:
        """Return (tokens, labels) fp32 for each row of a batch on the model's device, on the host."""
        return packed.unpack(self._model(packed, states).float().cpu().numpy())

    def entities(self, found: Rows[TokenMetadata], strategy: Strategy = "first") -> list[Entity]:
        """Return the entities of a text whose rows have their logits."""
        return read_entities(found.metadata.text, found.metadata.spans, _probabilities(found), self._scheme, strategy)


def _logits(found: Rows[TokenMetadata]) -> np.ndarray:
    """Return (tokens, labels) of a text, each token's from the row that it is taken from."""
    parts = [row[taken] for row, taken in zip(found.results, found.metadata.taken, strict=True)]
    return np.concatenate(parts)


def _probabilities(found: Rows[TokenMetadata]) -> np.ndarray:
    """Return (tokens, labels) of a text, from the logits of its rows."""
    return apply("softmax", _logits(found))
