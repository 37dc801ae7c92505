"""The routes of OpenAI, Cohere and Jina under ``/v1/``: embeddings and reranking; and infinity's classify."""

from __future__ import annotations

import base64
import time
from typing import Any, Literal
from uuid import uuid4

import numpy as np
from pydantic import BaseModel

from mmbert.serving.context import RequestContext
from mmbert.serving.handlers.classification import ClassificationHandler, RerankHandler
from mmbert.serving.handlers.embedding import EmbeddingHandler
from mmbert.serving.handlers.texts import characters
from mmbert.serving.routes.route import Route
from mmbert.serving.routes.tei import Label, check_scores, check_vectors, listed, named_scores
from mmbert.serving.schemas import Classify, Document, Embeddings, RerankDocuments


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingItem(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsAnswer(BaseModel):
    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    usage: Usage


class RankedDocument(BaseModel):
    index: int
    relevance_score: float
    document: Document | None = None


class RerankAnswer(BaseModel):
    object: Literal["rerank"]
    id: str
    results: list[RankedDocument]
    model: str
    usage: Usage


class ClassifyAnswer(BaseModel):
    object: Literal["classify"]
    id: str
    created: int
    data: list[list[Label]]
    model: str
    usage: Usage


async def embeddings(request: Embeddings, context: RequestContext) -> dict[str, Any]:
    """Vectors of texts (OpenAI); with late_chunking the inputs are chunks of one document (Jina)."""
    served, embedding = context.handler_for(EmbeddingHandler, request.model)
    texts = listed(request.input)
    check_vectors(context, embedding, len(texts), request.dimensions)
    if request.late_chunking:
        task = embedding.chunks(texts, prompt=request.prompt_name, dimensions=request.dimensions)
    else:
        cut = context.cut(request.truncate)
        task = embedding.embed(texts, prompt=request.prompt_name, dimensions=request.dimensions, cut=cut)
    vectors = await context.run(served, task)
    rows: list[Any] = list(vectors)
    if request.encoding_format == "base64":
        little = vectors.astype("<f4")
        rows = [base64.b64encode(row.tobytes()).decode() for row in little]
    data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
    return {"object": "list", "data": data, "model": served.name, "usage": _usage(context)}


async def rerank(request: RerankDocuments, context: RequestContext) -> dict[str, Any]:
    """Documents ranked for a query, best first (Cohere, Jina)."""
    served, ranking = context.handler_for(RerankHandler, request.model)
    texts = [document if isinstance(document, str) else document.text for document in request.documents]
    context.check_count(len(texts), 2 * len(texts), characters(texts) if request.return_documents else 0)
    task = ranking.rank(request.query, texts, raw=bool(request.raw_scores), cut=context.cut(request.truncate))
    scores = await context.run(served, task)
    results: list[dict[str, Any]] = [
        {"index": index, "relevance_score": float(scores[index])}
        for index in np.argsort(-scores, kind="stable").tolist()[: request.top_n]
    ]
    if request.return_documents:
        for result in results:
            result["document"] = {"text": texts[result["index"]]}
    named = {"object": "rerank", "id": f"rerank-{uuid4().hex}", "model": served.name}
    return {**named, "results": results, "usage": _usage(context)}


async def classify(request: Classify, context: RequestContext) -> dict[str, Any]:
    """Classes of texts with their scores, best first (infinity)."""
    served, classifier = context.handler_for(ClassificationHandler, request.model)
    texts = listed(request.input)
    check_scores(context, classifier.labels, len(texts))
    task = classifier.classify(texts, raw=bool(request.raw_scores), cut=context.cut(request.truncate))
    scores = await context.run(served, task)
    named = {"object": "classify", "id": f"classify-{uuid4().hex}", "created": int(time.time()), "model": served.name}
    return {**named, "data": [named_scores(classifier.labels, row) for row in scores], "usage": _usage(context)}


def _usage(context: RequestContext) -> dict[str, int]:
    return {"prompt_tokens": context.timing.tokens, "total_tokens": context.timing.tokens}


ROUTES = (
    Route("/v1/embeddings", embeddings, EmbeddingsAnswer, "embed"),
    Route("/v1/rerank", rerank, RerankAnswer, "rerank"),
    Route("/classify", classify, ClassifyAnswer, "predict"),
)
