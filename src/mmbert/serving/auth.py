"""API keys, and protection from pages of other origins in browsers."""

from __future__ import annotations

import hmac
import socket
from collections.abc import Sequence
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmbert.serving.endpoint import refuse
from mmbert.serving.errors import Refused
from mmbert.serving.routes.site import PUBLIC


class ApiKeyGuard:
    """Middleware that requires the API key, by ``Authorization: Bearer``."""

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
        same = hmac.compare_digest(given.strip().encode("latin-1"), self._key)  # the bytes on the wire
        return same and kind.lower() == "bearer"


def _public(scope: Scope) -> bool:
    """Return whether a request needs no key: pages, probes, metrics, and CORS preflights (OPTIONS)."""
    path = scope["path"]
    return scope["method"] == "OPTIONS" or (
        scope["method"] in ("GET", "HEAD") and (path in PUBLIC or path.startswith("/web/"))
    )


def known_hosts(bound: str, allowed: Sequence[str] = ()) -> frozenset[str]:
    """Return the host names of a server: those given, its address, and the machine's unless it is bound to loopback."""
    names = {"localhost", bound.lower(), *(name.lower() for name in allowed)}
    if bound not in ("127.0.0.1", "::1", "localhost"):
        machine = socket.gethostname().lower()
        names |= {machine, machine.partition(".")[0]}
    return frozenset(names)


class OriginGuard:
    """Middleware that refuses requests of pages of other origins, and sets security headers.

    A browser lets any page send requests, although it may not read the answers; each costs computing. The header Origin
    names the page. With DNS rebinding (a foreign name that resolves to this machine) the origin is the server's own,
    but Host is a name that the server does not have. An IP address as Host cannot be rebound: probes of pods may pass.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], origins: Sequence[str] = ()) -> None:
        self._app, self._hosts, self._origins = app, hosts, frozenset(origins)

    def _fault(self, scope: Scope) -> str | None:
        """Return why a request is refused, or None."""
        host, origin = "", None
        for name, value in scope["headers"]:
            if name == b"host":
                host = value.decode("latin-1").lower()
            elif name == b"origin":
                origin = value.decode("latin-1").lower()
        if not self._known(host) and scope["path"] != "/health":
            return f"the host {host!r} is not a name of this server: start it with --allowed-host {_hostname(host)}"
        if origin is None or origin.partition("://")[2] == host or not self._origins.isdisjoint((origin, "*")):
            return None
        return f"a page of the origin {origin!r} asks: start the server with --cors-allow-origin {origin} to let it"

    def _known(self, host: str) -> bool:
        name = _hostname(host)
        if not host or name in self._hosts or "*" in self._hosts:  # every browser sends it
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        fault = self._fault(scope)
        if fault is not None:
            response, _ = refuse(Request(scope, receive), Refused(403, fault))
            await response(scope, receive, send)
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


def _hostname(host: str) -> str:
    """Return a host without its port, and an IPv6 address without brackets."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].rstrip(".")
