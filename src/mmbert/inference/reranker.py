"""The Reranker: documents ranked for a query by a cross-encoder, which reads query and document together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmbert.errors import ConfigError, WeightsError
from mmbert.inference.checks import check_texts, kind_of, many_texts, one_text, whole
from mmbert.inference.sentence_transformers_folder import ACTIVATIONS, activation_name
from mmbert.inference.sequence_classification import SequencePredictor


@dataclass(frozen=True)
class Ranked:
    """A document: its index in the list, its score, its text."""

    index: int
    score: float
    text: str


class Reranker(SequencePredictor):
    """Scores of (query, document) pairs, by any folder with a ModernBertForSequenceClassification.

    The activation of scores is the one that the folder names, else, as in sentence-transformers, a sigmoid for one
    label and none for several.
    """

    kinds = ("sequence",)
    recipe = "rerank"

    def __call__(
        self, query: str, documents: Iterable[str], *, top_k: int | None = None, progress: bool | None = None
    ) -> list[Ranked]:
        """Return the documents, best first, or the ``top_k`` best; equal scores keep the given order.

        Raises ConfigError for an empty query or a model with several labels.
        """
        asked, texts = _query(query), _documents(documents)
        if top_k is not None:
            top_k = whole("top_k", top_k)
        scores = self._scores(asked, texts, progress)
        order = sorted(range(len(texts)), key=lambda index: -scores[index])
        return [Ranked(index, scores[index], texts[index]) for index in order[:top_k]]

    def _scores(self, query: str, texts: list[str], progress: bool | None) -> list[float]:
        self._one_label()
        rows = self.stream_logits([(query, text) for text in texts], progress=progress, what="ranking")
        activation = self.activation
        return [float(activation(torch.from_numpy(row))) for row in rows]

    def _one_label(self) -> None:
        if len(self.labels) != 1:
            raise ConfigError(
                f"{self.loaded.folder} has {len(self.labels)} labels, ranking needs one score: use predict"
            )

    @property
    def activation(self) -> torch.nn.Module:
        """The activation of scores. Raises WeightsError if the folder names one that is not torch's."""
        if self.loaded.activation is None:
            return ACTIVATIONS["Sigmoid" if len(self.labels) == 1 else "Identity"]()
        try:
            return ACTIVATIONS[activation_name(self.loaded.activation, str(self.loaded.folder))]()
        except WeightsError as error:
            raise WeightsError(f"{error}; predict(..., activation_fn=torch.nn.Identity()) gives raw scores") from error

    def stream(self, pairs: Iterable[Any], *, progress: bool | None = None) -> Iterator[Any]:
        """Yield the score of each (query, document), in order: a number, or (labels,) for several labels."""
        activation, one = self.activation, len(self.labels) == 1
        for row in self.stream_logits(pairs, progress=progress, what="ranking"):
            scores = activation(torch.from_numpy(row)).numpy()
            yield float(scores[0]) if one else scores

    def predict(
        self,
        inputs: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Any = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | None = None,
        pool: Any = None,
        chunk_size: int | None = None,
        *,
        sentences: Any = None,
    ) -> Any:
        """Return scores of pairs as CrossEncoder.predict: (n,) or (n, labels); one pair gives one.

        ``sentences`` is the older name of ``inputs``. Batches are made by tokens: ``batch_size`` is not used.
        """
        pairs = sentences if inputs is None else inputs
        self.check_unused(batch_size, device, pool, chunk_size)
        listed = list(many_texts(pairs, "inputs", "pairs of texts", pairs=True))
        single = isinstance(pairs, list | tuple | np.ndarray) and len(listed) == 2 and isinstance(listed[0], str)
        listed = [tuple(listed)] if single else listed
        chosen = self.loaded.check_prompt(prompt_name) if prompt is None else prompt
        rows = list(self.stream_logits(listed, prompt=chosen, progress=bool(show_progress_bar), what="ranking"))
        if not rows:
            return torch.tensor([]) if convert_to_tensor else np.array([]) if convert_to_numpy else []
        scores = (self.activation if activation_fn is None else activation_fn)(torch.from_numpy(np.stack(rows)))
        if len(self.labels) == 1 and scores.ndim > 1:
            scores = scores.squeeze(-1)
        if apply_softmax and scores.ndim > 1:
            scores = scores.softmax(dim=1)
        if convert_to_tensor:
            out: Any = scores.to(self.loaded.device)
        else:
            out = scores.numpy() if convert_to_numpy else list(scores)
        return out[0] if single else out

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Any = None,
        device: str | None = None,
        pool: Any = None,
        chunk_size: int | None = None,
    ) -> list[dict[str, Any]]:
        """Return ``[{"corpus_id": 2, "score": 0.9}, ...]`` as CrossEncoder.rank; "text" too if ``return_documents``."""
        self._one_label()
        asked, documents = _query(query), _documents(documents)
        scores = self.predict(
            [(asked, text) for text in documents], prompt_name, prompt, batch_size, show_progress_bar, activation_fn,
            device=device, pool=pool, chunk_size=chunk_size,
        )  # fmt: skip
        results: list[dict[str, Any]] = [
            {"corpus_id": index, "score": score, **({"text": documents[index]} if return_documents else {})}
            for index, score in enumerate(scores.tolist())
        ]
        return sorted(results, key=lambda result: result["score"], reverse=True)[:top_k]


def _query(query: Any) -> str:
    text = one_text(query)
    if text is None or not text.strip():
        raise ConfigError(f"the query is {kind_of(query)}, not a str" if text is None else "the query is empty")
    return text


def _documents(documents: Any) -> list[str]:
    texts = list(many_texts(documents, "documents", "a list of str"))
    check_texts(texts, what="document")
    return texts
