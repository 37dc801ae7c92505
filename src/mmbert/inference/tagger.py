"""Texts to entities: names, places, parts of speech, with their characters in the text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmbert.inference.classifier import apply
from mmbert.inference.entities import Entity, Scheme, Strategy, check_strategy, read_entities, trim_spans
from mmbert.inference.load import Loaded
from mmbert.inference.predictor import Facade, respond
from mmbert.inference.windows import Rows, run_rows, tokenised, windows, with_ends
from mmbert.model.tasks import TaskHead, TokenClassifier
from mmbert.packed import Packed


@dataclass(frozen=True)
class TokenScores:
    """The tokens of one text, <bos> and <eos> apart.

    ids            (n,)
    spans          (n, 2) characters, the space before a word left out
    probabilities  (n, labels)
    """

    text: str
    ids: np.ndarray
    spans: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True)
class TokenMetadata:
    """What is known of a text while its rows are computed."""

    text: str
    ids: np.ndarray
    spans: np.ndarray
    taken: list[slice]
    """Of each row, the tokens that are taken from it."""


class Tagger(Facade):
    """Entities in texts, by a folder with a ModernBertForTokenClassification.

    The raw text is read, and entities are characters of it: no words need to be given. A long text goes in windows that
    overlap, so nothing is cut off.
    """

    kinds = ("tokens",)
    recipe = "ner.yaml"

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(loaded)
        assert isinstance(loaded.head, TaskHead)
        self._model = TokenClassifier.around(loaded.encoder, loaded.head).eval()
        self.labels = list((loaded.labels or {}).values())
        self._scheme = Scheme(self.labels)

    def __call__(self, texts: Any, *, strategy: Strategy = "first", progress: bool | None = None) -> Any:
        """A text -> its entities; a list -> a list of such lists; an iterator -> an iterator, in bounded memory.

        strategy  what a word of several tokens is: as its first token says (how such models are mostly trained), its
                  tokens' average, or its surest (max); simple: tokens are taken one by one, words may be cut
        progress  a bar on stderr; default: where there are thousands of texts
        """
        check_strategy(strategy)
        return respond(texts, lambda items: self.stream(items, strategy, progress))

    def stream(
        self, texts: Iterable[str], strategy: Strategy = "first", progress: bool | None = None
    ) -> Iterator[list[Entity]]:
        """The entities of each text, in order."""
        for found in self._run(texts, progress):
            yield self.entities(found, strategy)

    def tokens(self, texts: Any, *, progress: bool | None = None) -> Any:
        """Probabilities of every label for every token: a text -> TokenScores; a list -> a list; or an iterator."""
        return respond(texts, lambda items: self._tokens(items, progress))

    def _tokens(self, texts: Iterable[str], progress: bool | None) -> Iterator[TokenScores]:
        for found in self._run(texts, progress):
            metadata = found.metadata
            yield TokenScores(
                metadata.text, metadata.ids, trim_spans(metadata.text, metadata.spans), _probabilities(found)
            )

    def _run(self, texts: Iterable[str], progress: bool | None) -> Iterator[Rows[TokenMetadata]]:
        return run_rows(self.loaded, self.rows(texts), self.logits_of, progress=progress, what="tagging")

    def rows(self, texts: Iterable[str]) -> Iterator[Rows[TokenMetadata]]:
        """Each text as the model reads it."""
        for number, text, ids, spans in tokenised(self.loaded, texts):
            places = windows(self.loaded, ids)
            rows = [with_ends(self.loaded, ids[window.start : window.end]) for window in places]
            taken = [slice(window.first - window.start + 1, window.last - window.start + 1) for window in places]
            yield Rows(rows, TokenMetadata(text, ids, spans, taken), number=number, text=text)

    def logits_of(self, packed: Packed) -> list[np.ndarray]:
        """(tokens, labels) fp32 of each row of a batch on the model's device, on the host."""
        return packed.unpack(self._model(packed).float().cpu().numpy())

    def entities(self, found: Rows[TokenMetadata], strategy: Strategy = "first") -> list[Entity]:
        """The entities of a text whose rows have their logits."""
        return read_entities(found.metadata.text, found.metadata.spans, _probabilities(found), self._scheme, strategy)


def _probabilities(found: Rows[TokenMetadata]) -> np.ndarray:
    """(tokens, labels) of a text, from the logits of its rows."""
    parts = [row[taken] for row, taken in zip(found.results, found.metadata.taken, strict=True)]
    return apply("softmax", np.concatenate(parts))
