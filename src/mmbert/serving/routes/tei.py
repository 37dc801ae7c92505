"""The routes of text-embeddings-inference."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import BaseModel

from mmbert.serving.context import RequestContext
from mmbert.serving.handlers.classification import ClassificationHandler, RerankHandler
from mmbert.serving.handlers.embedding import EmbeddingHandler
from mmbert.serving.handlers.texts import characters
from mmbert.serving.routes.route import Route
from mmbert.serving.schemas import Decode, Embed, EmbedAll, Predict, Rerank, Similarity, SimilarityParameters, Tokenize
from mmbert.serving.tokens import Token, text_of, tokens_of


class Label(BaseModel):
    label: str
    score: float


class Ranked(BaseModel):
    index: int
    score: float
    text: str | None = None


def check_vectors(
    context: RequestContext, embedding: EmbeddingHandler, texts: int, dimensions: int | None = None
) -> None:
    """Call ``RequestContext.check_count`` for the vectors of so many texts."""
    context.check_count(texts, texts * min(dimensions or embedding.embedder.dimensions, embedding.embedder.widest))


def check_scores(context: RequestContext, labels: list[str], texts: int) -> None:
    """Call ``RequestContext.check_count`` for the scores of all classes of so many texts."""
    context.check_count(texts, texts * 2 * len(labels), texts * characters(labels))


def named_scores(labels: list[str], scores: np.ndarray) -> list[dict[str, Any]]:
    """Return ``[{"label", "score"}]`` of one text, highest score first."""
    order = np.argsort(-scores, kind="stable").tolist()
    return [{"label": labels[index], "score": float(scores[index])} for index in order]


async def embed(request: Embed, context: RequestContext) -> Any:
    """Vectors of texts."""
    served, embedding = context.handler_for(EmbeddingHandler, request.model)
    texts = listed(request.inputs)
    check_vectors(context, embedding, len(texts), request.dimensions)
    cut, normalize = context.cut(request.truncate, request.truncation_direction), request.normalize is not False
    task = embedding.embed(
        texts, prompt=request.prompt_name, dimensions=request.dimensions, normalize=normalize, cut=cut
    )
    return await context.run(served, task)


async def embed_all(request: EmbedAll, context: RequestContext) -> Any:
    """Vectors of all tokens of each text, of <bos> and <eos> too."""
    served, embedding = context.handler_for(EmbeddingHandler, request.model)
    texts = listed(request.inputs)
    context.check_count(len(texts))
    width = embedding.embedder.loaded.config.hidden_size
    cut = context.cut(request.truncate, request.truncation_direction)
    task = embedding.tokens(texts, prompt=request.prompt_name, cut=cut, limit=context.max_numbers // width)
    return await context.run(served, task)


async def rerank(request: Rerank, context: RequestContext) -> list[dict[str, Any]]:
    """Texts ranked for a query, best first."""
    served, ranking = context.handler_for(RerankHandler, request.model)
    context.check_count(
        len(request.texts), 2 * len(request.texts), characters(request.texts) if request.return_text else 0
    )
    cut = context.cut(request.truncate, request.truncation_direction)
    scores = await context.run(
        served, ranking.rank(request.query, request.texts, raw=bool(request.raw_scores), cut=cut)
    )
    order = np.argsort(-scores, kind="stable").tolist()
    results: list[dict[str, Any]] = [{"index": index, "score": float(scores[index])} for index in order]
    if request.return_text:
        for ranked in results:
            ranked["text"] = request.texts[ranked["index"]]
    return results


async def predict(request: Predict, context: RequestContext) -> Any:
    """Classes of a text or a pair [a, b], best first; a list for a list of them."""
    served, classifier = context.handler_for(ClassificationHandler, request.model)
    inputs: list[Any] = [request.inputs] if isinstance(request.inputs, str) else request.inputs
    alone = isinstance(request.inputs, str) or any(isinstance(text, str) for text in inputs)
    items = [_item(inputs)] if alone else [_item(item) for item in inputs]
    check_scores(context, classifier.labels, len(items))
    cut = context.cut(request.truncate, request.truncation_direction)
    scores = await context.run(served, classifier.classify(items, raw=bool(request.raw_scores), cut=cut))
    labels = [named_scores(classifier.labels, row) for row in scores]
    return labels[0] if alone else labels


def _item(item: list[str]) -> str | tuple[str, str]:
    return item[0] if len(item) == 1 else (item[0], item[1])


async def similarity(request: Similarity, context: RequestContext) -> Any:
    """Cosine similarities of a sentence and others."""
    served, embedding = context.handler_for(EmbeddingHandler, request.model)
    context.check_count(len(request.inputs.sentences))
    texts = [request.inputs.source_sentence, *request.inputs.sentences]
    options = request.parameters or SimilarityParameters()
    cut = context.cut(options.truncate, options.truncation_direction)
    vectors = await context.run(served, embedding.embed(texts, prompt=options.prompt_name, cut=cut))
    return vectors[1:] @ vectors[0]


async def tokenize(request: Tokenize, context: RequestContext) -> list[list[Token]]:
    """Tokens of each text as the model reads them."""
    served = context.service.models.find(request.model)
    texts = listed(request.inputs)
    context.check_count(len(texts))
    specials = request.add_special_tokens is not False
    return await context.run(served, tokens_of(served, texts, specials, request.prompt_name, context.max_numbers))


async def decode(request: Decode, context: RequestContext) -> list[str]:
    """Texts of token ids."""
    served = context.service.models.find(request.model)
    rows: Any = request.ids if request.ids and isinstance(request.ids[0], list) else [request.ids]
    context.check_count(len(rows))
    return await context.run(
        served, text_of(served, rows, request.skip_special_tokens is not False, context.max_numbers)
    )


def listed(inputs: str | list[str]) -> list[str]:
    """Return one text as a list of one."""
    return [inputs] if isinstance(inputs, str) else inputs


ROUTES = (
    Route("/embed", embed, list[list[float]], "embed"),
    Route("/embed_all", embed_all, list[list[list[float]]], "embed"),
    Route("/rerank", rerank, list[Ranked], "rerank"),
    Route("/predict", predict, list[Label] | list[list[Label]], "predict"),
    Route("/similarity", similarity, list[float], "embed"),
    Route("/tokenize", tokenize, list[list[Token]], "tokenize"),
    Route("/decode", decode, list[str], "tokenize"),
)
