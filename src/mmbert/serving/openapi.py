"""The OpenAPI 3.1 document of a server, made of the same types that check its requests."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from mmbert.serving.routes.route import Route
from mmbert.version import __version__

_REFERENCE = "#/components/schemas/{model}"

_FAULTS = {
    400: "The body is no JSON, or holds no text.",
    401: "The API key is missing or wrong.",
    403: "A page of another origin asks, or the server is not known by this name.",
    404: "No model of this name is served.",
    408: "The body did not come in time.",
    413: "A text is longer than the model reads, or the request is too large.",
    415: "The body does not say that it is JSON.",
    422: "The body has another shape, or an option does not fit the model.",
    424: "No model here can do this, or the model failed.",
    429: "Too much waits. Retry-After says when to come again.",
    503: "The models are loading, or the server is going down.",
}


class Fault(BaseModel):
    """text-embeddings-inference's error."""

    error: str
    error_type: str


class OpenAIFaultInner(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIFault(BaseModel):
    """OpenAI's error, of the routes under ``/v1/``."""

    error: OpenAIFaultInner


def make_document(routes: tuple[Route, ...], *, key: bool) -> dict[str, Any]:
    """The whole document. ``key``: an API key is asked for."""
    adapters = [TypeAdapter(route.gives) for route in routes]
    kinds: list[type[BaseModel]] = list(dict.fromkeys([*(route.asks for route in routes), Fault, OpenAIFault]))
    asked, schemas = models_json_schema([(kind, "validation") for kind in kinds], ref_template=_REFERENCE)
    given, more = TypeAdapter.json_schemas(
        [(index, "serialization", adapter) for index, adapter in enumerate(adapters)],
        ref_template=_REFERENCE, schema_generator=GenerateJsonSchema,
    )  # fmt: skip
    paths: dict[str, Any] = {path: {"get": operation} for path, operation in _GET.items()}
    for index, route in enumerate(routes):
        operation = {
            "summary": route.summary,
            "operationId": route.path.strip("/").replace("/", "_") or "root",
            "requestBody": {
                "required": True, "content": {"application/json": {"schema": asked[(route.asks, "validation")]}}
            },
            "responses": {
                "200": {"description": "The answer.", **_content(given[(index, "serialization")])},
                **_faults("OpenAIFault" if route.path.startswith("/v1/") else "Fault"),
            },
        }  # fmt: skip
        paths.setdefault(route.path, {})["post"] = operation
    components: dict[str, Any] = {"schemas": {**more.get("$defs", {}), **schemas.get("$defs", {})}}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "mmbert serve", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": components,
    }
    if key:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _faults(name: str) -> dict[str, Any]:
    schema = {"$ref": _REFERENCE.format(model=name)}
    return {str(status): {"description": text, **_content(schema)} for status, text in _FAULTS.items()}


def _get(summary: str, *, faults: str | None = "Fault", content: dict[str, Any] | None = None) -> dict[str, Any]:
    chosen = {} if faults is None else {s: f for s, f in _faults(faults).items() if s in ("401", "403", "404", "503")}
    return {"summary": summary, "responses": {"200": {"description": "The answer.", **(content or {})}, **chosen}}


_OBJECT = _content({"type": "object"})

_GET = {
    "/": _get("The page, or what this is", faults=None),
    "/health": _get("200 when the models are ready"),
    "/info": _get("The models, their limits and routes", content=_OBJECT),
    "/v1/models": _get("The models (OpenAI)", faults="OpenAIFault", content=_OBJECT),
    "/metrics": _get("Metrics for Prometheus", faults=None),
    "/openapi.json": _get("This document", faults=None, content=_OBJECT),
}
