"""Who may ask, and what browsers may do with answers."""

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


def known_hosts(bound: str, allowed: Sequence[str] = ()) -> frozenset[str]:
    """Return the names of a server bound to an address: those given, its own, and the machine's if others reach it."""
    names = {"localhost", bound.lower(), *(name.lower() for name in allowed)}
    if bound not in ("127.0.0.1", "::1", "localhost"):
        machine = socket.gethostname().lower()
        names |= {machine, machine.partition(".")[0]}
    return frozenset(names)


class Guarded:
    """Refuses what pages of other origins ask, and tells browsers not to guess types or load what is not the server's.

    A browser lets any page send requests, if not read the answers; each costs computing. Origin names the page.
    Where the owner of a name points it to this machine (DNS rebinding), the page is of the same origin; then Host has a
    name that is not the server's. An address cannot be pointed elsewhere, so that probes of pods are let through.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], origins: Sequence[str] = ()) -> None:
        self._app, self._hosts, self._origins = app, hosts, frozenset(origins)

    def _fault(self, scope: Scope) -> str | None:
        """Why a request is refused."""
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
        if not host or name in self._hosts or "*" in self._hosts:  # no browser leaves it out
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
    """Without the port and without the brackets of an IPv6 address."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].rstrip(".")
