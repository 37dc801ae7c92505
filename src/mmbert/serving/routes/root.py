"""``POST /`` for huggingface_hub's InferenceClient: answered by the kind of model and the shape of ``inputs``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from mmbert.errors import ConfigError
from mmbert.serving.bodies import explain
from mmbert.serving.context import RequestContext
from mmbert.serving.handlers.classification import ClassificationHandler
from mmbert.serving.handlers.embedding import EmbeddingHandler
from mmbert.serving.handlers.token_tasks import AnswerHandler, FillMaskHandler, TaggingHandler
from mmbert.serving.routes import own, tei
from mmbert.serving.routes.route import Route
from mmbert.serving.schemas import (
    AnswerRequest,
    Embed,
    FillMaskRequest,
    Predict,
    Rerank,
    Root,
    RootParameters,
    Similarity,
    SimilarityParameters,
    TokenClassify,
)

M = TypeVar("M", bound=BaseModel)


async def root(request: Root, context: RequestContext) -> Any:
    """The task of the model, for huggingface_hub's InferenceClient."""
    inputs, parameters = request.inputs, request.parameters or RootParameters()
    if isinstance(inputs, dict) and "source_sentence" in inputs:
        options = parameters.model_dump(include=set(SimilarityParameters.model_fields))
        fields = {"inputs": inputs, "parameters": options, "model": request.model}
        return await tei.similarity(await read(Similarity, fields, context), context)
    served = context.service.models.find(request.model)
    if served.handler_for(FillMaskHandler) is not None and not _masked(
        inputs, served.loaded.tokenizer.specials["mask"]
    ):
        return await _embed(request, parameters, context)
    for handler, respond in _RESPOND.items():
        if served.handler_for(handler) is not None:
            return await respond(request, parameters, context)
    raise AssertionError("a model without a handler")


async def read(schema: type[M], fields: dict[str, Any], context: RequestContext) -> M:
    """Return the request of another route. Raises ConfigError for fields that do not fit."""
    given = {key: value for key, value in fields.items() if value is not None}
    try:  # validated as JSON, as on its own route
        return await context.offload(context.size, lambda: schema.model_validate_json(orjson.dumps(given)))
    except orjson.JSONEncodeError as error:
        raise ConfigError(f"inputs: {error}: send integers of at most 64 bits") from error
    except ValidationError as error:
        raise ConfigError(explain(error)) from error


async def _embed(request: Root, parameters: RootParameters, context: RequestContext) -> Any:
    fields: dict[str, Any] = {key: getattr(request, key) for key in Embed.model_fields}
    for key in ("normalize", *SimilarityParameters.model_fields):  # clients send them in either place
        fields[key] = getattr(parameters, key) if fields[key] is None else fields[key]
    return await tei.embed(await read(Embed, fields, context), context)


async def _classify(request: Root, parameters: RootParameters, context: RequestContext) -> Any:
    inputs = request.inputs
    if isinstance(inputs, dict) and "query" in inputs:
        return await tei.rerank(await read(Rerank, {"model": request.model, **inputs}, context), context)
    if isinstance(inputs, dict) and "text" in inputs:  # a pair in the form of transformers' pipeline
        inputs = [[inputs["text"], *([inputs["text_pair"]] if inputs.get("text_pair") is not None else [])]]
    truncate = request.truncate if request.truncate is not None else parameters.truncate
    raw = parameters.function_to_apply == "none"
    _, classifier = context.handler_for(ClassificationHandler, request.model)
    if not raw and parameters.function_to_apply not in (None, classifier.function):
        raise ConfigError(
            f"parameters.function_to_apply: the model applies {classifier.function}: leave it out, or take none"
        )
    fields = {"inputs": inputs, "truncate": truncate, "raw_scores": raw, "model": request.model}
    labels = await tei.predict(await read(Predict, fields, context), context)
    rows = (
        [labels] if labels and isinstance(labels[0], dict) else labels
    )  # the client reads the first row of any answer
    return [row[: parameters.top_k] for row in rows]


async def _tag(request: Root, parameters: RootParameters, context: RequestContext) -> Any:
    strategy = parameters.aggregation_strategy or "first"
    chosen = "simple" if strategy == "none" else strategy
    fields = {"inputs": request.inputs, "strategy": chosen, "model": request.model}
    found = await own.token_classify(await read(TokenClassify, fields, context), context)
    rows = [found] if isinstance(request.inputs, str) else found
    made = [
        [{"entity_group": e.label, "score": e.score, "word": e.text, "start": e.start, "end": e.end} for e in row]
        for row in rows
    ]
    return made[0] if isinstance(request.inputs, str) else made


async def _fill(request: Root, parameters: RootParameters, context: RequestContext) -> Any:
    fields = {"inputs": request.inputs, "top_k": parameters.top_k, "model": request.model}
    found = await own.fill_mask(await read(FillMaskRequest, fields, context), context)
    texts = [found] if isinstance(request.inputs, str) else found
    made = [
        [[{"score": f.score, "token": f.id, "token_str": f.token, "sequence": f.text} for f in mask] for mask in masks]
        for masks in texts
    ]
    flat = [masks[0] if len(masks) == 1 else masks for masks in made]
    return flat[0] if isinstance(request.inputs, str) else flat


def _masked(inputs: Any, mask: str) -> bool:
    texts = inputs if isinstance(inputs, list) else [inputs]
    return any(isinstance(text, str) and mask in text for text in texts)


async def _answer(request: Root, parameters: RootParameters, context: RequestContext) -> Any:
    fields = {"inputs": request.inputs, "top_k": parameters.top_k, "model": request.model}
    found = await own.answer(await read(AnswerRequest, fields, context), context)
    answers = [
        {"answer": answer.text, "start": answer.start, "end": answer.end, "score": answer.score}
        for answer in (found if isinstance(request.inputs, dict) else [best for own in found for best in own[:1]])
    ]
    return answers[0] if isinstance(request.inputs, dict) and len(answers) == 1 else answers


_RESPOND: dict[type[Any], Callable[[Root, RootParameters, RequestContext], Any]] = {
    ClassificationHandler: _classify,
    TaggingHandler: _tag,
    FillMaskHandler: _fill,
    AnswerHandler: _answer,
    EmbeddingHandler: _embed,
}
"""By kind of handler; a masked language model embeds inputs without a mask."""

ROUTES = (Route("/", root, Any),)
