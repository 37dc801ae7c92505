"""Routes that nobody else offers: entities with their characters, filled masks, answers, passages of long texts."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from mmbert.serving.context import RequestContext
from mmbert.serving.handlers.embedding import EmbeddingHandler
from mmbert.serving.handlers.token_tasks import AnswerHandler, FillMaskHandler, TaggingHandler
from mmbert.serving.routes.route import Route
from mmbert.serving.routes.tei import check_vectors, listed
from mmbert.serving.schemas import AnswerRequest, FillMaskRequest, PassagesRequest, Question, TokenClassify


class EntityAnswer(BaseModel):
    """``text`` is the characters from ``start`` to ``end`` of the input."""

    label: str
    start: int
    end: int
    text: str
    score: float


class FillAnswer(BaseModel):
    """A token for a mask, its probability, and the whole text with it."""

    token: str
    id: int
    score: float
    text: str


class AnswerAnswer(BaseModel):
    text: str
    start: int
    end: int
    score: float


class PassageAnswer(BaseModel):
    start: int
    end: int
    text: str
    embedding: list[float]


async def token_classify(asked: TokenClassify, context: RequestContext) -> Any:
    """The entities of a text; of each text of a list."""
    served, tagging = context.handler_for(TaggingHandler, asked.model)
    texts = listed(asked.inputs)
    context.check_count(len(texts))
    found = [
        [vars(entity) for entity in own]
        for own in await context.ask(served, tagging.tag(texts, strategy=asked.strategy, most=context.most))
    ]
    return found[0] if isinstance(asked.inputs, str) else found


async def fill_mask(asked: FillMaskRequest, context: RequestContext) -> Any:
    """For each mask of a text its fills, best first; of each text of a list."""
    served, filling = context.handler_for(FillMaskHandler, asked.model)
    texts = listed(asked.inputs)
    context.check_count(len(texts))
    fills = await context.ask(served, filling.fill(texts, top_k=asked.top_k, most=context.most))
    found = [[[vars(fill) for fill in mask] for mask in own] for own in fills]
    return found[0] if isinstance(asked.inputs, str) else found


async def answer(asked: AnswerRequest, context: RequestContext) -> Any:
    """Answers to a question in its text, best first; of each question of a list."""
    served, answering = context.handler_for(AnswerHandler, asked.model)
    questions = [asked.inputs] if isinstance(asked.inputs, Question) else asked.inputs
    context.check_count(len(questions))
    pairs = [(question.question, question.context) for question in questions]
    answers = await context.ask(served, answering.answer(pairs, top_k=asked.top_k, most=context.most))
    found = [[vars(answer) for answer in own] for own in answers]
    return found[0] if isinstance(asked.inputs, Question) else found


async def passages(asked: PassagesRequest, context: RequestContext) -> Any:
    """The passages of a text, each with the mean of its tokens' vectors; of each text of a list."""
    served, embedding = context.handler_for(EmbeddingHandler, asked.model)
    texts = listed(asked.inputs)
    check_vectors(context, embedding, len(texts), asked.dimensions)
    task = embedding.passages(
        texts, by=asked.by, size=asked.size, prompt=asked.prompt_name, dimensions=asked.dimensions,
        normalize=asked.normalize, most=context.most,
    )  # fmt: skip
    found = [
        [
            {"start": start, "end": end, "text": own.text[start:end], "embedding": vector}
            for (start, end), vector in zip(own.spans, own.vectors, strict=True)
        ]
        for own in await context.ask(served, task)
    ]
    return found[0] if isinstance(asked.inputs, str) else found


ROUTES = (
    Route(
        "/token_classify", "Entities with their characters", TokenClassify,
        list[EntityAnswer] | list[list[EntityAnswer]], token_classify, "token_classify",
    ),
    Route(
        "/fill_mask", "What stands behind each <mask>", FillMaskRequest,
        list[list[FillAnswer]] | list[list[list[FillAnswer]]], fill_mask, "fill_mask",
    ),
    Route(
        "/answer", "Answers to questions as spans of texts", AnswerRequest,
        list[AnswerAnswer] | list[list[AnswerAnswer]], answer, "answer",
    ),
    Route(
        "/passages", "Passages of long texts with their vectors (late chunking)", PassagesRequest,
        list[PassageAnswer] | list[list[PassageAnswer]], passages, "embed",
    ),
)  # fmt: skip
