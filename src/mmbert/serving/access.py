"""The access log: a JSON line on stderr for each request, without its texts; and its trace, where traces are sent."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmbert.serving.errors import shortened
from mmbert.serving.lines import Lines
from mmbert.serving.tracing import Tracer


class AccessLog:
    """Middleware that writes a line, and a trace if there is a ``tracer``, when an answer has been sent."""

    def __init__(self, app: ASGIApp, lines: Lines | None = None, tracer: Tracer | None = None) -> None:
        self._app, self._lines, self._tracer = app, lines, tracer

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
            if self._lines is not None:
                self._lines.put(describe(scope, status, size, seconds))
            if self._tracer is not None:
                self._tracer.record(scope, status, seconds)


def describe(scope: Scope, status: int, size: int, seconds: float) -> str:
    """Return the line of a request as JSON, without anything of its body."""
    state = scope.get("state", {})
    context, error = state.get("context"), state.get("error")
    line: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "client": (scope.get("client") or ("", 0))[0],
        "method": shortened(scope["method"]),
        "path": shortened(scope["path"]),
        "status": status,
        "ms": round(1000 * seconds, 1),
        "bytes": size,
    }
    if context is not None and context.model is not None:
        timing = context.timing
        line |= {"model": context.model, "texts": context.texts, "tokens": timing.tokens}
        line |= {"queue_ms": round(1000 * timing.queue, 1), "inference_ms": round(1000 * timing.inference, 1)}
    if error is not None:
        line["error"] = error
    return orjson.dumps(line).decode()
