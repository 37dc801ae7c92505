"""The GET routes: health, models, metrics, the OpenAPI document, and the web page at ``/``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.routing import Route as StarletteRoute
from starlette.staticfiles import StaticFiles

from mmbert.serving.endpoint import check_ready, json_response
from mmbert.serving.handlers.classification import ClassificationHandler, RerankHandler
from mmbert.serving.handlers.embedding import EmbeddingHandler
from mmbert.serving.handlers.token_tasks import TaggingHandler
from mmbert.serving.metrics import CONTENT_TYPE
from mmbert.serving.models import Served
from mmbert.serving.service import Service
from mmbert.version import __version__

WEB = Path(__file__).parents[1] / "web"
"""The web page: ``index.html`` and the files under ``/web/`` that it loads."""

PUBLIC = ("/", "/health", "/metrics", "/openapi.json")
"""Routes that need no key (``/`` by GET), as the files under ``/web/``."""


class Files(StaticFiles):
    """Static files that browsers check again at every visit, so that none runs scripts of an older version."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        """Return the file with ``Cache-Control: no-cache``."""
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "no-cache"
        return response


def site_routes(service: Service, document: dict[str, Any]) -> list[BaseRoute]:
    """Return the GET routes of a service; ``document``: its OpenAPI document."""

    async def health(request: Request) -> Response:
        check_ready(service)
        return Response(status_code=200)

    async def info(request: Request) -> Response:
        check_ready(service)
        served = service.models.find(request.query_params.get("model"))
        return json_response(
            {**describe(service, served), "models": [describe(service, one) for one in service.models]}
        )

    async def models(request: Request) -> Response:
        check_ready(service)
        return json_response({"object": "list", "data": [_card(served) for served in service.models]})

    async def model(request: Request) -> Response:
        check_ready(service)
        return json_response(_card(service.models.find(request.path_params["name"])))

    async def metrics(request: Request) -> Response:
        return Response(service.metrics.page(), media_type=CONTENT_TYPE)

    async def openapi(request: Request) -> Response:
        return json_response(document)

    async def page(request: Request) -> Response:
        if "text/html" in request.headers.get("accept", "") and (WEB / "index.html").is_file():
            return FileResponse(WEB / "index.html", headers={"Cache-Control": "no-cache"})
        return json_response({"name": "mmbert", "version": __version__, "openapi": "/openapi.json"})

    return [
        StarletteRoute("/health", health),
        StarletteRoute("/info", info),
        StarletteRoute("/v1/models", models),
        StarletteRoute("/v1/models/{name:path}", model),
        StarletteRoute("/metrics", metrics),
        StarletteRoute("/openapi.json", openapi),
        StarletteRoute("/", page),
        Mount("/web", Files(directory=WEB, check_dir=False)),
    ]


def describe(service: Service, served: Served) -> dict[str, Any]:
    """Return a model as in text-embeddings-inference's ``/info``, with ``routes``, ``prompts`` and ``dimensions``."""
    limits, loaded = served.engine.limits, served.loaded
    embedding = served.handler_for(EmbeddingHandler)
    return {
        "model_id": served.name,
        "model_sha": None,
        "model_dtype": {"fp32": "float32", "bf16": "bfloat16"}.get(loaded.precision, loaded.precision),
        "served_model_name": served.name,
        "model_type": _kind(served),
        "max_concurrent_requests": limits.requests,
        "max_input_length": served.max_tokens,
        "max_batch_tokens": limits.batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": service.options.max_inputs,
        "auto_truncate": service.options.auto_truncate,
        "tokenization_workers": service.workers,
        "version": __version__,
        "sha": None,
        "docker_label": None,
        "routes": served.routes.split(),
        "kind": loaded.kind,
        "labels": list((loaded.labels or {}).values()),
        "prompts": loaded.prompts,
        "default_prompt": loaded.default_prompt,
        "dimensions": embedding.embedder.dimensions if embedding else None,
        "max_queue_tokens": limits.queue_tokens,
        "device": str(loaded.device),
        "tuned": loaded.tuned,
        "indexes": [{"name": found.name, "records": len(found.index)} for found in service.indexes.of(served)],
    }


def _kind(served: Served) -> dict[str, Any]:
    embedding, classifier, tagging = (
        served.handler_for(EmbeddingHandler),
        served.handler_for(ClassificationHandler),
        served.handler_for(TaggingHandler),
    )
    labels = classifier.labels if classifier else tagging.labels if tagging else []
    numbered = {str(index): label for index, label in enumerate(labels)}
    names = {"id2label": numbered, "label2id": {label: index for index, label in numbered.items()}} if labels else {}
    if classifier is not None:
        return {"reranker" if isinstance(classifier, RerankHandler) else "classifier": names}
    if embedding is not None:
        return {"embedding": {"pooling": "+".join(embedding.embedder.pooling.modes)}}
    return {"token_classifier" if tagging else "question_answering": names}


def _card(served: Served) -> dict[str, Any]:
    return {"id": served.name, "object": "model", "created": served.created, "owned_by": "mmbert"}
