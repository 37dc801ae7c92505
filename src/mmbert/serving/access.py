"""The access log: a JSON line on stderr for each request, without its texts; and who may ask at all."""

from __future__ import annotations

import hmac
import sys
import time
from datetime import UTC, datetime
from typing import Any

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmbert.serving.endpoint import refuse
from mmbert.serving.failures import Refused
from mmbert.serving.routes.site import PUBLIC


class AccessLog:
    """Writes a line when an answer has been sent."""

    def __init__(self, app: ASGIApp, quiet: bool = False) -> None:
        self._app, self._quiet = app, quiet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._quiet:
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        status, size = 0, 0

        async def noted(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            write_line(scope, status, size, time.perf_counter() - begun)


def write_line(scope: Scope, status: int, size: int, seconds: float) -> None:
    """One request: when, who, what, how it went. Never what was in it."""
    state = scope.get("state", {})
    call, error = state.get("call"), state.get("error")
    line: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "client": (scope.get("client") or ("", 0))[0],
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "ms": round(1000 * seconds, 1),
        "bytes": size,
    }
    if call is not None and call.model is not None:
        timing = call.timing
        line |= {"model": call.model, "texts": call.texts, "tokens": timing.tokens}
        line |= {"queue_ms": round(1000 * timing.queue, 1), "inference_ms": round(1000 * timing.inference, 1)}
    if error is not None:
        line["error"] = error if status != 422 else "unprocessable"
    sys.stderr.write(orjson.dumps(line).decode() + "\n")


class Keys:
    """Asks for the API key, by ``Authorization: Bearer``."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._key = app, key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _public(scope) and not self._known(scope):
            request = Request(scope, receive)
            error = Refused(
                401, "the API key is missing or wrong: send the header Authorization: Bearer KEY",
                {"WWW-Authenticate": "Bearer"},
            )  # fmt: skip
            response, _ = refuse(request, error)
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _known(self, scope: Scope) -> bool:
        kind, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), self._key)
        return same and kind.lower() == "bearer"


def _public(scope: Scope) -> bool:
    """Pages and what tells nothing of texts or models; a browser's question whether it may ask (OPTIONS)."""
    path = scope["path"]
    return scope["method"] == "OPTIONS" or (
        scope["method"] in ("GET", "HEAD") and (path in PUBLIC or path.startswith("/web/"))
    )


class Guarded:
    """Headers that keep browsers from guessing types and from loading what is not the server's own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                if headers.get("content-type", "").startswith("text/html"):
                    headers["Content-Security-Policy"] = (
                        "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"
                    )
            await send(message)

        await self._app(scope, receive, guarded)
