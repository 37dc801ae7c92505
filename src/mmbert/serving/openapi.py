"""The OpenAPI 3.1 document of a server, generated from the types that check its requests."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, TypeAdapter

from mmbert.serving.routes.route import Route
from mmbert.version import __version__

_REFERENCE = "#/components/schemas/{model}"

_FAULTS = {
    400: "The body is not JSON, or holds no text.",
    401: "The API key is missing or wrong.",
    403: "A page of another origin asks, or the server is not known by this name.",
    404: "No model of this name is served.",
    408: "The body did not arrive in time.",
    413: "A text is longer than the model reads, or the request is too large.",
    415: "The body is not declared as JSON.",
    422: "The body has another shape, or an option does not fit the model.",
    424: "No model here can do this, or the model failed.",
    429: "Too many requests wait. Retry-After says when to try again.",
    503: "The models are loading, or the server is stopping.",
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


_GET = {
    "/": ("The web page, or name and version", ()),
    "/health": ("200 when the models are ready", (401, 403, 404, 503)),
    "/info": ("The models, their limits and routes", (401, 403, 404, 503)),
    "/v1/models": ("The models (OpenAI)", (401, 403, 404, 503)),
    "/metrics": ("Metrics for Prometheus", ()),
    "/openapi.json": ("This document", ()),
}
"""Summary and errors of each GET route."""


def make_document(routes: tuple[Route, ...], *, key: bool) -> dict[str, Any]:
    """Return the whole document. ``key``: requests need an API key."""
    inputs: list[Any] = [(kind.__name__, "serialization", TypeAdapter(kind)) for kind in (Fault, OpenAIFault)]
    inputs += [(("request", route.path), "validation", TypeAdapter(route.schema)) for route in routes]
    inputs += [(("answer", route.path), "serialization", TypeAdapter(route.answer_type)) for route in routes]
    schemas, definitions = TypeAdapter.json_schemas(inputs, ref_template=_REFERENCE)

    def responses(path: str, statuses: tuple[int, ...], answer: dict[str, Any] | None) -> dict[str, Any]:
        fault = schemas["OpenAIFault" if path.startswith("/v1/") else "Fault", "serialization"]
        faults = {str(status): {"description": _FAULTS[status], **_content(fault)} for status in statuses}
        return {"200": {"description": "The answer.", **(_content(answer) if answer else {})}, **faults}

    paths: dict[str, Any] = {}
    for path, (summary, statuses) in _GET.items():
        answer = {"type": "object"} if path in ("/info", "/v1/models", "/openapi.json") else None
        paths[path] = {"get": {"summary": summary, "responses": responses(path, statuses, answer)}}
    for route in routes:
        path = route.path
        paths.setdefault(path, {})["post"] = {
            "summary": (route.handle.__doc__ or "").partition("\n")[0],
            "operationId": path.strip("/").replace("/", "_") or "root",
            "requestBody": {"required": True, **_content(schemas[("request", path), "validation"])},
            "responses": responses(path, tuple(_FAULTS), schemas[("answer", path), "serialization"]),
        }
    components: dict[str, Any] = {"schemas": definitions.get("$defs", {})}
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
