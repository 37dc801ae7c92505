"""The routes of mmbert: entities with character offsets, filled masks, answers, passages of long texts, search."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from mmbert.inference.answerer import Answer
from mmbert.inference.entities import Entity
from mmbert.inference.fill_mask import Fill
from mmbert.search.query import Hit
from mmbert.serving.context import RequestContext
from mmbert.serving.handlers.embedding import EmbeddingHandler
from mmbert.serving.handlers.token_tasks import AnswerHandler, FillMaskHandler, TaggingHandler
from mmbert.serving.routes.route import Route
from mmbert.serving.routes.tei import check_vectors, listed
from mmbert.serving.schemas import (
    AnswerRequest,
    FillMaskRequest,
    PassagesRequest,
    Question,
    SearchRequest,
    TokenClassify,
)


class PassageAnswer(BaseModel):
    start: int
    end: int
    text: str
    embedding: list[float]


async def token_classify(request: TokenClassify, context: RequestContext) -> Any:
    """Entities of a text with their character offsets; a list for a list."""
    served, tagging = context.handler_for(TaggingHandler, request.model)
    texts = listed(request.inputs)
    context.check_count(len(texts))
    entities = await context.run(served, tagging.tag(texts, strategy=request.strategy, limit=context.max_numbers))
    return entities[0] if isinstance(request.inputs, str) else entities


async def fill_mask(request: FillMaskRequest, context: RequestContext) -> Any:
    """Tokens for each <mask> of a text, best first; a list for a list."""
    served, filling = context.handler_for(FillMaskHandler, request.model)
    texts = listed(request.inputs)
    context.check_count(len(texts))
    fills = await context.run(served, filling.fill(texts, top_k=request.top_k, limit=context.max_numbers))
    return fills[0] if isinstance(request.inputs, str) else fills


async def answer(request: AnswerRequest, context: RequestContext) -> Any:
    """Answers to a question as spans of its text, best first; a list for a list."""
    served, answering = context.handler_for(AnswerHandler, request.model)
    questions = [request.inputs] if isinstance(request.inputs, Question) else request.inputs
    context.check_count(len(questions))
    pairs = [(question.question, question.context) for question in questions]
    answers = await context.run(served, answering.answer(pairs, top_k=request.top_k, limit=context.max_numbers))
    return answers[0] if isinstance(request.inputs, Question) else answers


async def passages(request: PassagesRequest, context: RequestContext) -> Any:
    """Passages of a long text with their vectors (late chunking); a list for a list."""
    served, embedding = context.handler_for(EmbeddingHandler, request.model)
    texts = listed(request.inputs)
    check_vectors(context, embedding, len(texts), request.dimensions)
    task = embedding.passages(
        texts, by=request.by, size=request.size, prompt=request.prompt_name, dimensions=request.dimensions,
        normalize=request.normalize, limit=context.max_numbers,
    )  # fmt: skip
    found = [
        [
            {"start": start, "end": end, "text": own.text[start:end], "embedding": vector}
            for (start, end), vector in zip(own.spans, own.vectors, strict=True)
        ]
        for own in await context.run(served, task)
    ]
    return found[0] if isinstance(request.inputs, str) else found


async def search(request: SearchRequest, context: RequestContext) -> Any:
    """Texts of an index that are nearest to a query, best first; a list for a list."""
    index = context.index_for(request.index, request.model)
    queries = listed(request.inputs)
    context.check_count(len(queries), len(queries) * request.top_k)
    task = index.search(queries, top_k=request.top_k, where=request.where, limit=context.max_numbers)
    found = await context.run(index.model, task)
    return found[0] if isinstance(request.inputs, str) else found


ROUTES = (
    Route("/token_classify", token_classify, list[Entity] | list[list[Entity]], "token_classify"),
    Route("/fill_mask", fill_mask, list[list[Fill]] | list[list[list[Fill]]], "fill_mask"),
    Route("/answer", answer, list[Answer] | list[list[Answer]], "answer"),
    Route("/passages", passages, list[PassageAnswer] | list[list[PassageAnswer]], "embed"),
    Route("/search", search, list[Hit] | list[list[Hit]], "embed"),
)
