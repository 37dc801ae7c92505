"""Who may ask, and what browsers may do with answers."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmbert.serving.endpoint import refuse
from mmbert.serving.failures import Refused
from mmbert.serving.routes.site import PUBLIC


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
        same = hmac.compare_digest(given.strip().encode("latin-1"), self._key)  # as bytes came
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
