"""The ASGI application: the routes, and around them API keys, checks of origin, CORS and logs."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from mmbert.errors import MMBertError
from mmbert.serving.access import AccessLog
from mmbert.serving.auth import ApiKeyGuard, OriginGuard, known_hosts
from mmbert.serving.endpoint import endpoint, refuse
from mmbert.serving.errors import Refused
from mmbert.serving.lines import Lines
from mmbert.serving.openapi import make_document
from mmbert.serving.routes import openai, own, root, tei
from mmbert.serving.routes.site import site_routes
from mmbert.serving.service import Service
from mmbert.serving.tracing import Tracer

ROUTES = (*openai.ROUTES, *tei.ROUTES, *own.ROUTES, *root.ROUTES)
"""All POST routes."""


def make_app(
    service: Service, *, host: str = "127.0.0.1", lines: Lines | None = None, tracer: Tracer | None = None
) -> Starlette:
    """Return the ASGI application of a service, whose models may be added later.

    host    the address that the server is bound to
    lines   receives the access log; None: no access log
    """
    options = service.options
    document = make_document(ROUTES, key=options.api_key is not None)
    routes = [StarletteRoute(route.path, endpoint(route, service), methods=["POST"]) for route in ROUTES]
    origins = [origin.lower().rstrip("/") for origin in options.cors]  # as browsers send them
    hosts = known_hosts(host, options.allowed_hosts)
    middleware = [
        Middleware(AccessLog, lines=lines, tracer=tracer),
        Middleware(OriginGuard, hosts=hosts, origins=origins),
    ]
    if origins:
        middleware.append(Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"]))
    if options.api_key is not None:
        middleware.append(Middleware(ApiKeyGuard, key=options.api_key))
    app = Starlette(
        routes=[*routes, *site_routes(service, document)],
        middleware=middleware,
        exception_handlers={MMBertError: _refused, HTTPException: _not_found, Exception: _broken},
    )
    app.router.redirect_slashes = False  # a redirection would repeat the Host that the client sent
    return app


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, MMBertError)
    return refuse(request, error)[0]


async def _not_found(request: Request, error: Exception) -> Response:
    """Return starlette's own errors in the form of the route's family."""
    assert isinstance(error, HTTPException)
    what = {404: "there is nothing at", 405: f"{request.method} is not for"}.get(error.status_code, str(error.detail))
    message = f"{what} {request.scope['path']}: GET /openapi.json lists the routes"
    return refuse(request, Refused(error.status_code, message, error.headers))[0]


async def _broken(request: Request, error: Exception) -> Response:
    """Return 500; starlette raises the error again after the answer, so that its traceback is on stderr."""
    return refuse(request, Refused(500, "an error of the server: its log has the traceback"))[0]
