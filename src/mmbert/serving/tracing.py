"""OpenTelemetry: a span for each request, with spans for tokenising, queue and inference, sent by OTLP over HTTP."""

from __future__ import annotations

import time
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from mmbert.errors import MissingExtra
from mmbert.version import __version__


class Tracer:
    """Sends spans to ``endpoint`` (http://localhost:4318), in the background. Raises MissingExtra."""

    def __init__(self, endpoint: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ModuleNotFoundError as error:
            raise MissingExtra("opentelemetry-sdk", "otel") from error
        resource = Resource.create({"service.name": "mmbert", "service.version": __version__})
        self._provider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + "/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("mmbert.serving", __version__)
        self._parents = TraceContextTextMapPropagator()

    def record(self, scope: Scope, status: int, seconds: float) -> None:
        """Record an answered request; its span continues the trace of the client's ``traceparent``."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        ended = time.time_ns()
        begun = ended - _nanoseconds(seconds)
        context = scope.get("state", {}).get("context")
        attributes: dict[str, Any] = {
            "http.request.method": scope["method"],
            "url.path": scope["path"],
            "http.response.status_code": status,
        }
        if context is not None and context.model is not None:
            attributes |= {
                "mmbert.model": context.model,
                "mmbert.texts": context.texts,
                "mmbert.tokens": context.timing.tokens,
            }
        span = self._tracer.start_span(
            f"{scope['method']} {scope['path']}",
            context=self._parents.extract(dict(Headers(scope=scope))),
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=begun,
        )
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        if context is not None and context.timing.tokens:
            inside, at = set_span_in_context(span), begun
            for name in ("tokenization", "queue", "inference"):
                until = at + _nanoseconds(getattr(context.timing, name))
                self._tracer.start_span(name, context=inside, start_time=at).end(until)
                at = until
        span.end(ended)

    def close(self) -> None:
        """Send the remaining spans."""
        self._provider.shutdown()


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
