"""``POST /``: what huggingface_hub's InferenceClient sends, answered by the kind of model and the shape of inputs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from mmbert.errors import ConfigError
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
from mmbert.tokenizer.folder import SPECIALS

M = TypeVar("M", bound=BaseModel)


async def root(asked: Root, context: RequestContext) -> Any:
    """By the shape of ``inputs``, else by what the model (the first, or ``model``) does."""
    inputs, parameters = asked.inputs, asked.parameters or RootParameters()
    if isinstance(inputs, dict) and "source_sentence" in inputs:
        options = parameters.model_dump(include=set(SimilarityParameters.model_fields))
        fields = {"inputs": inputs, "parameters": options, "model": asked.model}
        return await tei.similarity(await read(Similarity, fields, context), context)
    served = context.service.models.find(asked.model)
    if served.handler_for(FillMaskHandler) is not None and not _masked(inputs):
        return await _embed(asked, parameters, context)
    for handler, respond in _RESPOND.items():
        if served.handler_for(handler) is not None:
            return await respond(asked, parameters, context)
    raise AssertionError("a model without an ability")


async def read(schema: type[M], fields: dict[str, Any], context: RequestContext) -> M:
    """A request of another route. Raises ConfigError for what does not fit."""
    given = {key: value for key, value in fields.items() if value is not None}
    try:  # as JSON, as it would have come by its own route
        return await context.offload(context.size, lambda: schema.model_validate_json(orjson.dumps(given)))
    except orjson.JSONEncodeError as error:
        raise ConfigError(f"inputs: {error}: send integers of at most 64 bits") from error
    except ValidationError as error:
        raise ConfigError(explain(error)) from error


def explain(error: ValidationError) -> str:
    """The fault of a request, with its place: of several possible shapes, of the one that it comes closest to.

    That is where a fault lies deepest, and where it is not the type that is wrong.
    """
    faults = error.errors(include_url=False, include_input=False)
    places = [tuple(part for part in fault["loc"] if not _FORM.match(str(part))) for fault in faults]
    place = max(range(len(faults)), key=lambda n: (len(places[n]), not faults[n]["type"].endswith("_type")))
    said = [
        str(fault["msg"]).removeprefix("Value error, ")
        for fault, where in zip(faults, places, strict=True)
        if where == places[place] and fault["type"].endswith("_type") == faults[place]["type"].endswith("_type")
    ]
    begin = "Input should be "
    message = " or ".join([said[0], *(other.removeprefix(begin) for other in dict.fromkeys(said[1:]))])
    others = len({where for where in places if where[:1] != places[place][:1]})
    more = f" (and {others} more)" if others else ""
    dotted = ".".join(map(str, places[place]))
    return f"{dotted}: {message}{more}" if dotted else f"{message}{more}"


_FORM = re.compile(r"(str|int|bool|list\[.*|function-\w+\[.*|[A-Z]\w*)$")
"""What pydantic puts into a place beside the request's own keys: the form of a union that it tried."""


async def _embed(asked: Root, parameters: RootParameters, context: RequestContext) -> Any:
    fields: dict[str, Any] = {key: getattr(asked, key) for key in Embed.model_fields}
    for key in ("normalize", *SimilarityParameters.model_fields):  # clients send them at either place
        fields[key] = getattr(parameters, key) if fields[key] is None else fields[key]
    return await tei.embed(await read(Embed, fields, context), context)


async def _classify(asked: Root, parameters: RootParameters, context: RequestContext) -> Any:
    inputs = asked.inputs
    if isinstance(inputs, dict) and "query" in inputs:
        return await tei.rerank(await read(Rerank, {"model": asked.model, **inputs}, context), context)
    if isinstance(inputs, dict) and "text" in inputs:  # as transformers' pipeline takes a pair
        inputs = [[inputs["text"], *([inputs["text_pair"]] if inputs.get("text_pair") is not None else [])]]
    truncate = asked.truncate if asked.truncate is not None else parameters.truncate
    raw = parameters.function_to_apply == "none"
    _, classifier = context.handler_for(ClassificationHandler, asked.model)
    if not raw and parameters.function_to_apply not in (None, classifier.function):
        raise ConfigError(
            f"parameters.function_to_apply: the model's scores come by {classifier.function}: leave it out, or take none"
        )
    fields = {"inputs": inputs, "truncate": truncate, "raw_scores": raw, "model": asked.model}
    found = await tei.predict(await read(Predict, fields, context), context)
    rows = [found] if found and isinstance(found[0], dict) else found  # the client takes the first row of any answer
    return [row[: parameters.top_k] for row in rows]


async def _tag(asked: Root, parameters: RootParameters, context: RequestContext) -> Any:
    strategy = parameters.aggregation_strategy or "first"
    chosen = "simple" if strategy == "none" else strategy
    fields = {"inputs": asked.inputs, "strategy": chosen, "model": asked.model}
    found = await own.token_classify(await read(TokenClassify, fields, context), context)
    return _each(found, asked.inputs, _entity)


def _entity(entity: dict[str, Any]) -> dict[str, Any]:
    return {
        "entity_group": entity["label"], "score": entity["score"], "word": entity["text"], "start": entity["start"],
        "end": entity["end"],
    }  # fmt: skip


async def _fill(asked: Root, parameters: RootParameters, context: RequestContext) -> Any:
    fields = {"inputs": asked.inputs, "top_k": parameters.top_k, "model": asked.model}
    found = await own.fill_mask(await read(FillMaskRequest, fields, context), context)
    texts = [found] if isinstance(asked.inputs, str) else found
    made = [[[_filled(fill) for fill in mask] for mask in masks] for masks in texts]
    flat = [masks[0] if len(masks) == 1 else masks for masks in made]
    return flat[0] if isinstance(asked.inputs, str) else flat


def _masked(inputs: Any) -> bool:
    texts = inputs if isinstance(inputs, list) else [inputs]
    return any(isinstance(text, str) and SPECIALS["mask"] in text for text in texts)


def _filled(fill: dict[str, Any]) -> dict[str, Any]:
    return {"score": fill["score"], "token": fill["id"], "token_str": fill["token"], "sequence": fill["text"]}


async def _answer(asked: Root, parameters: RootParameters, context: RequestContext) -> Any:
    fields = {"inputs": asked.inputs, "top_k": parameters.top_k, "model": asked.model}
    found = await own.answer(await read(AnswerRequest, fields, context), context)
    answers = [
        {"answer": answer["text"], "start": answer["start"], "end": answer["end"], "score": answer["score"]}
        for answer in (found if isinstance(asked.inputs, dict) else [best for own in found for best in own[:1]])
    ]
    return answers[0] if isinstance(asked.inputs, dict) and len(answers) == 1 else answers


def _each(found: Any, inputs: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    if isinstance(inputs, str):
        return [change(item) for item in found]
    return [[change(item) for item in row] for row in found]


_RESPOND: dict[type[Any], Callable[[Root, RootParameters, RequestContext], Any]] = {
    ClassificationHandler: _classify,
    TaggingHandler: _tag,
    FillMaskHandler: _fill,
    AnswerHandler: _answer,
    EmbeddingHandler: _embed,
}
"""A masked language model fills masks if its inputs hold one, and embeds them if not."""

ROUTES = (Route("/", "By the model's kind, for huggingface_hub's InferenceClient", Root, Any, root),)
