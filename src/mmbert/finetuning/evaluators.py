"""What is measured on dev and test, by sentence-transformers' evaluators: one number that decides, and all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.base.model import BaseModel
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
from sentence_transformers.multi_vector_encoder.evaluation import (
    MultiVectorInformationRetrievalEvaluator,
    MultiVectorTripletEvaluator,
)
from sentence_transformers.sentence_transformer.evaluation import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    TranslationEvaluator,
    TripletEvaluator,
)
from sentence_transformers.sparse_encoder.evaluation import (
    SparseEmbeddingSimilarityEvaluator,
    SparseInformationRetrievalEvaluator,
    SparseTranslationEvaluator,
    SparseTripletEvaluator,
)

from mmbert.errors import ConfigError
from mmbert.finetuning.ranking_examples import Group

BATCH = 64
"""Texts per forward pass; packed, so that their lengths may differ."""


@dataclass(frozen=True)
class Measures:
    """The evaluators of one class of models; None where the library has none."""

    retrieval: type[Any]
    triplet: type[Any]
    translation: type[Any] | None
    similarity: type[Any] | None


DENSE = Measures(
    InformationRetrievalEvaluator, TripletEvaluator, TranslationEvaluator, EmbeddingSimilarityEvaluator
)  # fmt: skip
SPARSE = Measures(
    SparseInformationRetrievalEvaluator, SparseTripletEvaluator, SparseTranslationEvaluator,
    SparseEmbeddingSimilarityEvaluator,
)  # fmt: skip
LATE = Measures(MultiVectorInformationRetrievalEvaluator, MultiVectorTripletEvaluator, None, None)


class CombinedEvaluator(BaseEvaluator):  # type: ignore[misc, unused-ignore]
    """Several evaluators as one.

    metric  which of their numbers is ``score``, the one that decides; empty: the mean of what each calls its primary
    """

    def __init__(self, evaluators: Sequence[Any], metric: str = "") -> None:
        super().__init__()
        self.evaluators, self.metric = list(evaluators), metric
        self.primary_metric = "score"

    def __call__(self, model: BaseModel, *_: Any, **__: Any) -> dict[str, float]:
        return self.figures(model)

    def figures(self, model: BaseModel) -> dict[str, float]:
        """Return all numbers by name, and ``score``, larger is better. Raises ConfigError for an unknown metric."""
        found: dict[str, float] = {}
        scores = []
        training = model.training
        model.eval()
        for evaluator in self.evaluators:
            figures = evaluator(model)
            scores.append(float(figures[evaluator.primary_metric]))
            found |= {name: float(value) for name, value in figures.items()}
        model.train(training)
        if self.metric and self.metric not in found:
            raise ConfigError(f"training.metric {self.metric!r} is none of {', '.join(found)}")
        return {"score": found[self.metric] if self.metric else sum(scores) / len(scores), **found}


def make_evaluators(groups: Sequence[Group], kind: str, measures: Measures, *, prompts: bool) -> list[Any]:
    """Return the evaluators of a split.

    kind     the recipe's ``evaluator``
    prompts  the model has some: its queries and documents then differ, which triplets and translations do not know
    Raises ConfigError where the examples do not give what is asked for.
    """
    paired = all(group.scores is not None and not group.margin and len(group.documents) == 1 for group in groups)
    contrasted = all(len(group.documents) > 1 for group in groups)
    if kind == "auto":
        kind = "similarity" if paired else "triplet" if contrasted and not prompts else "retrieval"
    if kind == "retrieval":
        return [_retrieval(groups, measures)]
    if kind == "triplet":
        if not contrasted:
            raise ConfigError("evaluator triplet needs a negative in every example of dev and test: use retrieval")
        return [
            measures.triplet(
                [group.query for group in groups], [group.documents[0] for group in groups],
                [group.documents[1] for group in groups], batch_size=BATCH, write_csv=False,
            )
        ]  # fmt: skip
    maker = measures.translation if kind == "translation" else measures.similarity
    if maker is None:
        raise ConfigError(f"evaluator {kind} compares single vectors, and late interaction has none: use retrieval")
    if kind == "similarity":
        if not paired:
            raise ConfigError("evaluator similarity needs text, text_pair and score in every example of dev and test")
        scores = [group.scores[0] for group in groups if group.scores is not None]
        return [
            maker([group.query for group in groups], [group.documents[0] for group in groups], scores,
                  batch_size=BATCH, write_csv=False)
        ]  # fmt: skip
    languages = sorted({group.language for group in groups})
    return [_translation(maker, [group for group in groups if group.language == code], code) for code in languages]


def rank_candidates(groups: Sequence[Group], candidates: int) -> list[Any]:
    """Return the evaluator of rerankers, which ranks all documents that are given for a query.

    Queries with right documents alone get the nearest others of the split: those that follow them. Raises ConfigError
    where nothing can be ranked.
    """
    right: dict[str, dict[str, None]] = {}
    wrong: dict[str, dict[str, None]] = {}
    for group in groups:
        judged = len(group.documents) == 1 and group.scores is not None
        good = not judged or (group.scores is not None and group.scores[0] >= 0.5)
        (right if good else wrong).setdefault(group.query, {})[group.documents[0]] = None
        wrong.setdefault(group.query, {}).update(dict.fromkeys(group.documents[1:]))
    every = list(dict.fromkeys(document for documents in right.values() for document in documents))
    samples = []
    for number, (query, good_ones) in enumerate(right.items()):
        others = [text for text in wrong.get(query, {}) if text not in good_ones]
        if not others:
            turned = every[number + 1 :] + every[: number + 1]
            others = [text for text in turned if text not in good_ones]
        if others:
            samples.append({"query": query, "positive": list(good_ones), "negative": others[: candidates - 1]})
    if not samples:
        raise ConfigError("dev or test has no query with both a right and a wrong document: nothing can be ranked")
    return [CrossEncoderRerankingEvaluator(samples, at_k=10, batch_size=BATCH, write_csv=False)]


def _retrieval(groups: Sequence[Group], measures: Measures) -> Any:
    """Return the evaluator that ranks all documents of the split for each query; equal texts are one document."""
    queries = {text: f"q{number}" for number, text in enumerate(dict.fromkeys(group.query for group in groups))}
    texts = dict.fromkeys(document for group in groups for document in group.documents)
    documents = {text: f"d{number}" for number, text in enumerate(texts)}
    relevant: dict[str, set[str]] = {}
    for group in groups:
        judged_wrong = group.scores is not None and len(group.documents) == 1 and group.scores[0] < 0.5
        if not judged_wrong:
            relevant.setdefault(queries[group.query], set()).add(documents[group.documents[0]])
    return measures.retrieval(
        {number: text for text, number in queries.items()}, {number: text for text, number in documents.items()},
        relevant, batch_size=BATCH, write_csv=False,
    )  # fmt: skip


def _translation(maker: type[Any], groups: Sequence[Group], language: str) -> Any:
    return maker(
        [group.query for group in groups], [group.documents[0] for group in groups], batch_size=BATCH,
        name=language, write_csv=False,
    )  # fmt: skip
