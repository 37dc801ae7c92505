"""The access log: a JSON line on stderr for each request, without its texts; and its trace, where traces are sent."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmbert.serving.tracing import Tracer


class AccessLog:
    """Writes a line when an answer has been sent, unless ``quiet``, and a trace, if there is a ``tracer``."""

    def __init__(self, app: ASGIApp, quiet: bool = False, tracer: Tracer | None = None) -> None:
        self._app, self._quiet, self._tracer = app, quiet, tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
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
            seconds = time.perf_counter() - begun
            if not self._quiet:
                write_line(scope, status, size, seconds)
            if self._tracer is not None:
                self._tracer.record(scope, status, seconds)


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
        line["error"] = error
    sys.stderr.write(orjson.dumps(line).decode() + "\n")
